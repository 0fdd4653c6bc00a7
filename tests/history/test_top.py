"""The top groups of usage, and all others as one: whatever they are called, they sum to the whole."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.facts import Fact
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history.usage import OTHER, UsageOfGroup, UsageQuestion, usage_page
from streams.history.usage_files import columns_of
from tests.history.csv_rows import usage_rows
from tests.history.lives import insert_facts

BEGIN = datetime(2026, 2, 27, 23, tzinfo=UTC)
FOREVER = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
DAYS = [f"2026-02-{day}" for day in (27, 28)] + ["2026-03-01"]
numbers = count()
# The customer, the operation, the day, and the microcredits of a use. Some are called as the others are.
uses = st.tuples(
    st.sampled_from(["acme", "", OTHER, "Other", "globex", "(other)", "'"]),
    st.sampled_from(["image", "read"]),
    st.integers(0, 2),
    st.integers(-3, 10),
)
Sums = dict[tuple[str, ...], list[int]]


@pytest.fixture(scope="module")
def history(engine: ClickHouse) -> ClickHouse:
    migrate(engine)
    return engine


def used(project: str, number: int, customer: str, operation: str, day: int, microcredits: int) -> Fact:
    at_ms = round((BEGIN + timedelta(days=day)).timestamp() * 1000)
    texts = dict.fromkeys(("grant_id", "reason", "price_version", "source", "job_id", "key_id"), "")
    fact: dict[str, Any] = {"index": 0, "environment": "production", "quantity": 1, "balance": 0, **texts}
    return Fact(
        **fact,
        offset=number,
        kind="charge",
        project=project,
        operation=operation,
        amount=-microcredits,
        event_id=str(number),
        occurred_at_ms=at_ms,
        booked_at_ms=at_ms,
        metadata=msgspec.json.encode({"customer_id": customer}).decode(),
    )


def expected(facts: list[tuple[str, str, int, int]], group_by: list[str], top: int, by_day: bool) -> Sums:
    """The sums of each row, in order, by (day, group's values…, whether it is all others)."""
    sums: Sums = defaultdict(lambda: [0, 0, 0])
    whole: dict[tuple[str, ...], int] = defaultdict(int)
    for customer, operation, day, microcredits in facts:
        values = tuple({"customer_id": customer, "operation": operation}[name] for name in group_by)
        whole[values] += microcredits
        of_group = sums[(DAYS[day] if by_day else "", *values)]
        for number, more in enumerate((1, 1, microcredits)):
            of_group[number] += more
    placed = sorted(whole, key=lambda values: (-whole[values], [value.encode() for value in values]))
    rows: Sums = {}
    for day_name in sorted({key[0] for key in sums}):
        for values in placed[:top]:
            if (day_name, *values) in sums:
                rows[(day_name, *values, "0")] = sums[(day_name, *values)]
        rest = [sums[(day_name, *values)] for values in placed[top:] if (day_name, *values) in sums]
        if rest:
            rows[(day_name, *[OTHER] * len(group_by), "1")] = [sum(each) for each in zip(*rest, strict=True)]
    return rows


def key_of(row: UsageOfGroup, by_day: bool) -> tuple[str, ...]:
    values = list(row.group.values())
    return (*(values if by_day else ["", *values]), str(int(row.is_other)))


@given(
    st.lists(uses, min_size=1, max_size=40),
    st.sampled_from([["customer_id"], ["operation"], ["customer_id", "operation"]]),
    st.integers(1, 4),
)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_top_groups_and_all_others_are_those_of_the_facts(
    history: ClickHouse, made: list[tuple[str, str, int, int]], group_by: list[str], top: int
) -> None:
    project = f"prj_top_{next(numbers)}"
    insert_facts(history, [used(project, number, *each) for number, each in enumerate(made)], partition=next(numbers))
    for granularity in (None, "day"):
        question = UsageQuestion(project, group_by, *FOREVER, granularity=granularity, top=top)
        rows, cursor, *_ = usage_page(history, replace(question, limit=1_000))
        found = {key_of(row, granularity is not None): list(row[1:4]) for row in rows}
        assert cursor is None and len(found) == len(rows)
        assert list(found.items()) == list(expected(made, group_by, top, granularity is not None).items())
        of_file = usage_rows(history, question)
        assert [row[-4:-1] for row in of_file] == [[str(int(row.is_other)), *map(str, row[1:3])] for row in rows]
        assert columns_of(question) == [*question.columns, "other", "uses", "quantity", "credits"]
        whole, *_ = usage_page(history, replace(question, top=None))
        for number in (1, 2, 3):
            assert sum(row[number] for row in rows) == sum(row[number] for row in whole)


def test_top_groups_come_from_a_projection(history: ClickHouse) -> None:
    project = f"prj_top_{next(numbers)}"
    insert_facts(history, [used(project, number, "acme", "read", 0, 1) for number in range(3)])
    for granularity in (None, "day"):
        question = UsageQuestion(project, ["operation"], *FOREVER, granularity=granularity, top=1)
        sql, parameters = question.sql()
        assert history.query(f"{sql} SETTINGS force_optimize_projection = 1", parameters)


def test_what_does_not_go_with_top_is_named(history: ClickHouse) -> None:
    asked = UsageQuestion("p1", ["operation"], *FOREVER, top=1)
    for change, field in (
        ({"top": 0}, "top"),
        ({"top": 101}, "top"),
        ({"after": ["read"]}, "cursor"),
        ({"group_by": []}, "top"),
    ):
        with pytest.raises(Rejection) as refused:
            replace(asked, **change).sql()  # type: ignore[arg-type]
        assert refused.value.field == field
    project = f"prj_top_{next(numbers)}"
    insert_facts(history, [used(project, day, "acme", "read", day, 1) for day in range(3)], partition=next(numbers))
    with pytest.raises(Rejection, match="longer periods") as refused:
        usage_page(history, replace(asked, project=project, granularity="day", limit=2))
    assert refused.value.code == "too_much_history"
