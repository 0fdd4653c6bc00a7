"""Quarter hours: questions about whole quarters of an hour are answered from sums that ClickHouse keeps
(`sums_by_project`, `sums_by_operation`), and what is left of their time at both ends is read row by row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

QUARTER = timedelta(minutes=15)


def quarters_within(since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
    """The whole quarter hours of [since, until), as the first's begin and the last's end; None where there is none."""
    begin, end = _floor(since + QUARTER - timedelta(microseconds=1)), _floor(until)
    return (begin, end) if begin < end else None


def booked_in_quarters(begin: datetime, end: datetime, prefix: str = "") -> tuple[str, dict[str, Any]]:
    """The SQL condition that a fact was booked in [begin, end), both on a quarter hour, and its parameters, whose names
    begin with `prefix`. A projection serves it; the months outside are not looked at, which a condition on `t` alone
    does not see to."""
    assert _floor(begin) == begin and _floor(end) == end, "quarter hours"
    sql = (
        f"t >= {{{prefix}quarter_from:DateTime('UTC')}} AND t < {{{prefix}quarter_to:DateTime('UTC')}} "
        f"AND _partition_id >= {{{prefix}month_from:String}} AND _partition_id <= {{{prefix}month_to:String}}"
    )
    last = end - timedelta(microseconds=1)
    bounds = {"quarter_from": begin, "quarter_to": end, "month_from": _month(begin), "month_to": _month(last)}
    return sql, {f"{prefix}{name}": bound for name, bound in bounds.items()}


def _month(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y%m}"


def _floor(at: datetime) -> datetime:
    at = at.astimezone(UTC)
    return at.replace(minute=at.minute - at.minute % 15, second=0, microsecond=0)
