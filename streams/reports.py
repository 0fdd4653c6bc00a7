"""Questions to the history: a project's ledger, and its usage by group."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.problems import Rejection
from streams.clickhouse import ClickHouse

_ENTRY_COLUMNS = (
    "entry_id, kind, environment, operation, quantity, amount, balance, grant_id, reason, price_version, source, "
    "event_id, job_id, customer_id, occurred_at, booked_at, metadata, partition, offset, position"
)

# What usage may be grouped by without a parameter; `metadata.<key>` is bound as one.
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
    """Charged usage of a project, booked in [since, until), by group; corrections count when they were booked."""

    project: str
    group_by: list[str]
    since: datetime
    until: datetime

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The query and its parameters. Raises Rejection for a group that there is not."""
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
        # A line that two grants paid for has two entries; only the first bears its quantity. What a correction takes
        # back has a quantity below 0.
        sql = (
            f"SELECT {selected}toInt64(countIf(quantity > 0)) - toInt64(countIf(quantity < 0)) AS uses, "
            "sum(quantity) AS quantity_sum, -sum(amount) AS microcredits FROM facts "
            "WHERE project = {project:String} AND kind IN ('charge', 'correction') "
            "AND booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}"
        )
        if groups:
            sql += f" GROUP BY {groups} ORDER BY {groups}"
        return sql, parameters


@dataclass(frozen=True, slots=True)
class LedgerQuestion:
    """A page of a project's entries, newest first."""

    project: str
    limit: int
    cursor: str | None = None
    environment: str | None = None

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The query and its parameters. Raises Rejection for a cursor that is none of ours."""
        parameters: dict[str, Any] = {"project": self.project, "limit": self.limit + 1}
        conditions = ["project = {project:String}"]
        if self.environment:
            conditions.append("environment = {environment:String}")
            parameters["environment"] = self.environment
        if self.cursor:
            at_ms, partition, offset, position = decode_cursor(self.cursor)
            conditions.append(
                "(booked_at, partition, offset, position) < (fromUnixTimestamp64Milli({at:Int64}, 'UTC'), "
                "{partition:UInt16}, {offset:UInt64}, {position:UInt32})"
            )
            parameters |= {"at": at_ms, "partition": partition, "offset": offset, "position": position}
        return (
            f"SELECT {_ENTRY_COLUMNS} FROM ledger_entries WHERE {' AND '.join(conditions)} "
            "ORDER BY booked_at DESC, partition DESC, offset DESC, position DESC LIMIT {limit:UInt32}",
            parameters,
        )


def ledger_page(clickhouse: ClickHouse, question: LedgerQuestion) -> tuple[list[dict[str, Any]], str | None]:
    """The entries as column → value, and the cursor of the page after them, or None at the end."""
    sql, parameters = question.sql()
    names = _ENTRY_COLUMNS.split(", ")
    rows = [dict(zip(names, row, strict=True)) for row in clickhouse.query(sql, parameters)]
    if len(rows) <= question.limit:
        return rows, None
    rows = rows[: question.limit]
    last = rows[-1]
    booked_at: datetime = last["booked_at"]
    if booked_at.tzinfo is None:
        booked_at = booked_at.replace(tzinfo=UTC)
    at_ms = round(booked_at.timestamp() * 1000)
    return rows, encode_cursor(at_ms, last["partition"], last["offset"], last["position"])


def usage_rows(clickhouse: ClickHouse, question: UsageQuestion) -> list[tuple[dict[str, str], int, int, int]]:
    """(group, uses, quantity, microcredits) of each group."""
    sql, parameters = question.sql()
    count = len(question.group_by)
    return [
        (dict(zip(question.group_by, row[:count], strict=True)), row[count], row[count + 1], row[count + 2])
        for row in clickhouse.query(sql, parameters)
    ]


def usage_csv(clickhouse: ClickHouse, question: UsageQuestion) -> Iterator[bytes]:
    """The same as CSV, streamed, with credits as exact decimals."""
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
    """Text that a spreadsheet would run as a formula gets an apostrophe before it; numbers stay numbers."""
    risky = f"match({column}, '^\\\\s*[=+@\\\\-＝＋－＠]') AND NOT match({column}, '^-?[0-9]+([.][0-9]+)?$')"
    return f"if({risky}, concat('\\'', {column}), {column})"


def _heading(group: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in group)


def encode_cursor(at_ms: int, partition: int, offset: int, position: int) -> str:
    """A page's last fact, as the cursor of what comes after it."""
    text = f"{at_ms}.{partition}.{offset}.{position}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, int, int, int]:
    """(booked at in Unix milliseconds, partition, offset, position). Raises Rejection."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at_ms, partition, offset, position = (int(part) for part in text.split("."))
        bounds = ((at_ms, 53), (partition, 16), (offset, 63), (position, 32))
        if any(not 0 <= number < 1 << bits for number, bits in bounds):
            raise ValueError
    except (ValueError, binascii.Error):
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor") from None
    return at_ms, partition, offset, position
