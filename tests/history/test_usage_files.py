"""Files of usage have what its pages have, in columns that stay what they are, whatever they are called."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path

import msgspec
import pytest
from pyarrow.parquet import ParquetFile

from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history import usage_files
from streams.history.periods import GRANULARITIES
from streams.history.usage import UsageQuestion, usage_page, usage_sources
from streams.history.usage_files import columns_of, usage_lines, usage_parquet
from tests.history.csv_rows import usage_rows
from tests.history.lives import insert_facts
from tests.history.test_periods import CHANGES, SINCE, UNTIL, life_around


@pytest.fixture(scope="module")
def history(engine: ClickHouse) -> ClickHouse:
    migrate(engine)
    return engine


def text_of(cell: object) -> str:
    """A cell as CSV has it."""
    if isinstance(cell, Decimal):
        return f"{cell.normalize():f}"
    return str(int(cell)) if isinstance(cell, bool) else str(cell)


def test_lines_asked_for_a_few_periods_at_a_time_are_those_of_all_at_once(
    history: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[UsageQuestion] = []
    of_span = usage_files._lines
    monkeypatch.setattr(usage_files, "_lines", lambda *of: asked.append(of[1]) or of_span(*of))
    for change in CHANGES:
        project, _ = life_around(history, 6, change, 10)
        # Not at the begin of any period, and across a change of clocks.
        since, until = change - timedelta(days=9, minutes=7), change + timedelta(days=30, seconds=1)
        for granularity, tz in product(GRANULARITIES, ("UTC", "Asia/Kathmandu", "America/New_York")):
            question = UsageQuestion(project, ["operation"], since, until, granularity=granularity, tz=tz)
            whole = b"".join(of_span(history, question, usage_sources(history, question)))
            asked.clear()
            monkeypatch.setattr(usage_files, "SPAN_BYTES", 1_000)
            assert b"".join(usage_lines(history, question)) == whole and whole
            assert [each.until for each in asked[:-1]] == [each.since for each in asked[1:]]
            assert (asked[0].since, asked[-1].until) == (since, until)
            assert len(asked) >= (2 if granularity == "month" else 3)


@pytest.mark.parametrize("change", [datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC)])
def test_an_hour_in_which_clocks_are_changed_by_half_of_one_is_cut_nowhere(
    history: ClickHouse, monkeypatch: pytest.MonkeyPatch, change: datetime
) -> None:
    project, facts = life_around(history, 6, change, 1)
    use, project = next(fact for fact in facts if fact.kind == "charge"), f"{project}_half"
    since, until = change - timedelta(hours=5), change + timedelta(hours=5)
    booked = [int(since.timestamp() * 1000) + n * 600_000 for n in range(60)]
    uses = [msgspec.structs.replace(use, project=project, offset=n, booked_at_ms=at) for n, at in enumerate(booked)]
    insert_facts(history, uses)
    question = UsageQuestion(project, [], since, until, granularity="hour", tz="Australia/Lord_Howe")
    pages = [[*row.group.values(), str(row.uses)] for row in usage_page(history, question).rows]
    assert len(pages) == 11
    # Spans of many lengths, so that some would end in that hour.
    for size in range(1, 41, 6):
        monkeypatch.setattr(usage_files, "SPAN_BYTES", size)
        assert [row[:2] for row in usage_rows(history, question)] == pages


def test_a_parquet_file_is_asked_for_a_few_periods_at_a_time(
    history: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_files, "_SPAN_ROWS", 20)
    project, _ = life_around(history, 6, CHANGES[0], 10)
    since, until = CHANGES[0] - timedelta(days=9), CHANGES[0] + timedelta(days=9)
    question = UsageQuestion(project, ["operation"], since, until, granularity="hour", tz="Asia/Kolkata")
    file = tmp_path / "usage.parquet"
    file.write_bytes(b"".join(usage_parquet(history, question)))
    rows = usage_rows(history, question)
    assert [list(map(text_of, row)) for row in history.query(f"SELECT * FROM file('{file}')")] == rows
    assert 3 <= ParquetFile(file).num_row_groups <= len(rows) / 5
    # Nobody is used, or nobody reads on: the file has no rows, and nothing is left open.
    file.write_bytes(b"".join(usage_parquet(history, replace(question, project="nobody"))))
    assert ParquetFile(file).schema_arrow.names == columns_of(question)
    assert ParquetFile(file).metadata.num_rows == 0
    pieces = usage_parquet(history, question)
    assert next(pieces)
    pieces.close()


def test_a_parquet_file_has_stable_columns_and_what_the_pages_have(history: ClickHouse, tmp_path: Path) -> None:
    project, _ = life_around(history, 6, CHANGES[1], 3)
    keys = ["=1+1", 'a"b`c\\;\n', "g0", "uses", "{x:String}"]
    asked = UsageQuestion(project, ["operation", *(f"metadata.{key}" for key in keys[:4])], SINCE, UNTIL)
    for question in (
        asked,
        replace(asked, group_by=["operation", f"metadata.{keys[4]}"], granularity="hour", tz="America/New_York", top=1),
        replace(asked, group_by=["operation"], granularity="day", tz="Asia/Kathmandu", compare=True),
    ):
        file = tmp_path / "usage.parquet"
        file.write_bytes(b"".join(usage_parquet(history, question)))
        names = {str(row[0]): str(row[1]) for row in history.query(f"DESCRIBE file('{file}')")}
        assert list(names) == columns_of(question)
        for name, kind in names.items():
            is_sum = name.endswith(("uses", "quantity")) and name not in question.columns
            expected = "Decimal(38, 6)" if name.endswith("credits") else "Int64" if is_sum else "String"
            assert kind == ("Bool" if name == "other" else expected), name
        found = [list(map(text_of, row)) for row in history.query(f"SELECT * FROM file('{file}')")]
        assert found and found == usage_rows(history, question)
