"""The ledger of a project, read from the history a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.facts import ENTRY_KINDS, EntryKind, entry_id
from schemas.times import DAY_MS, EPOCH
from streams.clickhouse.client import ClickHouse
from streams.history.cursor import after_cursor, encode_cursor
from streams.history.facts import kind_in
from streams.kafka.clock import now_ms

# A page is looked for in so many days first, then in more, then in all: ClickHouse reads the beginning of each part
# that it has to look at.
_DAYS = (1, 32)
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
        if self.since is not None:
            conditions.append("booked_at >= fromUnixTimestamp64Milli({from:Int64}, 'UTC')")
            parameters["from"] = _unix_ms(self.since)
        if self.until is not None:
            conditions.append("booked_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')")
            parameters["until"] = _unix_ms(self.until)
            now = min(now, parameters["until"]) if now is not None else None
        if self.cursor:
            after, place = after_cursor(self.cursor)
            now = min(now, place["at"]) if now is not None else None
            conditions.append("booked_at <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')")
            conditions.append(after)
            parameters |= place
        if now is not None:
            conditions.append("booked_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')")
            parameters["since"] = max(0, now - days * DAY_MS)
        return (
            f"SELECT {_ENTRY_COLUMNS} FROM facts WHERE {' AND '.join(conditions)} "
            "ORDER BY booked_at DESC, partition DESC, offset DESC, position DESC LIMIT {limit:UInt32}",
            parameters,
        )


def ledger_page(clickhouse: ClickHouse, question: LedgerQuestion) -> tuple[list[dict[str, Any]], str | None]:
    """The entries of a page as column → value, and the cursor of the page after them, or None at the end."""
    now = now_ms()
    for asked in (*(question.sql(now, days) for days in _DAYS), question.sql()):
        found = clickhouse.query(*asked)
        if len(found) > question.limit:
            break
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


def _unix_ms(at: datetime) -> int:
    """The first millisecond that is not before a time."""
    return -((EPOCH - at) // timedelta(milliseconds=1))


def _entry(row: Sequence[Any]) -> dict[str, Any]:
    entry = dict(zip(_ENTRY_COLUMNS.split(", "), row, strict=True))
    return {"entry_id": entry_id(entry["partition"], entry["offset"], entry["position"]), **entry}
