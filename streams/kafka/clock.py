"""The machine's clock, in the unit of every record's timestamp. The core has none: it is told the time."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Now, in Unix milliseconds, UTC."""
    return time.time_ns() // 1_000_000
