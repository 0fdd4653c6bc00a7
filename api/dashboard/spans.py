"""Spans of time that a page looks at, and the periods in them: how they are called, and where a click on one leads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from streams.history.periods import period_begin, period_named

# What one can choose without a calendar: its label, its whole days before today (None is 24 hours), its periods.
PRESETS: Final = {
    "24h": ("24 h", None, "hour"),
    "7d": ("7 d", 6, "day"),
    "30d": ("30 d", 29, "day"),
    "90d": ("90 d", 89, "week"),
    "1y": ("1 y", 364, "month"),
}
PERIODS_MAX: Final = 400
FINER: Final = {"month": "day", "week": "day", "day": "hour", "hour": "15m", "15m": "minute"}
COARSER: Final = {finer: coarser for coarser, finer in FINER.items() if coarser != "month"} | {"week": "month"}
_STEPS: Final = {
    "minute": timedelta(minutes=1),
    "15m": timedelta(minutes=15),
    "hour": timedelta(hours=1),
    # As far as into the next one, wherever the clocks are changed.
    "day": timedelta(hours=36),
    "week": timedelta(days=7, hours=12),
    "month": timedelta(days=32),
}
# The longest time that is shown by each unless another is asked for.
_SHOWN_BY: Final = (("minute", 2 / 24), ("15m", 1), ("hour", 4), ("day", 62), ("week", 370))


@dataclass(frozen=True, slots=True)
class ShownPeriod:
    """A period as charts show it: the API's `key` of it, the `label` under its bar, its whole `name`, and its begin and
    end as the API takes them."""

    key: str
    label: str
    name: str
    since: str
    until: str


def preset_begin(preset: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The begin of a preset span that ends now: midnight in the zone, or a full hour."""
    days = PRESETS[preset][1]
    if days is None:
        return period_begin("hour", now - timedelta(hours=23), zone)
    return datetime.combine(now.astimezone(zone).date() - timedelta(days=days), time(), zone).astimezone(UTC)


def midnight(day: str | None, name: str, zone: ZoneInfo) -> str | None:
    """The begin, in a zone, of a day that a form gave, or the end of the day that `to` names; what is no day is for the
    API, which says so."""
    with suppress(ValueError, OverflowError):
        if day:
            begin = date.fromisoformat(day) + timedelta(days=int(name == "to"))
            return datetime.combine(begin, time(), zone).astimezone(UTC).isoformat()
    return day


def granularity_for(since: datetime, until: datetime) -> str:
    """The granularity that shows a span of time in a number of bars that one can look at."""
    days = (until - since) / timedelta(days=1)
    return next((name for name, most in _SHOWN_BY if days <= most), "month")


def periods_about(granularity: str, since: datetime, until: datetime) -> int:
    """About how many periods there are in [since, until)."""
    return int((until - since) / _STEPS[granularity]) + 1


def periods_in(granularity: str, since: datetime, until: datetime, zone: ZoneInfo) -> list[ShownPeriod]:
    """The periods that touch [since, until), in order."""
    begins = list(_begins(granularity, since, until, zone))
    days = (until - since) / timedelta(days=1)
    return [_shown(granularity, begin, end, zone, days) for begin, end in zip(begins, begins[1:], strict=False)]


def _begins(granularity: str, since: datetime, until: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """The begins of the periods, and of the one after the last."""
    at = period_begin(granularity, since, zone)
    yield at
    while at < until:
        at = period_begin(granularity, at + _STEPS[granularity], zone)
        yield at


def _shown(granularity: str, begin: datetime, end: datetime, zone: ZoneInfo, days: float) -> ShownPeriod:
    here, there = begin.astimezone(zone), end.astimezone(zone)
    if granularity in ("minute", "15m", "hour"):
        key = period_named(granularity, begin.strftime("%Y-%m-%dT%H:%M:%SZ"), zone.key)
        # Of many days their midnights are told.
        label = f"{here:%H:%M}" if days <= 2 else _day(here.date()) if here.time() == time() else ""
        name = f"{here:%a} {_day(here.date())} {here:%H:%M}–{there:%H:%M}"
        return ShownPeriod(key, label, name, here.isoformat(), there.isoformat())
    since, until = here.date().isoformat(), there.date().isoformat()
    if granularity == "month":
        return ShownPeriod(since[:7], f"{here:%b}", f"{here:%B %Y}", since, until)
    if granularity == "week":
        return ShownPeriod(since, _day(here.date()), f"Week of {_day(here.date())} {here.year}", since, until)
    label = f"{here:%a}" if days <= 8 else _day(here.date())
    return ShownPeriod(since, label, f"{here:%a} {_day(here.date())} {here.year}", since, until)


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"
