"""Usage by group as a CSV file."""

from __future__ import annotations

from collections.abc import Iterator

from api.views.csv_cells import checked_csv
from streams.clickhouse.client import ClickHouse
from streams.history.usage import UsageQuestion
from streams.history.usage_files import columns_of, usage_lines


def usage_csv(clickhouse: ClickHouse, question: UsageQuestion) -> Iterator[bytes]:
    """A CSV file of usage by group, in pieces, that a spreadsheet can open."""
    return checked_csv(columns_of(question), len(question.columns), usage_lines(clickhouse, question))
