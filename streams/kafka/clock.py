"""The machine's clock, in the unit of every record's timestamp. The core reads none: its callers tell it the time."""

from __future__ import annotations

import time


def now_ms() -> int:
    """The time now, in Unix milliseconds, UTC."""
    return time.time_ns() // 1_000_000
