"""Periods of usage: from minutes to months of a time zone, and the time before one, as long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from schemas.problems import Rejection

# Days, weeks and months begin at midnight of the zone, and are named by their date there.
_DATES: Mapping[str, str] = {
    "day": "toString(toDate({at}, {{tz:String}}) + {shift})",
    "week": "toString(toStartOfWeek({at}, 1, {{tz:String}}) + {shift})",
    "month": "formatDateTime(addMonths(toStartOfMonth({at}, {{tz:String}}), {shift}), '%Y-%m')",
}
# Shorter periods begin when a clock of the zone shows a full hour, quarter or minute. An hour that comes twice,
# in autumn, is two periods: they are told apart, and put in order, by their instant.
_SECONDS: Mapping[str, int] = {"minute": 60, "15m": 900, "hour": 3_600}
_INSTANT = (
    "toDateTime(toUnixTimestamp({at}) - positiveModulo(toUnixTimestamp({at}) + "
    "timeZoneOffset(toTimeZone({at}, {{tz:String}})), {seconds}), 'UTC')"
)
_TEXT_OF_INSTANT = "formatDateTime({instant}, '%Y-%m-%dT%H:%i:%SZ', 'UTC')"
GRANULARITIES = (*_SECONDS, *_DATES)
# The name of the dimension that has the periods of a granularity.
PERIOD = "period"
_MONTHS = 12


@cache
def _zones() -> frozenset[str]:
    # `localtime` is this machine's own, which the engine does not know.
    return frozenset(available_timezones()) - {"localtime"}


def zone_named(tz: str) -> ZoneInfo:
    """The IANA zone of a name. Raises Rejection where there is none."""
    if tz not in _zones():
        what = f"No time zone {tz[:80]!r}; name one of the IANA database, such as Asia/Kolkata or UTC"
        raise Rejection("invalid_request", what, "tz")
    return ZoneInfo(tz)


def period_sql(granularity: str, at: str, shift: int = 0) -> str:
    """SQL for the period of a granularity that the time `at`, an SQL expression, is in: text, in the order of time.
    `{tz:String}` is the zone. `shift` names a period so many days later, for a month months, for shorter ones
    seconds."""
    key = period_key_sql(granularity, at, shift)
    return key if granularity in _DATES else _TEXT_OF_INSTANT.format(instant=key)


def period_key_sql(granularity: str, at: str, shift: int = 0) -> str:
    """SQL for what stands for the period that `period_sql` gives, in the same order: its begin, where it is shorter
    than a day, which costs the engine less to group and sort by than a text; otherwise the text."""
    if granularity in _DATES:
        return _DATES[granularity].format(at=at, shift=shift)
    at = f"({at} + toIntervalSecond({shift}))" if shift else at
    return _INSTANT.format(at=at, seconds=_SECONDS[granularity])


def period_named(granularity: str, period: str, tz: str) -> str:
    """A period as its zone names it, of the text that `period_sql` gives: a date, or a time with its offset."""
    if granularity not in _SECONDS or tz == "UTC":
        return period
    return datetime.fromisoformat(period).astimezone(zone_named(tz)).isoformat()


def named_sql(granularity: str, key: str, tz: str) -> str:
    """SQL for what `period_named` gives, of what `period_key_sql` gives; `{tz:String}` is the zone."""
    if granularity not in _SECONDS:
        return key
    # Many rows in a row are of one period: each block's periods are named once.
    instant = f"toLowCardinality({key})"
    if tz == "UTC":
        return f"CAST({_TEXT_OF_INSTANT.format(instant=instant)} AS String)"
    local = f"formatDateTime({instant}, '%Y-%m-%dT%H:%i:%S%z', {{tz:String}})"
    return f"concat(substring({local}, 1, 22), ':', substring({local}, 23))"


def span_before(since: datetime, until: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The time before [since, until), as long: of whole months of the zone as many months, of whole days as many days,
    and otherwise as many seconds."""
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    if until <= since:
        return since, since
    first, end = since.astimezone(zone).date(), until.astimezone(zone).date()
    if _begin(first, zone) != since or _begin(end, zone) != until:
        return since - (until - since), since
    if first.day == end.day == 1:
        return _begin(_month_of(_months(first) - (_months(end) - _months(first))), zone), since
    return _begin(first - (end - first), zone), since


def period_begin(granularity: str, at: datetime, zone: ZoneInfo) -> datetime:
    """The begin of the period of a granularity that a time is in, UTC."""
    if granularity in _SECONDS:
        return datetime.fromtimestamp(_first_second(at, granularity, zone), UTC)
    day = at.astimezone(zone).date()
    if granularity == "week":
        day -= timedelta(days=day.weekday())
    return _begin(day.replace(day=1) if granularity == "month" else day, zone)


def shift_between(granularity: str, earlier: datetime, later: datetime, zone: ZoneInfo) -> int:
    """How far the period of `later` is behind that of `earlier`, as `period_sql` takes it."""
    if granularity in _SECONDS:
        return _first_second(later, granularity, zone) - _first_second(earlier, granularity, zone)
    days = [at.astimezone(zone).date() for at in (earlier, later)]
    if granularity == "month":
        return _months(days[1]) - _months(days[0])
    if granularity == "week":
        days = [day - timedelta(days=day.weekday()) for day in days]
    return (days[1] - days[0]).days


def _first_second(at: datetime, granularity: str, zone: ZoneInfo) -> int:
    second, offset = int(at.timestamp()), at.astimezone(zone).utcoffset()
    assert offset is not None
    return second - (second + int(offset.total_seconds())) % _SECONDS[granularity]


def _begin(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _months(day: date) -> int:
    return day.year * _MONTHS + day.month - 1


def _month_of(months: int) -> date:
    return date(months // _MONTHS, months % _MONTHS + 1, 1)
