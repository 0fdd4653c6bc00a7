"""Times are kept in Unix milliseconds, UTC; here are their units, and how to read one."""

from __future__ import annotations

from datetime import UTC, datetime

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def in_utc(at: datetime) -> datetime:
    """The time with its zone, which is UTC where it came without one."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def utc(at_ms: int) -> datetime:
    """The datetime, in UTC, of a time in Unix milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)
