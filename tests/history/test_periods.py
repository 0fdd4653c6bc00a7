"""Usage by period, in every zone and by both clocks, is what Python sums of the same facts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.facts import USAGE_KINDS, Fact
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.erasures import Erasure, erase
from streams.clickhouse.migrations import migrate
from streams.core.booking import balance
from streams.history.periods import GRANULARITIES, PERIOD, zone_named
from streams.history.usage import UsageCursor, UsageQuestion, usage_page
from tests.clickhouse.test_erasures import wait_for_mutations
from tests.core.builders import START_MS
from tests.history.csv_rows import usage_rows
from tests.history.lives import Life, insert_facts

ZONES = ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York"]
CLOCKS = ["booked_at", "occurred_at"]
# New York's clocks go forward and back; a month's end is near, too.
CHANGES = [datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)]
SINCE, UNTIL = datetime(2024, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
numbers = count()
Sums = dict[str, list[int]]


@pytest.fixture(scope="module")
def history(engine: ClickHouse) -> ClickHouse:
    migrate(engine)
    return engine


def period(at: datetime, granularity: str, zone: ZoneInfo) -> str:
    """The name of the period that a time is in."""
    local = at.astimezone(zone)
    if granularity in ("minute", "15m", "hour"):
        minute = local.minute - local.minute % {"minute": 1, "15m": 15, "hour": 60}[granularity]
        # `replace` keeps `fold`, by which the hour that comes twice is told apart.
        begin = local.replace(minute=minute, second=0, microsecond=0).isoformat()
        return begin.replace("+00:00", "Z")
    day = local.date()
    monday = day - timedelta(days=day.weekday())
    return {"day": day.isoformat(), "week": monday.isoformat(), "month": f"{day:%Y-%m}"}[granularity]


def summed(facts: list[Fact], granularity: str, tz: str, by: str, since: datetime, until: datetime) -> Sums:
    """The uses, quantity and microcredits of each period."""
    sums: Sums = defaultdict(lambda: [0, 0, 0])
    for fact in facts:
        at_ms = fact.booked_at_ms if by == "booked_at" else fact.occurred_at_ms
        at = datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
        if fact.kind in USAGE_KINDS and since <= at < until:
            of_period = sums[period(at, granularity, ZoneInfo(tz))]
            of_period[0] += (fact.quantity > 0) - (fact.quantity < 0)
            of_period[1] += fact.quantity
            of_period[2] -= fact.amount
    return sums


def life_around(history: ClickHouse, seed: int, change: datetime, days_before: int) -> tuple[str, list[Fact]]:
    """The facts of a random life, with corrections, that begins some days before the clocks change, in the history."""
    number = next(numbers)
    life = Life(seed, f"prj_periods_{number}")
    life.live(60)
    shift_ms = int(change.timestamp() * 1000) - days_before * 86_400_000 - START_MS
    facts = [
        msgspec.structs.replace(
            fact, occurred_at_ms=fact.occurred_at_ms + shift_ms, booked_at_ms=fact.booked_at_ms + shift_ms
        )
        for fact in life.facts
        if fact.project == life.project
    ]
    insert_facts(history, facts, partition=number)
    return life.project, facts


@given(
    st.integers(0, 1 << 20),
    st.sampled_from(CHANGES),
    st.integers(0, 20),
    st.one_of(st.none(), st.integers(0, 30 * 86_400_000)),
)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_usage_by_period_is_that_of_its_facts(
    history: ClickHouse, seed: int, change: datetime, days_before: int, from_ms: int | None
) -> None:
    project, facts = life_around(history, seed, change, days_before)
    since = SINCE if from_ms is None else change - timedelta(days=15) + timedelta(milliseconds=from_ms)
    until = UNTIL if from_ms is None else since + timedelta(days=9, milliseconds=from_ms % 900_001)
    for granularity, tz, by in product(GRANULARITIES, ZONES, CLOCKS):
        question = UsageQuestion(project, [], since, until, granularity=granularity, tz=tz, by=by)
        rows, *_ = usage_page(history, question)
        expected = summed(facts, granularity, tz, by, since, until)
        assert {row.group[PERIOD]: list(row[1:4]) for row in rows} == expected
        instants = [group[PERIOD] for group, *_ in rows]
        if granularity in ("minute", "15m", "hour"):
            assert instants == sorted(instants, key=datetime.fromisoformat)
        else:
            assert instants == sorted(instants)


def test_usage_is_rows_ledger_and_balance_also_after_repeats_and_an_erase(history: ClickHouse) -> None:
    number = next(numbers)
    life = Life(11, f"prj_periods_{number}")
    life.live(80)
    facts = [
        msgspec.structs.replace(fact, metadata='{"customer_id":"ann"}')
        if fact.kind == "charge" and fact.source
        else fact
        for fact in life.facts
        if fact.project == life.project
    ]
    balances = {environment: balance(life.account, environment) for environment in ("preview", "production")}
    named = f"SELECT count() FROM facts WHERE project = '{life.project}' AND customer_id = 'ann'"

    def check() -> None:
        amounts = "SELECT toInt64(-sum(amount)) FROM {} WHERE project = '{}' AND kind IN ('charge', 'correction')"
        ((rows,),) = history.query(amounts.format("facts", life.project))
        ((entries,),) = history.query(amounts.format("ledger_entries", life.project))
        usage = f"SELECT toInt64(sum(credits) * 1000000) FROM usage WHERE project = '{life.project}'"
        assert rows == entries == history.query(usage)[0][0]
        for granularity, tz, by in product(["15m", "day", "month"], ZONES, CLOCKS):
            question = UsageQuestion(life.project, [], SINCE, UNTIL, granularity=granularity, tz=tz, by=by)
            assert sum(row.microcredits for row in usage_page(history, question).rows) == rows
        ledger = (
            f"SELECT environment, toInt64(sum(amount)) FROM ledger_entries WHERE project = '{life.project}' GROUP BY 1"
        )
        assert {**dict.fromkeys(balances, 0), **dict(history.query(ledger))} == balances

    for _ in range(2):
        insert_facts(history, facts, partition=number)
    check()
    assert history.query(named)[0][0] > 10
    last = facts[-1]
    erase(history, Erasure(life.project, "", number, last.offset + 1, 0, last.booked_at_ms + 1))
    wait_for_mutations(history)
    assert history.query(named) == [(0,)]
    check()


def test_an_hour_that_comes_twice_is_two_periods(history: ClickHouse) -> None:
    project, facts = life_around(history, 1, CHANGES[1], 0)
    use = next(fact for fact in facts if fact.kind == "charge")
    hour_ms, at_ms = 3_600_000, int(CHANGES[1].timestamp() * 1000)
    project = f"{project}_twice"
    # It is 00:59, 01:00, and 01:00 again in New York.
    for offset, ms in enumerate((at_ms - hour_ms - 1, at_ms - hour_ms, at_ms)):
        insert_facts(history, [msgspec.structs.replace(use, project=project, offset=offset, booked_at_ms=ms)])
    question = UsageQuestion(project, [], SINCE, UNTIL, granularity="hour", tz="America/New_York")
    expected = ["2026-11-01T00:00:00-04:00", "2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00"]
    assert [group[PERIOD] for group, *_ in usage_page(history, question)[0]] == expected
    assert [row[0] for row in usage_rows(history, question)] == expected


def test_pages_of_periods_are_the_whole(history: ClickHouse) -> None:
    project, _ = life_around(history, 2, CHANGES[0], 9)
    question = UsageQuestion(project, ["operation"], SINCE, UNTIL, granularity="hour", tz="Asia/Kathmandu")
    whole, *_ = usage_page(history, question)
    found, after = [], None
    while True:
        rows, cursor, *_ = usage_page(history, replace(question, limit=7, after=after))
        found += rows
        if cursor is None:
            break
        after = UsageCursor.parse(cursor).values
    assert found == whole and len(whole) > 14


@given(st.integers(0, 1 << 20), st.sampled_from(["image", "read"]), st.sampled_from(["job", ""]))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_leaves_what_it_names(history: ClickHouse, seed: int, operation: str, team: str) -> None:
    project, facts = life_around(history, seed, CHANGES[0], 3)
    metadata = msgspec.json.encode({"team": "job"}).decode()
    marked = [msgspec.structs.replace(fact, project=f"{project}_m", metadata=metadata) for fact in facts[::2]]
    insert_facts(history, marked, partition=next(numbers))
    where = (("operation", operation), ("metadata.team", team))
    question = UsageQuestion(f"{project}_m", [], SINCE, UNTIL, granularity="month", where=where)
    kept = [fact for fact in marked if fact.operation == operation and team == "job"]
    expected = summed(kept, "month", "UTC", "booked_at", SINCE, UNTIL)
    assert {row.group[PERIOD]: list(row[1:4]) for row in usage_page(history, question).rows} == expected


def test_periods_of_booking_come_from_a_projection(history: ClickHouse) -> None:
    project, _ = life_around(history, 3, CHANGES[0], 3)
    for granularity, tz in product([each for each in GRANULARITIES if each != "minute"], ZONES):
        question = UsageQuestion(project, ["operation"], SINCE, UNTIL, granularity=granularity, tz=tz)
        sql, parameters = question.sql()
        assert history.query(f"{sql} SETTINGS force_optimize_projection = 1", parameters)


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"granularity": "second"}, "granularity", "minute, 15m, hour, day, week, month"),
        ({"granularity": "day", "group_by": ["hour"]}, "granularity", "leave one of them out"),
        ({"tz": "Asia/Kalkutta"}, "tz", "Asia/Kolkata"),
        ({"tz": "../../etc/passwd"}, "tz", "Asia/Kolkata"),
        ({"tz": "Asia/Kolkata", "group_by": ["day"]}, "group_by", "`granularity`=day"),
        ({"by": "noon"}, "by", "booked_at, occurred_at"),
        ({"where": (("day", "2026-01-01"),)}, "day", "Filter by operation"),
        ({"where": (("metadata.", "1"),)}, "metadata.", "Filter by operation"),
    ],
)
def test_what_cannot_be_asked_is_named_with_its_remedy(change: dict[str, Any], field: str, remedy: str) -> None:
    question = UsageQuestion("p1", ["operation"], SINCE, UNTIL)
    with pytest.raises(Rejection) as refused:
        replace(question, **change).sql()
    assert refused.value.field == field and remedy in refused.value.detail


def test_every_zone_that_is_taken_is_one_of_the_engine(history: ClickHouse) -> None:
    known = {name for (name,) in history.query("SELECT time_zone FROM system.time_zones")}
    taken = set()
    for name in available_timezones():
        try:
            taken.add(zone_named(name).key)
        except Rejection:
            continue
    assert len(taken) > 400 and taken <= known
