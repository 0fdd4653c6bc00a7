"""The time before stands beside each group, matched by its values, and in periods by their place in time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.facts import USAGE_KINDS, Fact
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history.periods import PERIOD, span_before
from streams.history.usage import UsageQuestion, usage_page
from streams.history.usage_files import columns_of
from tests.history.csv_rows import usage_rows
from tests.history.lives import insert_facts
from tests.history.test_periods import CHANGES, life_around, period

NEW_YORK, KATHMANDU = ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu")
Sums = dict[tuple[str, ...], list[int]]


def at(day: str, zone: ZoneInfo, clock: str = "00:00") -> datetime:
    # In UTC, since Python takes no time in a gap of a zone for equal to one of another zone.
    return datetime.combine(date.fromisoformat(day), time.fromisoformat(clock), zone).astimezone(UTC)


@pytest.mark.parametrize("zone", [NEW_YORK, KATHMANDU, ZoneInfo("UTC"), ZoneInfo("Africa/Cairo")])
@pytest.mark.parametrize(
    ("since", "until", "before"),
    [
        ("2026-03-01", "2026-04-01", "2026-02-01"),
        ("2026-01-01", "2026-04-01", "2025-10-01"),
        ("2024-02-01", "2024-03-01", "2024-01-01"),
        ("2026-03-08", "2026-03-09", "2026-03-07"),
        ("2026-11-02", "2026-11-09", "2026-10-26"),
        ("2026-03-01", "2026-03-15", "2026-02-15"),
        ("2026-04-24", "2026-04-25", "2026-04-23"),
    ],
)
def test_the_time_before_is_as_long_in_the_zones_calendar(since: str, until: str, before: str, zone: ZoneInfo) -> None:
    assert span_before(at(since, zone), at(until, zone), zone) == (at(before, zone), at(since, zone))


def test_the_time_before_any_other_time_is_as_many_seconds() -> None:
    begin, end = at("2026-03-08", NEW_YORK, "01:30"), at("2026-03-09", NEW_YORK)
    (before, until), length = span_before(begin, end, NEW_YORK), end - begin
    assert until == begin and until - before == length == timedelta(hours=21.5)
    assert span_before(end, begin, NEW_YORK) == (end, end)


def summed(facts: list[Fact], since: datetime, until: datetime, granularity: str | None, zone: ZoneInfo) -> Sums:
    """The sums of each (period, operation)."""
    sums: Sums = defaultdict(lambda: [0, 0, 0])
    for fact in facts:
        booked_at = datetime.fromtimestamp(fact.booked_at_ms // 1000, UTC)
        if fact.kind in USAGE_KINDS and since <= booked_at < until:
            of_group = sums[(*([period(booked_at, granularity, zone)] if granularity else []), fact.operation)]
            for number, more in enumerate(((fact.quantity > 0) - (fact.quantity < 0), fact.quantity, -fact.amount)):
                of_group[number] += more
    return sums


def periods_from(since: datetime, until: datetime, granularity: str, zone: ZoneInfo) -> list[str]:
    """The names of the periods of a time, in order."""
    step, begin, end = timedelta(minutes=15), since.astimezone(UTC), until.astimezone(UTC)
    return list(dict.fromkeys(period(begin + n * step, granularity, zone) for n in range(-(-(end - begin) // step))))


@pytest.fixture(scope="module")
def history(engine: ClickHouse) -> ClickHouse:
    migrate(engine)
    return engine


@given(
    st.integers(0, 1 << 20),
    st.sampled_from(CHANGES),
    st.sampled_from([NEW_YORK, KATHMANDU]),
    st.sampled_from([("month", 31), ("days", 5), ("minutes", 0)]),
)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_time_before_is_beside_each_group_and_period(
    history: ClickHouse, seed: int, change: datetime, zone: ZoneInfo, length: tuple[str, int]
) -> None:
    project, facts = life_around(history, seed, change, 12)
    day = change.astimezone(zone).date()
    since = datetime.combine(day - timedelta(days=3), time(1, 20), zone)
    until = since + timedelta(days=4, minutes=70)
    if length[0] != "minutes":
        first = day.replace(day=1) if length[0] == "month" else day
        end = (first + timedelta(days=31)).replace(day=1) if length[0] == "month" else first + timedelta(days=5)
        since, until = (datetime.combine(each, time(), zone) for each in (first, end))
    before = span_before(since, until, zone)
    for granularity in (None, "hour", "day", "week", "month"):
        question = UsageQuestion(
            project, ["operation"], since, until, granularity=granularity, tz=zone.key, compare=True
        )
        now, then = (summed(facts, *span, granularity, zone) for span in ((since, until), before))
        if granularity is not None:
            names = periods_from(since, until + timedelta(days=40 if granularity == "month" else 8), granularity, zone)
            beside = dict(zip(periods_from(*before, granularity, zone), names, strict=False))
            then = {(beside[key[0]], *key[1:]): sums for key, sums in then.items()}
        expected = {key: (now.get(key, [0, 0, 0]), then.get(key, [0, 0, 0])) for key in {**now, **then}}
        rows = usage_page(history, question).rows
        assert {tuple(row.group.values()): (list(row[1:4]), list(row.previous or ())) for row in rows} == expected
        assert len(rows) == len(expected) > 0
        of_file = [dict(zip(columns_of(question), row, strict=True)) for row in usage_rows(history, question)]
        assert [(row["uses"], row["previous_uses"]) for row in of_file] == [
            (str(row.uses), str((row.previous or row).uses)) for row in rows
        ]
        folded = usage_page(history, replace(question, top=1)).rows
        for number in (0, 1, 2):
            assert sum((row.previous or (0, 0, 0))[number] for row in folded) == sum(s[number] for s in then.values())
        sql, parameters = question.sql()
        if length[0] != "minutes":
            assert history.query(f"{sql} SETTINGS force_optimize_projection = 1", parameters)


def test_periods_of_a_longer_time_before_go_on_after_the_end(history: ClickHouse) -> None:
    project, facts = life_around(history, 5, CHANGES[0], 3)
    use, project = next(fact for fact in facts if fact.kind == "charge"), f"{project}_january"
    for day in (1, 28, 31):
        at_ms = round(datetime(2026, 1, day, 12, tzinfo=UTC).timestamp() * 1000)
        insert_facts(history, [msgspec.structs.replace(use, project=project, offset=day, booked_at_ms=at_ms)])
    february = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    rows = usage_page(history, UsageQuestion(project, [], *february, granularity="day", compare=True)).rows
    assert [row.group[PERIOD] for row in rows] == ["2026-02-01", "2026-02-28", "2026-03-03"]
    assert {(row.uses, row.previous and row.previous.uses) for row in rows} == {(0, 1)}


def test_what_does_not_go_with_compare_is_named() -> None:
    question = UsageQuestion("p1", ["day"], CHANGES[0], CHANGES[1], compare=True)
    with pytest.raises(Rejection, match="`granularity`=day") as refused:
        question.sql()
    assert refused.value.field == "compare"
