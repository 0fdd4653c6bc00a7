"""The ledger of a project, read from the history a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from streams.clickhouse.client import ClickHouse
from streams.history.cursor import decode_cursor, encode_cursor

_ENTRY_COLUMNS = (
    "entry_id, kind, environment, operation, quantity, amount, balance, grant_id, reason, price_version, source, "
    "event_id, job_id, customer_id, occurred_at, booked_at, metadata, partition, offset, position"
)


@dataclass(frozen=True, slots=True)
class LedgerQuestion:
    """A question for one page of a project's ledger entries, newest first."""

    project: str
    limit: int
    cursor: str | None = None
    environment: str | None = None

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The query and its parameters. Raises Rejection for a cursor that no page gave."""
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
    """The entries of a page as column → value, and the cursor of the page after them, or None at the end."""
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
