"""The rows of a CSV of usage, for tests."""

from __future__ import annotations

import csv
import io

from streams.clickhouse.client import ClickHouse
from streams.history.usage import UsageQuestion
from streams.history.usage_files import usage_lines


def usage_rows(clickhouse: ClickHouse, question: UsageQuestion) -> list[list[str]]:
    """The cells of each row, as texts."""
    text = b"".join(usage_lines(clickhouse, question)).decode()
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))
