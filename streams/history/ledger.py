"""The ledger of a project, read from the history a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.facts import ENTRY_KINDS, EntryKind, entry_id
from streams.clickhouse.client import ClickHouse
from streams.history.cursor import encode_cursor, looked_for, newest_of
from streams.history.facts import kind_in

_ENTRY_COLUMNS = (
    "kind, environment, operation, quantity, amount, balance, grant_id, reason, price_version, source, "
    "event_id, job_id, customer_id, occurred_at, booked_at, metadata, partition, offset, position"
)


@dataclass(frozen=True, slots=True)
class LedgerQuestion:
    """A question for one page of a project's ledger entries, newest first: all of them, or those with this environment,
    operation, customer or kind that were booked from `since` on and before `until`."""

    project: str
    limit: int
    cursor: str | None = None
    environment: str | None = None
    operation: str | None = None
    customer_id: str | None = None
    kind: EntryKind | None = None
    since: datetime | None = None
    until: datetime | None = None

    def sql(self, now: int | None = None, days: int = 1) -> tuple[str, dict[str, Any]]:
        """The query and its parameters; with `now`, in Unix milliseconds, only of so many days before it, or before the
        cursor.

        It asks the table: planning a question to a view with all its columns takes longer than reading the page. Raises
        Rejection for a cursor that no page gave."""
        parameters: dict[str, Any] = {"project": self.project, "limit": self.limit + 1}
        conditions = ["project = {project:String}", kind_in(*([self.kind] if self.kind else ENTRY_KINDS))]
        for name in ("environment", "operation", "customer_id"):
            if (value := getattr(self, name)) is not None:
                conditions.append(f"{name} = {{{name}:String}}")
                parameters[name] = value
        booked, placed = newest_of(self.since, self.until, self.cursor, now, days)
        conditions += booked
        parameters |= placed
        return (
            f"SELECT {_ENTRY_COLUMNS} FROM facts WHERE {' AND '.join(conditions)} "
            "ORDER BY booked_at DESC, partition DESC, offset DESC, position DESC LIMIT {limit:UInt32}",
            parameters,
        )


def ledger_page(clickhouse: ClickHouse, question: LedgerQuestion) -> tuple[list[dict[str, Any]], str | None]:
    """The entries of a page as column → value, and the cursor of the page after them, or None at the end."""
    found = looked_for(lambda now, days: clickhouse.query(*question.sql(now, days)), question.limit)
    rows = [_entry(row) for row in found]
    if len(rows) <= question.limit:
        return rows, None
    rows = rows[: question.limit]
    last = rows[-1]
    booked_at: datetime = last["booked_at"]
    if booked_at.tzinfo is None:
        booked_at = booked_at.replace(tzinfo=UTC)
    at_ms = round(booked_at.timestamp() * 1000)
    return rows, encode_cursor(at_ms, last["partition"], last["offset"], last["position"])


def _entry(row: Sequence[Any]) -> dict[str, Any]:
    entry = dict(zip(_ENTRY_COLUMNS.split(", "), row, strict=True))
    return {"entry_id": entry_id(entry["partition"], entry["offset"], entry["position"]), **entry}
