"""Times that a caller gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.problems import Rejection

# What ClickHouse can compare with, and no arithmetic on it overflows.
_YEARS = range(1970, 2200)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def aware(at: datetime, field: str) -> datetime:
    """The time itself. Raises Rejection where it has no zone, or is no time that anything can be about."""
    if at.tzinfo is None:
        raise Rejection("invalid_request", f"`{field}` has no zone; end it with Z", field)
    if at.year not in _YEARS:
        raise Rejection("invalid_request", f"`{field}` is out of range", field)
    return at


def unix_ms(at: datetime, field: str) -> int:
    """A time in Unix milliseconds, rounded down. Raises Rejection as `aware` does."""
    return (aware(at, field) - _EPOCH) // timedelta(milliseconds=1)
