"""The away journal has what a gateway still has to settle with Meterline, on disk before anyone relies on it.

It is one SQLite file for each process, locked for as long as the process lives. A write is on disk once its call
returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from schemas.events import Environment, UsageEvent
from streams.client.admissions import Admissions, Decision, Details, MetadataValues, invalid_request
from streams.client.arguments import ArgumentError
from streams.client.producer import usage_event
from streams.core.foreign import UnreadableError, read
from streams.errors import OperatorError

Outcome = Literal["running", "capture", "release", "keep"]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that Meterline is asked about, now or later. The request's usage event has the same (source, id).

    `occurred_at` is RFC 3339. Under one `idempotency_key` a request is decided once, however often Meterline is asked.
    """

    project: str
    operation: str
    id: str
    source: str
    idempotency_key: str
    occurred_at: str
    hold: bool = False
    hold_seconds: int | None = None
    job_id: str = ""
    environment: Environment = "production"
    metadata: MetadataValues = {}
    key_id: str = ""
    details: Details = {}

    async def ask(self, admissions: Admissions, idempotency_key: str = "") -> Decision:
        """Ask for the decision on this request. What can't be asked is refused, as Meterline would: it is the sender of
        the request who named it. Raises MeterlineAway."""
        try:
            return await self._asked(admissions, idempotency_key)
        except ArgumentError as error:
            return invalid_request(self.project, self.operation, error)

    async def _asked(self, admissions: Admissions, idempotency_key: str) -> Decision:
        return await admissions.admit(
            self.project,
            self.operation,
            id=self.id,
            source=self.source,
            hold=self.hold,
            hold_seconds=self.hold_seconds,
            job_id=self.job_id,
            environment=self.environment,
            metadata=self.metadata,
            idempotency_key=idempotency_key or self.idempotency_key,
            key_id=self.key_id,
            **self.details,
        )

    def event(self) -> UsageEvent:
        """The usage event of this request."""
        return usage_event(
            self.project,
            self.operation,
            id=self.id,
            source=self.source,
            time=self.occurred_at,
            environment=self.environment,
            job_id=self.job_id,
            metadata=self.metadata,
            **self.details,
        )


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry to be settled: a request that was admitted here for `leased` microcredits, or, where there is a
    `hold_id`, one that Meterline holds credits for and that could not be resolved. `credits` are the microcredits to
    capture, None for all of them.
    """

    asked: Asked
    leased: int = 0
    hold_id: str = ""
    outcome: Outcome = "running"
    credits: int | None = None
    reason: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode

T = TypeVar("T")


class AwayJournal:
    """An AwayJournal keeps entries by number, in the order they came. Without a path they are in memory only, and end
    with the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        # SQLite's connection belongs to one thread, which also waits for the disk.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="away-journal")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> dict[int, Entry]:
        """Lock the file, and read its entries. Raises OperatorError where another process has it."""
        return await self._in_thread(self._open)

    async def close(self) -> None:
        """Close the file, which releases its lock."""
        await self._in_thread(self._close)
        self._thread.shutdown()

    async def add(self, entry: Entry) -> int:
        """Write an entry down; gives its number once it is on disk. Raises sqlite3.Error."""

        def insert() -> int:
            cursor = self._opened().execute("INSERT INTO entries (entry) VALUES (?)", (_encode(entry),))
            assert cursor.lastrowid is not None
            return cursor.lastrowid

        return await self._in_thread(insert)

    async def replace(self, number: int, entry: Entry) -> None:
        """Write an entry over the one of that number, now that its outcome is known. Raises sqlite3.Error."""
        await self._in_thread(
            lambda: self._opened().execute("UPDATE entries SET entry = ? WHERE number = ?", (_encode(entry), number))
        )

    async def remove(self, number: int) -> None:
        """Forget an entry that is settled. Raises sqlite3.Error."""
        await self._in_thread(lambda: self._opened().execute("DELETE FROM entries WHERE number = ?", (number,)))

    def _open(self) -> dict[int, Entry]:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path or ":memory:", timeout=0, isolation_level=None)
        try:
            # The lock is taken by the first statement below, and released by the end of the process, however it ends.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY AUTOINCREMENT, entry BLOB NOT NULL)"
            )
            rows = connection.execute("SELECT number, entry FROM entries ORDER BY number").fetchall()
        except sqlite3.OperationalError as error:
            connection.close()
            raise OperatorError(
                f"The gateway's journal {self._path} can't be used ({error}): every gateway process needs its own"
            ) from None
        try:
            entries = {number: read(_decode, entry) for number, entry in rows}
        except UnreadableError as error:
            connection.close()
            raise OperatorError(
                f"The gateway's journal {self._path} has an entry that can't be read: {error}"
            ) from None
        self._connection = connection
        return entries

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None, "the journal is not open"
        return self._connection

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
