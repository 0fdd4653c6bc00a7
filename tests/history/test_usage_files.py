"""Files of usage have what its pages have, in columns that stay what they are, whatever they are called."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history.usage import UsageQuestion
from streams.history.usage_files import columns_of, usage_parquet
from tests.history.csv_rows import usage_rows
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
