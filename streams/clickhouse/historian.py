"""The historian writes journal and dead letters into ClickHouse, in large blocks, each row exactly once.

ClickHouse's own rows tell how far the historian got: on every assignment, and after every failure, it asks for the
highest row of each partition and goes on from there. Nothing else remembers a position.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from schemas.facts import Fact
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse, Pack
from streams.collector import CycleCollector
from streams.kafka.codecs import decode_dead_letter, decode_raw_pack
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

BEHIND_FLUSH_SECONDS = 2.0
FETCH_MIN_BYTES = 64 * 1024

Mark = tuple[int, int]
Row = list[Any]
_NOTHING: Mark = (-1, -1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()

_encode = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[Row]).decode


@dataclass(frozen=True, slots=True)
class Part:
    """A record, or the part of it that goes into one insert: rows as a MessagePack array of arrays, and what they
    span."""

    first: Mark
    last: Mark
    booked_from_ms: int
    booked_to_ms: int
    count: int
    rows: bytes


@dataclass(frozen=True, slots=True)
class Sink:
    """A topic, the table that its records go to, and how a record becomes rows.

    Every row gets the partition and offset of its record (`shared`), and has `columns` itself; both are names with
    their types. A row's mark follows from its record and the row; its booking time, in Unix milliseconds, is its field
    number `time_field`.
    """

    topic: str
    table: str
    shared: Mapping[str, str]
    columns: Mapping[str, str]
    marks_sql: str
    part_of: Callable[[Any], Part]
    mark_of: Callable[[Any, Row], Mark]
    time_field: int


@dataclass(slots=True)
class _Block:
    """Packs of one calendar month that will be one insert."""

    month: int
    packs: list[Pack] = field(default_factory=list)
    count: int = 0


@dataclass(slots=True)
class _Pending:
    """Blocks waiting for their insert, in order of arrival, and the marks that they reach."""

    blocks: list[_Block] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    count: int = 0
    since: float = 0.0


class Historian:
    """A Historian writes one topic's rows to one table until it is stopped. `rows_written` counts this process's
    rows."""

    def __init__(self, settings: Settings, clickhouse: ClickHouse, sink: Sink) -> None:
        self.settings = settings
        self.clickhouse = clickhouse
        self.sink = sink
        self.rows_written = 0
        self.ready = asyncio.Event()
        self._marks: dict[int, Mark] = {}
        self._pending = _Pending()
        # Counts changes of assignment: records asked for under another assignment may not be the next ones.
        self._assignment = 0
        self._interrupted = True
        self._writing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._collector = CycleCollector()

    async def run(self) -> None:
        """Run the historian until cancelled. After a failed insert, reading goes on after the last row that ClickHouse
        holds."""
        consumer = self._consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            group_id=f"{topics_of(self.settings).historian_group}-{self.sink.table}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # The insert waits at least as long, so no fact comes later by this, and fetches of one record each are
            # dear.
            fetch_min_bytes=FETCH_MIN_BYTES,
            fetch_max_wait_ms=min(100, self.settings.historian_flush_ms),
            max_partition_fetch_bytes=FETCH_BYTES,
            session_timeout_ms=int(self.settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(self.settings.session_timeout_seconds * 1000 / 3),
        )
        consumer.subscribe([self.sink.topic], listener=_HistorianAssignment(self))
        try:
            # Inside the `try`: a member told to stop while it joins must leave, or the others wait for it.
            await consumer.start()
            while True:
                try:
                    if self._interrupted:
                        await self.resume()
                    else:
                        await self._step(consumer)
                except asyncio.CancelledError:
                    raise
                except Exception:
                    log.exception("history could not be written; trying again from what ClickHouse holds")
                    self._interrupted = True
                    await asyncio.sleep(1.0)
        finally:
            await consumer.stop()

    async def interrupt(self) -> None:
        """Note that the assignment changes. The insert under way is finished; pending rows are dropped, and read again
        by whoever has their partition."""
        self._assignment += 1
        self._interrupted = True
        self.ready.clear()
        async with self._writing:
            self._marks.clear()
            self._pending = _Pending()

    async def resume(self) -> None:
        """Drop pending rows, and read on after the last rows that ClickHouse holds."""
        consumer = self._consumer
        assert consumer is not None
        async with self._writing:
            assignment = self._assignment
            found = await asyncio.to_thread(self.clickhouse.query, self.sink.marks_sql)
            if assignment != self._assignment:
                return  # and so another resume follows
            held = {row[0]: ((row[1], row[2]), row[3]) for row in found}
            self._pending = _Pending()
            self._marks.clear()
            for tp in consumer.assignment():
                mark, journal_offset = held.get(tp.partition, (_NOTHING, -1))
                self._marks[tp.partition] = mark
                # The record that held the last row may hold rows after it.
                consumer.seek(tp, max(journal_offset, 0))
            self._interrupted = False
            self.ready.set()

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        assignment, pending = self._assignment, self._pending
        flush_seconds = self.settings.historian_flush_ms / 1000
        waited = time.monotonic() - pending.since if pending.count else 0.0
        records = await consumer.getmany(timeout_ms=max(1, int((flush_seconds - waited) * 1000)), max_records=64)
        if assignment != self._assignment:
            return  # some partitions may be another's now; records of those still ours are read again
        for tp, partition_records in records.items():
            for record in partition_records:
                self._add(tp, record)
        if records:
            self._collector.tick()
        waited = time.monotonic() - pending.since
        # While there is more to read, larger inserts are cheaper for everyone; once all is read, freshness counts.
        due = waited >= flush_seconds and (not records or waited >= BEHIND_FLUSH_SECONDS)
        if pending.count and (due or pending.count >= self.settings.historian_rows_max):
            async with self._writing:
                if assignment == self._assignment:
                    await self._flush(consumer)

    def _add(self, tp: TopicPartition, record: Any) -> None:
        pending = self._pending
        mark = pending.marks.get(tp.partition) or self._marks[tp.partition]
        for part in _parts(self.sink, record, mark):
            pending.marks[tp.partition] = part.last
            if not pending.count:
                pending.since = time.monotonic()
            pending.count += part.count
            month = _month(part.booked_from_ms // DAY_MS)
            # Cut where the month changes, in order of arrival: what is missing after a crash is then always the newest.
            block = pending.blocks[-1] if pending.blocks else None
            if block is None or block.month != month or block.count + part.count > self.settings.historian_rows_max:
                block = _Block(month)
                pending.blocks.append(block)
            block.packs.append(Pack((tp.partition, record.offset), part.rows, part.count))
            block.count += part.count

    async def _flush(self, consumer: AIOKafkaConsumer) -> None:
        pending, self._pending = self._pending, _Pending()
        sink = self.sink
        for block in pending.blocks:
            self.rows_written += await asyncio.to_thread(
                self.clickhouse.insert_packs, sink.table, sink.shared, sink.columns, block.packs
            )
        self._marks.update(pending.marks)
        # The commit is for lag monitors only; no reader of ours starts from it.
        await consumer.commit()


def _parts(sink: Sink, record: Any, mark: Mark) -> list[Part]:
    """The rows of a record after `mark`, cut where the month changes: nearly always the whole record as it is."""
    whole = sink.part_of(record)
    if whole.last <= mark:
        return []  # a batch that the owner repeated
    if whole.first > mark and _month(whole.booked_from_ms // DAY_MS) == _month(whole.booked_to_ms // DAY_MS):
        return [whole]
    parts = []
    rows = (row for row in _decode_rows(whole.rows) if sink.mark_of(record, row) > mark)
    for _, of_month in groupby(rows, key=lambda row: _month(row[sink.time_field] // DAY_MS)):
        found = list(of_month)
        times = [row[sink.time_field] for row in found]
        first, last = sink.mark_of(record, found[0]), sink.mark_of(record, found[-1])
        parts.append(Part(first, last, min(times), max(times), len(found), _encode(found)))
    return parts


class _HistorianAssignment(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, historian: Historian) -> None:
        self._historian = historian

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        await self._historian.interrupt()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        await self._historian.interrupt()


# LowCardinality columns are sent as plain strings: the engine builds their dictionaries.
_FACT_COLUMNS = {
    "offset": "UInt64",
    "position": "UInt32",
    "kind": "String",
    "project": "String",
    "environment": "String",
    "operation": "String",
    "quantity": "Int64",
    "amount": "Int64",
    "balance": "Int64",
    "grant_id": "String",
    "reason": "String",
    "price_version": "String",
    "source": "String",
    "event_id": "String",
    "job_id": "String",
    "key_id": "String",
    "occurred_at": "DateTime64(3, 'UTC')",
    "booked_at": "DateTime64(3, 'UTC')",
    "metadata": "String",
    "held": "Int64",
    "cents": "Int64",
    "billing_account": "String",
    "surcharge": "String",
}
# A fact's fields are written as these columns by place.
assert list(_FACT_COLUMNS) == [
    {"index": "position", "occurred_at_ms": "occurred_at", "booked_at_ms": "booked_at"}.get(name, name)
    for name in Fact.__struct_fields__
]
_DEAD_LETTER_COLUMNS = {
    "code": "String",
    "detail": "String",
    "field": "String",
    "topic": "String",
    "partition": "UInt16",
    "offset": "UInt64",
    "position": "UInt32",
    "received_at": "DateTime64(3, 'UTC')",
    "event": "String",
}


def journal_sink(settings: Settings) -> Sink:
    """The sink of facts, exact by (offset, index)."""
    return Sink(
        topic=topics_of(settings).journal,
        table="facts",
        shared={"partition": "UInt16", "journal_offset": "UInt64"},
        columns=_FACT_COLUMNS,
        marks_sql=(
            "SELECT partition, tupleElement(mark, 1), tupleElement(mark, 2), journal FROM "
            "(SELECT partition, max((offset, position)) AS mark, max(journal_offset) AS journal FROM facts "
            "GROUP BY partition)"
        ),
        part_of=_facts_part,
        mark_of=lambda record, row: (row[0], row[1]),
        time_field=Fact.__struct_fields__.index("booked_at_ms"),
    )


def dead_letter_sink(settings: Settings) -> Sink:
    """The sink of dead letters, exact by their offset on their topic."""
    return Sink(
        topic=topics_of(settings).dead_letters,
        table="dead_letters",
        shared={"journal_partition": "UInt16", "journal_offset": "UInt64"},
        columns=_DEAD_LETTER_COLUMNS,
        marks_sql=(
            "SELECT journal_partition, max(journal_offset) AS newest, 0, newest FROM dead_letters "
            "GROUP BY journal_partition"
        ),
        part_of=_dead_letter_part,
        mark_of=lambda record, row: (record.offset, 0),
        time_field=7,
    )


def _facts_part(record: Any) -> Part:
    pack = decode_raw_pack(record.value)
    return Part(pack.first, pack.last, pack.booked_from_ms, pack.booked_to_ms, pack.count, bytes(pack.facts))


def _dead_letter_part(record: Any) -> Part:
    letter = decode_dead_letter(record.value)
    row = [
        letter.code,
        letter.detail,
        letter.field,
        letter.topic,
        letter.partition,
        letter.offset,
        letter.index,
        letter.received_at_ms,
        letter.event,
    ]
    mark = (record.offset, 0)
    return Part(mark, mark, letter.received_at_ms, letter.received_at_ms, 1, _encode([row]))


@lru_cache(maxsize=64)
def _month(day: int) -> int:
    """The number of the month that a day is in; it rises with the month. `day` counts from 1970."""
    at = date.fromordinal(_EPOCH_DAY + day)
    return at.year * 12 + at.month
