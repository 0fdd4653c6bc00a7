"""The views for analysts count and sum what `/v1/usage` says, whatever happened; usage says what the facts say."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.facts import USAGE_KINDS, Fact
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history.quarters import QUARTER, booked_in_quarters, quarters_within
from streams.history.usage import UsageQuestion, usage_page
from tests.core.builders import CREDIT
from tests.history.lives import insert_facts
from tests.history.test_corrections import FOREVER, Corrected

FORCED = "SETTINGS force_optimize_projection = 1"


def test_views_count_and_sum_what_usage_says(embedded: ClickHouse) -> None:
    life = Corrected(embedded, 7)
    life.live(150)
    events = sorted({fact.event_id for fact in life.facts if fact.kind == "charge" and fact.source})
    for event_id in events[:10]:
        life.correct(event_id, "void")
    assert {"charge", "correction"} <= {fact.kind for fact in life.facts}
    rows, *_ = usage_page(embedded, UsageQuestion(life.project, ["environment", "operation"], *FOREVER))
    assert rows
    said = [(*group.values(), uses, quantity, Decimal(spent) / CREDIT) for group, uses, quantity, spent, *_ in rows]
    found = embedded.query(
        "SELECT environment, operation, sum(uses), sum(quantity), sum(credits) FROM usage "
        "WHERE project = {project:String} GROUP BY environment, operation ORDER BY environment, operation",
        {"project": life.project},
    )
    assert list(found) == said
    charges = [fact for fact in life.facts if fact.kind == "charge"]
    ((count, credits, least),) = embedded.query("SELECT count(), sum(credits), min(credits) FROM charges")
    assert count == sum(fact.quantity > 0 for fact in charges)
    assert credits == -Decimal(sum(fact.amount for fact in charges)) / CREDIT and least >= 0
    assert any(fact.quantity == 0 for fact in charges), "two grants paid for one use"


BASE = datetime(2026, 1, 31, 22, tzinfo=UTC)
moments = st.integers(0, 4 * 60 * 60 * 1000).map(lambda ms: BASE + timedelta(milliseconds=ms))
quarters = st.integers(0, 16).map(lambda number: BASE + number * QUARTER)


def used(offset: int, at: datetime) -> Fact:
    at_ms = int(at.timestamp()) * 1000 + at.microsecond // 1000
    kind = USAGE_KINDS[offset % 7 == 0]
    names = {"operation": f"operation_{offset % 3}", "environment": ("production", "preview")[offset % 2]}
    texts = dict.fromkeys(("grant_id", "reason", "price_version", "source", "job_id", "key_id", "metadata"), "")
    fact: dict[str, Any] = {"offset": offset, "index": 0, "kind": kind, "project": "p1", "balance": 0, **names, **texts}
    quantity = -2 if kind == "correction" else offset % 4
    return Fact(
        **fact, quantity=quantity, amount=-offset, event_id=str(offset), occurred_at_ms=at_ms, booked_at_ms=at_ms
    )


@pytest.fixture(scope="module")
def over_a_months_end(engine: ClickHouse) -> list[Fact]:
    """Four hours of use around the end of a month, some of it exactly on quarter hours."""
    migrate(engine)
    engine.command("TRUNCATE TABLE facts")
    each = timedelta(seconds=225)
    facts = [used(number, BASE + number * each - timedelta(milliseconds=number % 2)) for number in range(64)]
    insert_facts(engine, facts)
    return facts


@given(
    st.one_of(moments, quarters),
    st.one_of(moments, quarters),
    st.lists(
        st.sampled_from(["operation", "environment", "hour", "day", "month", "customer_id"]), unique=True, max_size=5
    ),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_usage_of_any_time_is_that_of_its_facts(
    engine: ClickHouse, over_a_months_end: list[Fact], since: datetime, until: datetime, groups: list[str]
) -> None:
    forms = {"hour": "%Y-%m-%dT%H:00:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
    sums: Counter[tuple[Any, str]] = Counter()
    for fact in over_a_months_end:
        at = datetime.fromtimestamp(fact.booked_at_ms / 1000, UTC)
        if since <= at < until:
            row = {"operation": fact.operation, "environment": fact.environment, "customer_id": ""}
            row |= {name: at.strftime(form) for name, form in forms.items()}
            key = tuple(row[group] for group in groups)
            sums[key, "uses"] += (fact.quantity > 0) - (fact.quantity < 0)
            sums[key, "quantity"] += fact.quantity
            sums[key, "amount"] += fact.amount
    keys = sorted({key for key, _ in sums}) if groups else [()]
    rows, *_ = usage_page(engine, UsageQuestion("p1", groups, since, until))
    assert [(tuple(row.group.values()), *row[1:4]) for row in rows] == [
        (key, sums[key, "uses"], sums[key, "quantity"], -sums[key, "amount"]) for key in keys
    ]


@pytest.mark.parametrize("groups", [[], ["operation"], ["environment", "operation", "day"], ["month"], ["hour"]])
def test_usage_of_whole_quarter_hours_comes_from_a_projection(
    engine: ClickHouse, over_a_months_end: list[Fact], groups: list[str]
) -> None:
    question = UsageQuestion("p1", groups, BASE, BASE + 3 * QUARTER, "production")
    sql, parameters = question.sql()
    assert engine.query(f"{sql} {FORCED}", parameters) == engine.query(
        f"{sql} SETTINGS optimize_use_projections = 0", parameters
    )


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe"])
def test_days_and_hours_of_every_zone_are_made_of_quarter_hours(
    engine: ClickHouse, over_a_months_end: list[Fact], zone: str
) -> None:
    kept, parameters = booked_in_quarters(BASE, BASE + 16 * QUARTER)
    rows = engine.query(
        f"SELECT formatDateTime(t, '%Y-%m-%d %H', {{tz:String}}) AS hour, -sum(amount) FROM facts WHERE project = 'p1' "
        f"AND {kept} GROUP BY hour ORDER BY hour {FORCED}",
        {**parameters, "tz": zone},
    )
    sums: Counter[str] = Counter()
    for fact in over_a_months_end:
        at = datetime.fromtimestamp(fact.booked_at_ms / 1000, ZoneInfo(zone))
        if at >= BASE:
            sums[at.strftime("%Y-%m-%d %H")] -= fact.amount
    assert dict(rows) == sums


@given(moments, moments)
def test_whole_quarter_hours_are_within_their_time(since: datetime, until: datetime) -> None:
    found = quarters_within(since, until)
    if found is None:
        assert until - since < 2 * QUARTER
    else:
        begin, end = found
        assert since <= begin < end <= until and begin - since < QUARTER and until - end < QUARTER
        assert {at.minute % 15 + at.second + at.microsecond for at in found} == {0}
