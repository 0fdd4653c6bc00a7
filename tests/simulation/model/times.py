"""Months and their ends, in UTC."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
MINUTE_MS = 60_000
WEEK_SECONDS = 7 * 86_400


def month_of(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m}"


def month_end_after(at_ms: int) -> int:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0)
    return months_after(round(first.timestamp()) * 1000, 1)


def months_after(start_ms: int, months: int) -> int:
    start = datetime.fromtimestamp(start_ms / 1000, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, monthrange(year, month + 1)[1])
    moved = start.replace(year=year, month=month + 1, day=day)
    return start_ms + round((moved - start).total_seconds()) * 1000
