"""Spans of time of the pages: their periods are those of the API's answers, without a gap, in any zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dashboard.spans import (
    COARSER,
    FINER,
    PERIODS_MAX,
    PRESETS,
    granularity_for,
    periods_about,
    periods_in,
    preset_begin,
)
from streams.history.periods import GRANULARITIES, period_begin

ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]
zones = st.sampled_from(ZONES).map(ZoneInfo)
times = st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@given(st.sampled_from(GRANULARITIES), times, st.integers(0, 200), zones)
def test_periods_stand_side_by_side_and_cover_the_span(
    granularity: str, since: datetime, count: int, zone: ZoneInfo
) -> None:
    step = {"minute": 60, "15m": 900, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_600_000}[granularity]
    until = since + timedelta(seconds=step * count + 1)
    periods = periods_in(granularity, since, until, zone)
    keys = [each.key for each in periods]
    assert len(set(keys)) == len(keys)
    for each, later in zip(periods, periods[1:], strict=False):
        assert each.until == later.since
    begins = [_instant(each.since, zone) for each in periods]
    assert begins[0] == period_begin(granularity, since, zone)
    assert all(period_begin(granularity, begin, zone) == begin for begin in begins)
    assert _instant(periods[-1].until, zone) >= until > begins[-1]


def _instant(text: str, zone: ZoneInfo) -> datetime:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)


def test_periods_are_called_as_the_api_calls_them_and_as_people_do() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    since = datetime(2026, 11, 23, 23, tzinfo=UTC)

    def first(granularity: str, days: int) -> tuple[str, str, str]:
        period = periods_in(granularity, since, since + timedelta(days=days), berlin)[0]
        return period.key, period.label, period.name

    assert first("hour", 1) == ("2026-11-24T00:00:00+01:00", "00:00", "Tue 24 Nov 00:00–01:00")
    assert first("hour", 3) == ("2026-11-24T00:00:00+01:00", "24 Nov", "Tue 24 Nov 00:00–01:00")
    assert first("day", 7) == ("2026-11-24", "Tue", "Tue 24 Nov 2026")
    assert first("day", 30) == ("2026-11-24", "24 Nov", "Tue 24 Nov 2026")
    assert first("week", 30) == ("2026-11-23", "23 Nov", "Week of 23 Nov 2026")
    assert first("month", 60) == ("2026-11", "Nov", "November 2026")
    assert periods_in("hour", since, since + timedelta(hours=1), ZoneInfo("UTC"))[0].key == "2026-11-23T23:00:00Z"


def test_the_day_on_which_clocks_go_back_has_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    since = datetime(2026, 10, 25, tzinfo=berlin)
    assert len(periods_in("hour", since.astimezone(UTC), datetime(2026, 10, 26, tzinfo=berlin), berlin)) == 25


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("zone", ZONES)
def test_a_preset_begins_at_a_period_and_shows_few(preset: str, zone: str) -> None:
    now = datetime(2026, 11, 29, 13, 37, tzinfo=UTC)
    since, granularity = preset_begin(preset, now, ZoneInfo(zone)), PRESETS[preset][2]
    periods = periods_in(granularity, since, now, ZoneInfo(zone))
    expected = {"24h": {24, 25}, "7d": {7}, "30d": {30}, "90d": {13, 14}, "1y": {12, 13}}[preset]
    assert len(periods) in expected


@given(times, st.integers(1, 1000 * 86_400))
def test_the_usual_periods_are_few_enough_to_look_at(since: datetime, seconds: int) -> None:
    until = since + timedelta(seconds=seconds)
    assert periods_about(granularity_for(since, until), since, until) <= PERIODS_MAX


def test_each_period_has_one_that_is_finer_down_to_the_minute() -> None:
    granularity, seen = "month", ["month"]
    while granularity in FINER:
        granularity = FINER[granularity]
        seen.append(granularity)
    assert seen == ["month", "day", "hour", "15m", "minute"]
    assert [COARSER[each] for each in ("minute", "15m", "hour", "day", "week")] == [
        "15m",
        "hour",
        "day",
        "week",
        "month",
    ]
