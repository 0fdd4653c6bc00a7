"""Times as they are kept: Unix milliseconds, UTC."""

from __future__ import annotations

from datetime import UTC, datetime

HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def utc(at_ms: int) -> datetime:
    """The time of these Unix milliseconds, with its zone, which is UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)
