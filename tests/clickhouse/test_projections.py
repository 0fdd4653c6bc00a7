"""Projections, promoted keys and indexes hold what the rows hold: on a table that had rows before, after repeats, and
after retention."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.facts import Fact
from schemas.times import DAY_MS
from streams.clickhouse.backfill import Backfill, wait_for_backfill
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import MIGRATIONS_DIR, migrate
from streams.clickhouse.promoted import PROMOTED_KEYS_MAX, PromotionError, demote, promote, promoted_keys
from streams.clickhouse.retention import keep_passing_facts
from streams.history.usage import UsageQuestion, usage_page
from streams.kafka.clock import now_ms
from streams.settings import Settings
from tests.history.lives import insert_facts

AT_MS = 1_760_000_000_000 - 1_760_000_000_000 % DAY_MS
MINUTE_MS = 60_000
SINCE, UNTIL = datetime(2025, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
SUMS = "sum(amount), sum(quantity), sum(uses), sum(held), sum(cents), count()"
RAW = "SETTINGS optimize_use_projections = 0"
KEPT = "SETTINGS force_optimize_projection = 1"


def fact(offset: int, at_ms: int, kind: str = "charge", metadata: str = "", project: str = "p1") -> Fact:
    return Fact(
        offset=offset,
        index=0,
        kind=kind,
        project=project,
        environment="preview" if offset % 5 == 0 else "production",
        operation=f"operation_{offset % 3}",
        quantity=-1 if kind == "correction" else offset % 3,
        amount=offset * 7 if kind == "correction" else -offset,
        balance=0,
        grant_id="",
        reason="",
        price_version="",
        source="/tests",
        event_id=f"e{offset}",
        job_id="",
        key_id="",
        occurred_at_ms=at_ms,
        booked_at_ms=at_ms,
        metadata=metadata,
        held=offset,
    )


def many(first: int, count: int, **more: Any) -> list[Fact]:
    """Facts a minute apart, a tenth of them corrections."""
    return [
        fact(number, AT_MS + number * MINUTE_MS, "correction" if number % 10 == 0 else "charge", **more)
        for number in range(first, first + count)
    ]


def agree(clickhouse: ClickHouse) -> None:
    """Raises AssertionError where a projection's sums are not those of the rows."""
    for keys in ("project, t, environment, operation, kind, reason", "t, environment, operation, kind, reason"):
        question = f"SELECT {keys}, {SUMS} FROM facts GROUP BY {keys} ORDER BY {keys}"
        kept = clickhouse.query(f"{question} {KEPT}")
        assert kept == clickhouse.query(f"{question} {RAW}") and kept


@pytest.fixture
def old_schema(tmp_path: Path) -> Path:
    """The migrations of before there were projections."""
    for path in sorted(MIGRATIONS_DIR.glob("*.sql"))[:5]:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_a_table_with_rows_gets_projections_and_indexes_and_says_how_far_it_is(
    clickhouse: ClickHouse, old_schema: Path
) -> None:
    migrate(clickhouse, old_schema)
    for first in range(0, 400, 100):
        insert_facts(clickhouse, many(first, 100))
    clickhouse.command("SYSTEM STOP MERGES facts")
    migrate(clickhouse)
    heard: list[Backfill] = []
    raw = clickhouse.query(f"SELECT {SUMS} FROM facts {RAW}")

    def tell(backfill: Backfill) -> None:
        if not heard:
            assert clickhouse.query(f"SELECT {SUMS} FROM facts") == raw, "right before it is there"
            clickhouse.command("SYSTEM START MERGES facts")
        heard.append(backfill)

    wait_for_backfill(clickhouse, tell)
    assert heard and heard[0].mutations == 2, "what is dropped, and what is made"
    assert 0 < heard[0].parts_left <= heard[0].parts
    ((parts, with_both),) = clickhouse.query(
        "SELECT (SELECT count() FROM system.parts WHERE table = 'facts' AND active), uniqExactIf((name, parent_name), "
        "name LIKE 'sums_by_%') FROM system.projection_parts WHERE table = 'facts' AND active"
    )
    assert with_both == 2 * parts
    agree(clickhouse)
    # What is repeated is dropped with its sums, and what comes later is in them at once.
    for _ in range(2):
        insert_facts(clickhouse, many(400, 50))
    agree(clickhouse)
    assert clickhouse.query("SELECT count() FROM facts")[0][0] == 450


def test_an_event_is_found_by_an_index(clickhouse: ClickHouse) -> None:
    migrate(clickhouse)
    insert_facts(clickhouse, many(0, 20))
    for column, index in (("event_id", "event_ids"), ("job_id", "job_ids")):
        plan = clickhouse.query(f"EXPLAIN indexes = 1 SELECT offset FROM facts WHERE {column} = 'e7'")
        assert any(index in str(line) for (line,) in plan), plan
    assert clickhouse.query("SELECT offset FROM facts WHERE event_id = 'e7'") == [(7,)]


def test_retention_takes_from_sums_what_it_takes_from_rows_and_leaves_the_marks(embedded: ClickHouse) -> None:
    migrate(embedded)
    old_ms = now_ms() - 500 * DAY_MS
    kinds = ["request", "refusal", "duplicate", "shadow", "charge"]
    facts = [fact(number, old_ms + number * MINUTE_MS, kinds[number % 5]) for number in range(500)]
    insert_facts(embedded, facts)
    mark = embedded.query("SELECT partition, max((offset, position)) FROM facts GROUP BY partition")
    keep_passing_facts(embedded, Settings(passing_facts_days=30))
    embedded.command("OPTIMIZE TABLE facts FINAL")
    assert embedded.query("SELECT DISTINCT kind FROM facts") == [("charge",)]
    assert embedded.query("SELECT partition, max((offset, position)) FROM facts GROUP BY partition") == mark
    agree(embedded)


def test_sums_of_one_kind_are_found_without_those_of_others(clickhouse: ClickHouse) -> None:
    # Nearly every mark of the sums is another project's: ClickHouse's default would forget the kind.
    migrate(clickhouse)
    ((made,),) = clickhouse.query("SELECT create_table_query FROM system.tables WHERE name = 'facts'")
    assert "TABLE default.facts" in made and "index_granularity = 8192" in made
    small = made.replace("TABLE default.facts", "TABLE small", 1)
    clickhouse.command(small.replace("index_granularity = 8192", "index_granularity = 16"))
    others = [fact(number, AT_MS + number, project=f"p{number:04}") for number in range(8000)]
    kinds = ("charge", "correction", "hold", "refusal", "request")
    ours = [
        fact(8000 + number, AT_MS + number * 15 * MINUTE_MS, kinds[number % 5], project="q") for number in range(500)
    ]
    insert_facts(clickhouse, [*others, *ours])
    clickhouse.command("INSERT INTO small SELECT * FROM facts")
    clickhouse.command("OPTIMIZE TABLE small FINAL")
    clickhouse.command("SYSTEM UNLOAD PRIMARY KEY small")

    def marks(condition: str) -> int:
        question = f"SELECT sum(amount) FROM small WHERE project = 'q' AND {condition} AND t >= '2025-10-01 00:00:00'"
        plan = [str(line) for (line,) in clickhouse.query(f"EXPLAIN indexes = 1 {question} {KEPT}")]
        assert any("sums_by_project" in line for line in plan), plan
        return int(re.findall(r"Granules: (\d+)/", "\n".join(plan))[0])

    assert marks("kind = 'charge'") <= marks("kind != ''") / 3


VALUES = ["a", "it's `quoted`", "\\", "", 7, None, [1, "x"], {"a": 1}, "é ✓ 😀"]


def by_key(clickhouse: ClickHouse, key: str) -> Any:
    return usage_page(clickhouse, UsageQuestion("p1", [f"metadata.{key}"], SINCE, UNTIL))


def test_usage_by_a_promoted_key_is_what_it_was_and_reads_its_column(clickhouse: ClickHouse) -> None:
    migrate(clickhouse)
    texts = [msgspec.json.encode({"team-1": value}).decode() for value in VALUES]
    insert_facts(clickhouse, [fact(number, AT_MS, metadata=text) for number, text in enumerate([*texts, "", "{}"])])
    before = by_key(clickhouse, "team-1")
    assert len(before[0]) == len(VALUES), "the empty text is also that of those who name none"
    assert promote(clickhouse, "team-1") and not promote(clickhouse, "team-1")
    insert_facts(clickhouse, [fact(100 + number, AT_MS, metadata=text) for number, text in enumerate(texts)])
    wait_for_backfill(clickhouse, lambda _: None)
    assert promoted_keys(clickhouse) == {"customer_id": "customer_id", "team-1": "metadata_team-1"}
    question = UsageQuestion("p1", ["metadata.team-1"], SINCE, UNTIL)
    of_facts, _, _ = question.sql(promoted_keys(clickhouse))[0].rpartition("UNION ALL")
    assert of_facts and "JSON" not in of_facts and "JSON" in question.sql()[0].rpartition("UNION ALL")[0]
    with_column = by_key(clickhouse, "team-1")
    demote(clickhouse, "team-1")
    wait_for_backfill(clickhouse, lambda _: None)
    assert by_key(clickhouse, "team-1") == with_column
    assert promoted_keys(clickhouse) == {"customer_id": "customer_id"}


def test_few_keys_are_promoted_and_none_that_could_be_taken_for_sql(embedded: ClickHouse) -> None:
    migrate(embedded)
    for key in ("", "a" * 65, "a b", "a`b", "a'", "a.b", "a\\", "é", "a;", "a\n"):
        with pytest.raises(PromotionError, match="1 to 64 letters"):
            promote(embedded, key)
    assert not promote(embedded, "customer_id"), "it has always been one"
    for number in range(PROMOTED_KEYS_MAX):
        promote(embedded, f"key{number}")
    with pytest.raises(PromotionError, match="key0, key1, key2, key3"):
        promote(embedded, "key4")
    for key in ("customer_id", "key9"):
        with pytest.raises(PromotionError, match="not a key that was promoted"):
            demote(embedded, key)
    demote(embedded, "key0")
    assert promote(embedded, "key4")


def test_every_column_of_every_table_and_view_says_what_it_is(embedded: ClickHouse) -> None:
    migrate(embedded)
    promote(embedded, "team")
    columns = embedded.query(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND comment = '' "
        "AND table != 'schema_migrations'"
    )
    assert list(columns) == []
    assert (
        list(
            embedded.query(
                "SELECT name FROM system.tables WHERE database = currentDatabase() AND comment = '' "
                "AND name != 'schema_migrations'"
            )
        )
        == []
    )
