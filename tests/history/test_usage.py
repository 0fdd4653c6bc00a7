"""Usage comes in pages that together are the whole, whatever the groups are called, on the real engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.entries import LiveEntry
from schemas.facts import Fact
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import limits_of_callers
from streams.clickhouse.migrations import migrate
from streams.clickhouse.promoted import value_of
from streams.core.erasures import customer_of
from streams.history.usage import CURSOR_CHARS_MAX, UsageCursor, UsageOfGroup, UsageQuestion, usage_page
from streams.history.usage_files import usage_parquet
from streams.settings import Settings
from tests.history.csv_rows import usage_rows
from tests.history.lives import insert_facts

AT_MS = 1_760_000_000_000
SINCE, UNTIL = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
offsets = count()

values = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["", "'", "\\", "\t", "\n", "\0", "a'b\\c\td", "NULL", "{x:String}", "é ✓ 😀", "\\N", "%s", ","]),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.none(),
)


def used(project: str, metadata: dict[str, object], environment: str = "production") -> Fact:
    offset = next(offsets)
    return Fact(
        offset=offset,
        index=0,
        kind="charge",
        project=project,
        environment=environment,
        operation="read",
        quantity=1,
        amount=0,
        balance=0,
        grant_id="",
        reason="",
        price_version="",
        job_id="",
        key_id="",
        source="/tests",
        event_id=str(offset),
        occurred_at_ms=AT_MS,
        booked_at_ms=AT_MS,
        metadata=msgspec.json.encode(metadata).decode(),
    )


def pages(clickhouse: ClickHouse, question: UsageQuestion, limit: int) -> list[list[UsageOfGroup]]:
    found, after = [], None
    while True:
        rows, cursor, *_ = usage_page(clickhouse, replace(question, limit=limit, after=after))
        found.append(rows)
        if cursor is None:
            return found
        assert len(cursor) <= CURSOR_CHARS_MAX
        place = UsageCursor.parse(cursor)
        question.check(place)
        after = place.values


@pytest.fixture(scope="module")
def history(engine: ClickHouse) -> ClickHouse:
    migrate(engine)
    return engine


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), values), min_size=1, max_size=25), st.integers(1, 10))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_of_usage_are_the_whole_in_order(history: ClickHouse, uses: list[dict[str, object]], limit: int) -> None:
    project = f"prj_{next(offsets)}"
    insert_facts(history, [used(project, metadata) for metadata in uses])
    question = UsageQuestion(project, ["metadata.a", "metadata.b", "operation"], SINCE, UNTIL)
    whole, cursor, *_ = usage_page(history, question)
    assert cursor is None
    found = pages(history, question, limit)
    assert all(len(page) == limit for page in found[:-1])
    assert [row for page in found for row in page] == whole
    assert sum(row[1] for row in whole) == len(uses)
    of_file = usage_rows(history, question)
    assert of_file == [[*group.values(), str(count), str(quantity), "0"] for group, count, quantity, *_ in whole]


def test_the_longest_names_fit_a_cursor(history: ClickHouse) -> None:
    project = f"prj_{next(offsets)}"
    keys = [f"k{number}" for number in range(5)]
    for letter in "😀", "\0":
        insert_facts(history, [used(project, dict.fromkeys(keys, f"{letter * 511}{number}")) for number in range(3)])
    found = pages(history, UsageQuestion(project, [f"metadata.{key}" for key in keys], SINCE, UNTIL), 1)
    assert len(found) == 6


def test_usage_of_one_environment_leaves_the_other_out(history: ClickHouse) -> None:
    project = f"prj_{next(offsets)}"
    insert_facts(history, [used(project, {}, "production"), used(project, {}, "preview"), used(project, {}, "preview")])
    rows, *_ = usage_page(history, UsageQuestion(project, ["environment"], SINCE, UNTIL, "preview"))
    assert [(row[0], row[1]) for row in rows] == [({"environment": "preview"}, 2)]
    found = usage_rows(history, UsageQuestion(project, ["environment"], SINCE, UNTIL, "preview"))
    assert found == [["preview", "2", "2", "0"]]


@pytest.mark.parametrize(
    "change", [{"project": "prj_b"}, {"group_by": ["day"]}, {"since": UNTIL}, {"environment": "preview"}]
)
def test_a_cursor_is_of_its_own_question_only(change: dict[str, object]) -> None:
    question = UsageQuestion("prj_a", ["operation"], SINCE, UNTIL)
    cursor = UsageCursor.parse(question.cursor_after(["image"]))
    question.check(cursor)
    with pytest.raises(Rejection) as refused:
        replace(question, **change).check(cursor)  # type: ignore[arg-type]
    assert refused.value.field == "cursor"


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Africa/Cairo", "2026-04-24"),
        ("America/Havana", "2026-11-01"),
        ("America/Santiago", "2026-09-06"),
        ("Asia/Kolkata", "2026-04-24"),
    ],
)
def test_a_cursor_goes_on_from_a_midnight_at_which_clocks_are_changed(zone: str, day: str) -> None:
    midnight = datetime.combine(date.fromisoformat(day), time(), ZoneInfo(zone))
    for since, until in ((midnight, midnight + timedelta(days=9)), (midnight - timedelta(days=9), midnight)):
        question = UsageQuestion("prj_a", ["operation"], since, until, tz=zone)
        question.check(UsageCursor.parse(question.cursor_after(["image"])))


@given(st.lists(st.one_of(values, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))))
@example([1234.0, 1e16, 1e20, 1e21, 1e-6, 1e-7, -0.0, 12.5, True, None, 42, "42", ""])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_customer_of_any_kind_has_one_name_in_the_history_and_out_of_it(
    history: ClickHouse, customers: list[object]
) -> None:
    project = f"prj_{next(offsets)}"
    facts = [used(project, {"customer_id": customer}) for customer in customers]
    insert_facts(history, facts)
    named = "SELECT customer_id, {} FROM facts WHERE project = {{project:String}} ORDER BY offset"
    rows = history.query(named.format(value_of("metadata", "'customer_id'")), {"project": project})
    assert [name for name, _ in rows] == [LiveEntry(0, fact).customer_id for fact in facts]
    # By this one they are erased.
    assert [name for _, name in rows] == [customer_of(fact.metadata) for fact in facts]


@given(st.text(max_size=60))
def test_no_text_but_a_cursor_is_one(text: str) -> None:
    try:
        UsageCursor.parse(text)
    except Rejection as refused:
        assert refused.field == "cursor"


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (SINCE.replace(tzinfo=None), UNTIL),
        (SINCE, UNTIL.replace(tzinfo=None)),
        (SINCE, datetime(9999, 12, 31, 23, 59, tzinfo=UTC)),
        (datetime(1, 1, 1, tzinfo=UTC), UNTIL),
    ],
)
def test_a_cursor_about_a_time_that_no_question_is_about_is_none(since: datetime, until: datetime) -> None:
    question = UsageQuestion("prj_a", ["operation"], since, until, compare=True)
    with pytest.raises(Rejection) as refused:
        UsageCursor.parse(question.cursor_after(["image"]))
    assert refused.value.field == "cursor"


@pytest.mark.parametrize("read", [usage_page, usage_rows, usage_parquet])
def test_too_much_is_refused_at_once_and_told_what_to_narrow(history: ClickHouse, read: Any) -> None:
    project = f"prj_{next(offsets)}"
    insert_facts(history, [used(project, {"note": str(number)}) for number in range(20)])
    keys = ["metadata.note", "operation"]
    question = UsageQuestion(project, keys, SINCE, UNTIL, by="occurred_at")
    limits = limits_of_callers(Settings())
    limited = history.limited(limits._replace(groups=10))
    began_at = monotonic()
    with pytest.raises(Rejection) as refused:
        list(read(limited, question))
    assert monotonic() - began_at < 1
    assert refused.value.code == "too_much_history"
    for way in (
        "rows",
        "365 days",
        "promoted key (customer_id)",
        "metadata.note",
        "`by`",
        "fewer groups",
        "customer_id",
    ):
        assert way in refused.value.detail
    plain = UsageQuestion(project, ["customer_id"], SINCE, UNTIL, where=(("operation", "read"),))
    with pytest.raises(Rejection) as refused:
        list(read(history.limited(limits._replace(rows_read=10)), plain))
    assert refused.value.detail.endswith("Ask for a shorter time than 365 days (`from`, `to`)")
