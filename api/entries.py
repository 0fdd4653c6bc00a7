"""Ledger entries as they are shown: those of a page of the history, and those of a stream, field for field the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import msgspec

from schemas.facts import Fact, entry_id
from schemas.http.credits import LedgerEntry
from schemas.problems import Rejection
from schemas.times import in_utc, utc
from streams.core.booking import format_credits
from streams.core.customers import customer_name
from streams.core.foreign import read

Place = tuple[int, int]

_ENTRY_ID = re.compile(r"(\d{1,5})-(\d{1,18})-(\d{1,9})", re.ASCII)
_encode = msgspec.json.Encoder().encode
_decode_metadata = partial(read, msgspec.json.decode)


class _EntryJson(msgspec.Struct, frozen=True, gc=False):
    """A LedgerEntry, as it is encoded thousands of times a second."""

    entry_id: str
    kind: str
    environment: str
    operation: str
    quantity: int
    amount: str
    balance: str
    grant_id: str
    reason: str
    price_version: str
    source: str
    event_id: str
    job_id: str
    customer_id: str
    occurred_at: datetime
    booked_at: datetime
    metadata: msgspec.Raw


assert list(_EntryJson.__struct_fields__) == list(LedgerEntry.model_fields)


class _Named(msgspec.Struct, gc=False):
    """Of an entry's metadata, what the history has in a column of its own."""

    customer_id: Any = ""


_decode_named = partial(read, msgspec.json.Decoder(_Named).decode)


class LiveEntry:
    """A LiveEntry is one ledger entry on its way to everybody who looks at it: what is made of it for one of them is
    made once for all. `place` is its place in its partition: what was decided later has a higher one. `size` is about
    how many bytes of memory it takes."""

    __slots__ = (
        "_customer_id",
        "_made",
        "_of_customer",
        "entry_id",
        "fact",
        "is_of_customer",
        "partition",
        "place",
        "size",
    )

    def __init__(self, partition: int, fact: Fact, *, is_of_customer: bool = False) -> None:
        self.partition = partition
        self.fact = fact
        self.entry_id = entry_id(partition, fact.offset, fact.index)
        self.place: Place = (fact.offset, fact.index)
        self.size = 1024 + len(fact.metadata)
        self.is_of_customer = is_of_customer
        self._of_customer: LiveEntry | None = None
        self._customer_id: str | None = None
        self._made: dict[Callable[[LiveEntry], bytes], bytes] = {}

    @property
    def customer_id(self) -> str:
        """The customer that the entry's metadata names, or "", as the history has it in a column."""
        if self._customer_id is None:
            metadata = self.fact.metadata
            named = _decode_named(metadata).customer_id if "customer_id" in metadata else ""
            self._customer_id = customer_name(named)
        return self._customer_id

    def once(self, make: Callable[[LiveEntry], bytes]) -> bytes:
        """Give what `make` makes of the entry; it is asked once."""
        made = self._made.get(make)
        if made is None:
            made = self._made[make] = make(self)
        return made

    def of_customer(self) -> LiveEntry:
        """The entry as its customer sees it, without what is the whole project's; the same for all who ask."""
        if self._of_customer is None:
            self._of_customer = LiveEntry(self.partition, self.fact, is_of_customer=True)
        return self._of_customer

    def shown(self) -> LedgerEntry:
        """The entry as the API shows it."""
        return LedgerEntry.model_validate_json(entry_json(self))


def entry_json(entry: LiveEntry) -> bytes:
    """The JSON of an entry, as a page of the ledger has it."""
    fact = entry.fact
    return _encode(
        _EntryJson(
            entry.entry_id,
            fact.kind,
            fact.environment,
            fact.operation,
            fact.quantity,
            _credits(fact.amount),
            "" if entry.is_of_customer else format_credits(fact.balance),
            "" if entry.is_of_customer else fact.grant_id,
            fact.reason,
            fact.price_version,
            fact.source,
            fact.event_id,
            fact.job_id,
            entry.customer_id,
            _at(fact.occurred_at_ms),
            _at(fact.booked_at_ms),
            msgspec.Raw(fact.metadata.encode() or b"{}"),
        )
    )


# What many entries have in common: those of a record their times, those of an operation their price.
_at = lru_cache(4096)(utc)
_credits = lru_cache(4096)(format_credits)


def place_in(given: str, field: str, partition: int) -> Place:
    """The place of an entry of a partition, by its id, which a caller gave in `field`. Raises Rejection."""
    found = _ENTRY_ID.fullmatch(given)
    if found is None or int(found[1]) != partition:
        raise Rejection("invalid_request", f"`{field}` is no id of an entry of this project", field)
    return int(found[2]), int(found[3])


def shown_entry(row: dict[str, Any], *, is_of_customer: bool = False) -> LedgerEntry:
    """The entry of a row of the history; as its customer sees it, it is without what is the whole project's."""
    return LedgerEntry.model_validate(
        row
        | {
            "amount": format_credits(row["amount"]),
            "balance": "" if is_of_customer else format_credits(row["balance"]),
            "grant_id": "" if is_of_customer else row["grant_id"],
            "metadata": _decode_metadata(row["metadata"]) if row["metadata"] else {},
            "occurred_at": in_utc(row["occurred_at"]),
            "booked_at": in_utc(row["booked_at"]),
        }
    )


def entry_of_row(project: str, row: dict[str, Any]) -> LiveEntry:
    """The entry of a row of the history, as a stream tells of it."""
    fields: dict[str, Any] = {name: row[name] for name in Fact.__struct_fields__ if name in row}
    for name in ("occurred_at", "booked_at"):
        fields[f"{name}_ms"] = round(in_utc(row[name]).timestamp() * 1000)
    return LiveEntry(row["partition"], Fact(**fields, index=row["position"], project=project, key_id=""))
