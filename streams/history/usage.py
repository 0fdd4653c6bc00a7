"""Usage of a project, rolled up from the history by operation, environment, metadata and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.facts import USAGE_KINDS
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.history.facts import kind_in

# The groups of usage that need no parameter; the key of `metadata.<key>` is passed as one.
_GROUPS = {
    "operation": "operation",
    "environment": "environment",
    "customer_id": "customer_id",
    "metadata.customer_id": "customer_id",
    "hour": "formatDateTime(booked_at, '%Y-%m-%dT%H:00:00Z', 'UTC')",
    "day": "formatDateTime(booked_at, '%Y-%m-%d', 'UTC')",
    "month": "formatDateTime(booked_at, '%Y-%m', 'UTC')",
}
GROUPS_MAX = 5


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """A question for the charged usage of a project, booked in [since, until), by group.

    A correction counts at the time it was booked.
    """

    project: str
    group_by: list[str]
    since: datetime
    until: datetime

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The query and its parameters. Raises Rejection for an unknown group."""
        parameters: dict[str, Any] = {"project": self.project, "since": self.since, "until": self.until}
        if len(self.group_by) > GROUPS_MAX:
            raise Rejection("invalid_request", f"At most {GROUPS_MAX} groups", "group_by")
        expressions = []
        for number, group in enumerate(self.group_by):
            expression = _GROUPS.get(group)
            if expression is None:
                kind, _, key = group.partition(".")
                if kind != "metadata" or not 1 <= len(key) <= 64:
                    raise Rejection(
                        "invalid_request",
                        f"No group {group[:80]!r}; there are {', '.join(_GROUPS)} and metadata.<key>",
                        "group_by",
                    )
                parameters[f"key{number}"] = key
                name = f"{{key{number}:String}}"
                expression = (
                    f"if(JSONType(metadata, {name}) = 'String', JSONExtractString(metadata, {name}), "
                    f"JSONExtractRaw(metadata, {name}))"
                )
            expressions.append(f"{expression} AS g{number}")
        groups = ", ".join(f"g{number}" for number in range(len(self.group_by)))
        selected = "".join(f"{expression}, " for expression in expressions)
        # A line that two grants paid for has two entries; only the first bears its quantity. A use that a
        # correction takes back has a quantity below 0.
        sql = (
            f"SELECT {selected}toInt64(countIf(quantity > 0)) - toInt64(countIf(quantity < 0)) AS uses, "
            "sum(quantity) AS quantity_sum, -sum(amount) AS microcredits FROM facts "
            f"WHERE project = {{project:String}} AND {kind_in(*USAGE_KINDS)} "
            "AND booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}"
        )
        if groups:
            sql += f" GROUP BY {groups} ORDER BY {groups}"
        return sql, parameters


def usage_rows(clickhouse: ClickHouse, question: UsageQuestion) -> list[tuple[dict[str, str], int, int, int]]:
    """The (group, uses, quantity, microcredits) of each group."""
    sql, parameters = question.sql()
    count = len(question.group_by)
    return [
        (dict(zip(question.group_by, row[:count], strict=True)), row[count], row[count + 1], row[count + 2])
        for row in clickhouse.query(sql, parameters)
    ]


def usage_csv(clickhouse: ClickHouse, question: UsageQuestion) -> Iterator[bytes]:
    """Usage by group as CSV, streamed, with credits as exact decimals."""
    sql, parameters = question.sql()
    groups = "".join(
        f"{_cell(f'g{number}')} AS `{_heading(group)}`, " for number, group in enumerate(question.group_by)
    )
    return clickhouse.stream_csv(
        f"SELECT {groups}uses, quantity_sum AS quantity, toDecimal128(microcredits, 6) / 1000000 AS credits "
        f"FROM ({sql})",
        parameters,
    )


def _cell(column: str) -> str:
    """The SQL of a CSV cell. Text that a spreadsheet would run as a formula gets an apostrophe; numbers stay as is."""
    risky = f"match({column}, '^\\\\s*[=+@\\\\-＝＋－＠]') AND NOT match({column}, '^-?[0-9]+([.][0-9]+)?$')"
    return f"if({risky}, concat('\\'', {column}), {column})"


def _heading(group: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in group)
