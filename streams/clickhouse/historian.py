"""The historian writes journal, dead letters and answers into ClickHouse, in large blocks, each row exactly once.

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
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from schemas.events import TIME_MS_MAX
from schemas.facts import Fact
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.erasures import IS_ERASED_LETTER, Erasure, erase, erase_late_letters, erasure_of, may_erase
from streams.clickhouse.limits import LONG
from streams.collector import CycleCollector
from streams.core.acceptance import dead_letter
from streams.core.foreign import UnreadableError
from streams.kafka.clock import now_ms
from streams.kafka.codecs import decode_dead_letter
from streams.kafka.formats import FormatError
from streams.kafka.pace import FetchPace
from streams.kafka.stored import BrokenRecordError, TimelineError, raw_pack_of
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings
from streams.space import no_space

log = logging.getLogger(__name__)

# How often a record that can't be read is looked at again: an operator may have put it right.
STOPPED_PAUSE_SECONDS = 10.0
# The most that Kafka keeps beside a committed offset is 4,096 bytes.
STOP_NOTE_CHARS_MAX = 1000
BEHIND_FLUSH_SECONDS = 2.0
# Quicker inserts than this would be many small parts.
_REST_SECONDS = 0.1
FETCH_MIN_BYTES = 64 * 1024
_IDLE_FETCH_WAIT_MS = 1000

Mark = tuple[int, int]
Row = list[Any]
_NOTHING: Mark = (-1, -1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()

_RESTORE = (
    "Kafka was restored from an older backup than ClickHouse, or begun anew. Restore both from one time; or have "
    "history written anew from the log: set METERLINE_CLICKHOUSE_URL to an empty database, or remove the directory "
    "`clickhouse` in METERLINE_DATA_DIR, and start again"
)

encode_rows = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[Row]).decode


@dataclass(frozen=True, slots=True)
class Part:
    """A record, or the part of it that goes into one insert: rows as a MessagePack array of arrays, and what they
    span. `erasure` is to be carried out before it is inserted."""

    first: Mark
    last: Mark
    booked_from_ms: int
    booked_to_ms: int
    count: int
    rows: bytes
    erasure: Erasure | None = None


@dataclass(frozen=True, slots=True)
class Sink:
    """A topic, the table that its records go to, and how a record becomes rows.

    Every row gets the partition and offset of its record (`shared`), and has `columns` itself; both are names with
    their types. A row's mark follows from its record and the row; its booking time, in Unix milliseconds, is its field
    number `time_field`. `witness_sql` gives, for each partition, what the row at the mark has in the fields of these
    numbers: the log must have the same there, but for what is None. `erasure_of` gives the erasure that a row asks for;
    `has_erasure` says of rows undecoded whether one of them may. `after_insert` hears of each block the booking time of
    its oldest row; and None before the first, since it may not have heard of the last before that.
    """

    topic: str
    table: str
    shared: Mapping[str, str]
    columns: Mapping[str, str]
    marks_sql: str
    witness_sql: str
    witness_fields: tuple[int, ...]
    part_of: Callable[[Any], Part]
    mark_of: Callable[[Any, Row], Mark]
    time_field: int
    has_erasure: Callable[[bytes], bool] = lambda rows: False
    erasure_of: Callable[[int, Row], Erasure | None] = lambda partition, row: None
    after_insert: Callable[[ClickHouse, int | None], None] | None = None


@dataclass(slots=True)
class _Block:
    """Packs of one calendar month that will be one insert; `erasure` is carried out before it."""

    month: int
    from_ms: int
    erasure: Erasure | None = None
    packs: list[Pack] = field(default_factory=list)
    count: int = 0


@dataclass(slots=True)
class _Pending:
    """Blocks waiting for their insert, in order of arrival, and the marks that they reach."""

    blocks: list[_Block] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    count: int = 0
    since: float = 0.0
    # When each record was written to the log, in Unix milliseconds.
    written_ms: list[int] = field(default_factory=list)

    def due_after(self, patience: float) -> float:
        """The seconds until the oldest has waited for as long as it may; none or less once it has."""
        return self.since + patience - time.monotonic()


class Historian:
    """A Historian writes one topic's rows to one table until it is stopped. `rows_written` counts this process's
    rows; `stopped` says why it writes none, or is "". `on_visible` is told of each record how many seconds after it was
    written to the log its rows could be read."""

    def __init__(self, settings: Settings, clickhouse: ClickHouse, sink: Sink) -> None:
        self.settings = settings
        self._flush_seconds = settings.historian_flush_ms / 1000
        self.clickhouse = clickhouse
        self.sink = sink
        self.rows_written = 0
        self.stopped = ""
        self.on_visible: Callable[[float], None] = lambda seconds: None
        self.ready = asyncio.Event()
        self._marks: dict[int, Mark] = {}
        # Of each partition that is read on: the record that has the row at the mark, the mark, and that row's witness.
        self._witnesses: dict[int, tuple[int, Mark, list[Any]]] = {}
        self._pending = _Pending()
        self._is_uncommitted = False
        # What the last insert took, and when it ended, by the monotonic clock.
        self._insert_seconds = self._inserted_at = 0.0
        # Counts changes of assignment: records asked for under another assignment may not be the next ones.
        self._assignment = 0
        self._interrupted = True
        self._writing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._pace = FetchPace(min(100, settings.historian_flush_ms), _IDLE_FETCH_WAIT_MS, FETCH_MIN_BYTES)
        self._collector = CycleCollector()

    async def run(self) -> None:
        """Run the historian until cancelled. After a failed insert, reading goes on after the last row that ClickHouse
        holds.

        Raises TimelineError where ClickHouse holds what the topic does not, and FormatError where a newer version
        writes the topic. At a record that can't be read it stays, and says so: in its log, in `stopped`, and beside the
        committed offset, where every process can see it (`stop_notes`).
        """
        consumer = self._consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            group_id=topics_of(self.settings).historian_group_of(self.sink.table),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # The insert waits at least as long, so no fact comes later by this, and fetches of one record each are
            # dear.
            fetch_min_bytes=FETCH_MIN_BYTES,
            fetch_max_wait_ms=self._pace.wait_ms,
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
                except (TimelineError, FormatError) as error:
                    log.critical("history stops: %s", error)
                    raise
                except Exception as error:
                    if full := no_space(error, self.settings.clickhouse_url or self.settings.clickhouse_dir):
                        log.error("history waits: %s", full)
                    else:
                        log.exception("history could not be written; trying again from what ClickHouse holds")
                    self._interrupted = True
                    await asyncio.sleep(1.0)
        finally:
            await consumer.stop()

    @property
    def partitions(self) -> int:
        """The number of partitions that are read on: what ClickHouse has of them was compared with the topic's end."""
        return len(self._marks)

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
            clickhouse = self.clickhouse.limited(LONG).consistent()
            held = marks_of(await asyncio.to_thread(clickhouse.query, self.sink.marks_sql))
            places = list(consumer.assignment())
            check_marks(self.sink, held, await consumer.end_offsets(places) if places else {})
            parameters = _as_parameters(held)
            rows = await asyncio.to_thread(clickhouse.query, self.sink.witness_sql, parameters) if held else ()
            if self.sink.after_insert is not None:
                await asyncio.to_thread(self.sink.after_insert, clickhouse, None)
            witnesses = {row[0]: (held[row[0]][1], held[row[0]][0], list(row[1:])) for row in rows}
            if assignment != self._assignment:
                return  # and so another resume follows
            self._witnesses = witnesses
            self._pending = _Pending()
            self._marks.clear()
            for tp in consumer.assignment():
                mark, journal_offset = held.get(tp.partition, (_NOTHING, -1))
                self._marks[tp.partition] = mark
                # The record that held the last row may hold rows after it.
                consumer.seek(tp, max(journal_offset, 0))
            self._interrupted = False
            self.ready.set()

    async def _stay(self, consumer: AIOKafkaConsumer, error: BrokenRecordError) -> None:
        """Write what came before a record that can't be read, and say that history ends there."""
        assignment = self._assignment
        async with self._writing:
            if assignment == self._assignment and self._pending.count:
                await self._insert_pending()
            if str(error) != self.stopped:
                log.critical("history stops: %s", error)
            self.stopped = str(error)
            place = TopicPartition(self.sink.topic, error.partition)
            if assignment == self._assignment:
                await consumer.commit({place: (error.offset, self.stopped[:STOP_NOTE_CHARS_MAX])})
            self._interrupted = True
            self.ready.clear()
        await asyncio.sleep(STOPPED_PAUSE_SECONDS)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        assignment, pending = self._assignment, self._pending
        # The fetch that is under way is waited for where that is possible: what it brings is inserted too.
        timeout = pending.due_after(self._flush_seconds) if pending.count else self._flush_seconds
        timeout_ms = max(1 if pending.count else self._pace.wait_ms, int(1000 * timeout))
        records = await consumer.getmany(timeout_ms=timeout_ms, max_records=64)
        self._pace.note(consumer, bool(records))
        if assignment != self._assignment:
            return  # some partitions may be another's now; records of those still ours are read again
        try:
            for tp, partition_records in records.items():
                for record in partition_records:
                    self._add(tp, record)
        except BrokenRecordError as error:
            await self._stay(consumer, error)
            return
        if records:
            self._collector.tick()
            self._is_uncommitted = True
        elif not pending.count and (self._is_uncommitted or (self.stopped and await _is_at_end(consumer))):
            # All that was read is held already. Nobody should take it for facts that wait.
            await self._go_on(consumer)
        is_due = pending.due_after(self._patience() if records else self._flush_seconds) <= 0
        if pending.count and (is_due or pending.count >= self.settings.historian_rows_max):
            async with self._writing:
                if assignment == self._assignment:
                    await self._flush(consumer)

    def _patience(self) -> float:
        """How many seconds facts wait for their insert where more of them come. Larger inserts are cheaper for
        everyone, and how much that matters shows in what one takes: at most half of the time is spent on them. Facts
        that come late anyway wait longest."""
        if now_ms() - self._pending.written_ms[-1] > 1000 * BEHIND_FLUSH_SECONDS:
            return BEHIND_FLUSH_SECONDS
        return min(BEHIND_FLUSH_SECONDS, max(self._insert_seconds, min(_REST_SECONDS, self._flush_seconds)))

    def _add(self, tp: TopicPartition, record: Any) -> None:
        pending = self._pending
        self._check_witness(record)
        pending.written_ms.append(record.timestamp)
        mark = pending.marks.get(tp.partition) or self._marks[tp.partition]
        for part in _parts(self.sink, record, mark):
            pending.marks[tp.partition] = part.last
            if not pending.count:
                # What came while the last rows were inserted has waited already.
                waited = min(max(0, now_ms() - record.timestamp) / 1000, self._flush_seconds)
                pending.since = max(time.monotonic() - waited, self._inserted_at)
            pending.count += part.count
            month = _month(part.booked_from_ms // DAY_MS)
            # Cut where the month changes, in order of arrival: what is missing after a crash is then always the newest.
            block = pending.blocks[-1] if pending.blocks else None
            full = block is not None and block.count + part.count > self.settings.historian_rows_max
            if block is None or block.month != month or full or part.erasure is not None:
                block = _Block(month, part.booked_from_ms, part.erasure)
                pending.blocks.append(block)
            block.from_ms = min(block.from_ms, part.booked_from_ms)
            block.packs.append(Pack((tp.partition, record.offset), part.rows, part.count))
            block.count += part.count

    def _check_witness(self, record: Any) -> None:
        """Raise TimelineError where the first record read on has not the row that ClickHouse has at the mark."""
        if record.partition not in self._witnesses:
            return
        offset, mark, witness = self._witnesses.pop(record.partition)
        if record.offset > offset:
            log.warning("%s-%s begins at %s: it was shortened", record.topic, record.partition, record.offset)
            return
        rows = _decode_rows(self.sink.part_of(record).rows)
        found = next((row for row in rows if self.sink.mark_of(record, row) == mark), None)
        told = zip(self.sink.witness_fields, witness, strict=True)
        if found is None or any(value not in (None, found[number]) for number, value in told):
            raise TimelineError(
                f"{record.topic}-{record.partition} at offset {offset} is not the record that ClickHouse's table "
                f"{self.sink.table} has from there: {_RESTORE}"
            )

    async def _flush(self, consumer: AIOKafkaConsumer) -> None:
        await self._insert_pending()
        await self._go_on(consumer)

    async def _go_on(self, consumer: AIOKafkaConsumer) -> None:
        """Commit where history is, without a note. The commit is for monitors only; no reader of ours starts from
        it."""
        self.stopped = ""
        self._is_uncommitted = False
        await consumer.commit()

    async def _insert_pending(self) -> None:
        pending, self._pending = self._pending, _Pending()
        sink, began_at = self.sink, time.monotonic()
        for block in pending.blocks:
            if block.erasure is not None:
                await asyncio.to_thread(erase, self.clickhouse.limited(LONG), block.erasure)
            self.rows_written += await asyncio.to_thread(
                self.clickhouse.insert_packs, sink.table, sink.shared, sink.columns, block.packs
            )
            if sink.after_insert is not None:
                await asyncio.to_thread(sink.after_insert, self.clickhouse.limited(LONG), block.from_ms)
        self._marks.update(pending.marks)
        self._inserted_at = time.monotonic()
        self._insert_seconds = self._inserted_at - began_at
        at_ms = now_ms()
        for written_ms in pending.written_ms:
            self.on_visible(max(0, at_ms - written_ms) / 1000)  # the log's clock may be ahead


def marks_of(rows: Sequence[Sequence[Any]]) -> dict[int, tuple[Mark, int]]:
    """How far ClickHouse's rows reach, by partition: the mark, and the offset of the record with the last row. `rows`
    are what a sink's `marks_sql` gives."""
    return {row[0]: ((row[1], row[2]), row[3]) for row in rows}


def check_marks(sink: Sink, held: Mapping[int, tuple[Mark, int]], ends: Mapping[TopicPartition, int]) -> None:
    """Raise TimelineError where ClickHouse has rows of a record at or after its topic's end."""
    for tp, end in ends.items():
        offset = held.get(tp.partition, (_NOTHING, -1))[1]
        if offset >= end:
            raise TimelineError(
                f"ClickHouse's table {sink.table} has the record at offset {offset} of {tp.topic}-{tp.partition}, "
                f"which ends at {end}: {_RESTORE}"
            )


def _as_parameters(held: Mapping[int, tuple[Mark, int]]) -> dict[str, object]:
    partitions = sorted(held)
    marks = [held[partition][0] for partition in partitions]
    return {
        "partitions": partitions,
        "offsets": [mark[0] for mark in marks],
        "positions": [mark[1] for mark in marks],
    }


async def _is_at_end(consumer: AIOKafkaConsumer) -> bool:
    for tp in consumer.assignment():
        highwater = consumer.highwater(tp)
        if highwater is None or await consumer.position(tp) < highwater:
            return False
    return True


async def stop_notes(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, str]:
    """Why the historians of this group stay where they are, by partition; {} where they go on."""
    offsets = await admin.list_consumer_group_offsets(group)
    return {tp: found.metadata for tp, found in offsets.items() if found.metadata}


def _parts(sink: Sink, record: Any, mark: Mark) -> list[Part]:
    """The rows of a record after `mark`, cut where the month changes and before each erasure: nearly always the whole
    record as it is."""
    whole = sink.part_of(record)
    if whole.last <= mark:
        return []  # a batch that the owner repeated
    of_one_month = _month(whole.booked_from_ms // DAY_MS) == _month(whole.booked_to_ms // DAY_MS)
    if whole.first > mark and of_one_month and not sink.has_erasure(whole.rows):
        return [whole]
    erasures = 0

    def piece_of(row: Row) -> tuple[int, int]:
        nonlocal erasures
        erasures += sink.erasure_of(record.partition, row) is not None
        return erasures, _month(row[sink.time_field] // DAY_MS)

    parts = []
    rows = (row for row in _decode_rows(whole.rows) if sink.mark_of(record, row) > mark)
    for _, of_piece in groupby(rows, key=piece_of):
        found = list(of_piece)
        times = [row[sink.time_field] for row in found]
        first, last = sink.mark_of(record, found[0]), sink.mark_of(record, found[-1])
        erasure = sink.erasure_of(record.partition, found[0])
        parts.append(Part(first, last, min(times), max(times), len(found), encode_rows(found), erasure))
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


def mark_sql(partition: str) -> str:
    """SQL for the mark of a row's partition, of those that are given as parameters."""
    return (
        f"(transform({partition}, {{partitions:Array(UInt16)}}, {{offsets:Array(UInt64)}}, toUInt64(0)), "
        f"transform({partition}, {{partitions:Array(UInt16)}}, {{positions:Array(UInt32)}}, toUInt32(0)))"
    )


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
        witness_sql=(
            "SELECT partition, project, kind, toUnixTimestamp64Milli(booked_at) FROM facts WHERE "
            f"(offset, position) = {mark_sql('partition')} AND partition IN {{partitions:Array(UInt16)}}"
        ),
        witness_fields=tuple(map(Fact.__struct_fields__.index, ("project", "kind", "booked_at_ms"))),
        part_of=_facts_part,
        mark_of=lambda record, row: (row[0], row[1]),
        time_field=Fact.__struct_fields__.index("booked_at_ms"),
        has_erasure=may_erase,
        erasure_of=erasure_of,
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
        witness_sql=(
            f"SELECT journal_partition, code, topic, partition, offset, position, if({IS_ERASED_LETTER}, NULL, event), "
            "toUnixTimestamp64Milli(received_at) FROM dead_letters WHERE "
            f"(journal_offset, 0) = {mark_sql('journal_partition')} "
            "AND journal_partition IN {partitions:Array(UInt16)}"
        ),
        witness_fields=(0, 3, 4, 5, 6, 8, 7),
        part_of=_dead_letter_part,
        mark_of=lambda record, row: (record.offset, 0),
        time_field=7,
        after_insert=partial(erase_late_letters, newest=settings.historian_rows_max),
    )


def _facts_part(record: Any) -> Part:
    pack = raw_pack_of(record)
    return Part(pack.first, pack.last, pack.booked_from_ms, pack.booked_to_ms, pack.count, bytes(pack.facts))


def _dead_letter_part(record: Any) -> Part:
    try:
        letter = decode_dead_letter(record.value)
    except UnreadableError as error:
        # Whoever wrote it there: it is kept as what it is, and those behind it are not kept waiting.
        rejection = Rejection("unreadable_record", str(error))
        at_ms = min(max(record.timestamp, 0), TIME_MS_MAX)
        letter = dead_letter(record.value or b"", rejection, record.topic, record.partition, record.offset, 0, at_ms)
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
    return Part(mark, mark, letter.received_at_ms, letter.received_at_ms, 1, encode_rows([row]))


@lru_cache(maxsize=64)
def _month(day: int) -> int:
    """The number of the month that a day is in; it rises with the month. `day` counts from 1970."""
    at = date.fromordinal(_EPOCH_DAY + day)
    return at.year * 12 + at.month
