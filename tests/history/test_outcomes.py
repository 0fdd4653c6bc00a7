"""Refused and limited requests stand beside what was charged, counted one by one, and cost nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import msgspec
import pytest

from schemas.facts import LIMITED_AT_EDGE, USAGE_KINDS, Fact
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history.fact_words import code_of, refuses_request
from streams.history.usage import OUTCOMES, UsageQuestion, usage_page
from tests.history.lives import insert_facts
from tests.history.test_periods import CHANGES, SINCE, UNTIL, life_around

Sums = dict[tuple[str, ...], list[int]]


def outcome_of(fact: Fact) -> str:
    if fact.kind in USAGE_KINDS:
        return "charged"
    if not refuses_request(fact):
        return ""
    return "limited" if code_of(fact) == "rate_limited" else "refused"


def requests_of(fact: Fact) -> int:
    if fact.reason == LIMITED_AT_EDGE:
        return fact.quantity
    return (fact.quantity > 0) - (fact.quantity < 0)


def summed(facts: list[Fact]) -> Sums:
    sums: Sums = defaultdict(lambda: [0, 0, 0])
    for fact in facts:
        if outcome := outcome_of(fact):
            of_group = sums[(outcome, fact.operation)]
            for number, more in enumerate((requests_of(fact), fact.quantity, -fact.amount)):
                of_group[number] += more
    return sums


@pytest.fixture(scope="module")
def lived(engine: ClickHouse) -> tuple[str, list[Fact]]:
    """A project with uses that were charged, refused, limited here and at the edge, and a month that was not paid."""
    migrate(engine)
    project, facts = life_around(engine, 11, CHANGES[0], 9)
    use = next(fact for fact in facts if fact.kind == "charge" and fact.source)
    plain = msgspec.structs.replace(use, kind="refusal", amount=0, quantity=2, reason="out_of_credits", metadata="")
    changes: list[dict[str, object]] = [
        {},
        {"reason": "plan_required", "operation": "video"},
        {"reason": "rate_limited"},
        {"reason": LIMITED_AT_EDGE, "source": "", "quantity": 7},
        {"source": "", "quantity": 0, "operation": "item.domain"},
    ]
    more = [
        msgspec.structs.replace(plain, offset=use.offset + 1_000_000 + n, **change) for n, change in enumerate(changes)
    ]
    insert_facts(engine, more, partition=1_000)
    return project, [*facts, *more]


def test_requests_are_counted_by_what_became_of_them(engine: ClickHouse, lived: tuple[str, list[Fact]]) -> None:
    project, facts = lived
    expected = summed(facts)
    assert {outcome for outcome, _ in expected} == set(OUTCOMES)
    question = UsageQuestion(project, ["outcome", "operation"], SINCE, UNTIL)
    rows = usage_page(engine, question).rows
    found = {tuple(row.group.values()): list(row[1:4]) for row in rows}
    assert found == expected
    assert ("refused", "item.domain") not in found, "an unpaid month is no request"
    charged = {key[1]: sums for key, sums in found.items() if key[0] == "charged"}
    plain = usage_page(engine, replace(question, group_by=["operation"])).rows
    assert {row.group["operation"]: list(row[1:4]) for row in plain} == charged, "as long as nobody asks for outcomes"
    for outcome in OUTCOMES:
        for by, group_by in (("booked_at", ["operation"]), ("occurred_at", ["operation", "customer_id"])):
            asked = replace(question, group_by=group_by, by=by, where=(("outcome", outcome),))
            sums = [sum(each) for each in zip(*(row[1:4] for row in usage_page(engine, asked).rows), strict=True)]
            of_outcome = [value for key, value in found.items() if key[0] == outcome]
            assert sums == [sum(each) for each in zip(*of_outcome, strict=True)]


def test_outcomes_by_period_come_from_a_projection(engine: ClickHouse, lived: tuple[str, list[Fact]]) -> None:
    project, _ = lived
    asked = UsageQuestion(project, ["outcome", "operation"], SINCE, UNTIL, granularity="day", tz="Asia/Kathmandu")
    for question in (asked, replace(asked, compare=True), replace(asked, where=(("outcome", "limited"),), top=1)):
        sql, parameters = question.sql()
        forced = engine.query(f"{sql} SETTINGS force_optimize_projection = 1", parameters)
        assert forced and forced == engine.query(f"{sql} SETTINGS optimize_use_projections = 0", parameters)


def test_an_outcome_that_there_is_not_is_named() -> None:
    with pytest.raises(Rejection, match="charged, refused, limited") as refused:
        UsageQuestion("p1", [], SINCE, UNTIL, where=(("outcome", "lost"),)).sql()
    assert refused.value.field == "outcome"
