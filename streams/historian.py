"""The historian: journal and dead letters into ClickHouse, in columnar blocks, each row exactly once.

How far it got is what ClickHouse itself holds: on every assignment, and after every failure, it asks for the highest
row of each partition and goes on from there. Nothing else remembers a position.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from streams.clickhouse import ClickHouse
from streams.codecs import decode_dead_letter, decode_facts
from streams.settings import Settings
from streams.topics import kafka_client_settings, topics_of

log = logging.getLogger(__name__)

Mark = tuple[int, int]
Row = tuple[Any, ...]
_NOTHING: Mark = (-1, -1)
_DAY_MS = 86_400_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Sink:
    """A topic, the table it goes to, and how a record becomes rows: (mark, month, row) each, marks rising."""

    topic: str
    table: str
    columns: tuple[str, ...]
    marks_sql: str
    rows: Callable[[Any], Iterator[tuple[Mark, int, Row]]]


@dataclass(slots=True)
class _Pending:
    """Rows waiting for their insert, in order of arrival with their months, and the marks they will have reached."""

    rows: list[tuple[int, Row]] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    since: float = 0.0


class Historian:
    """Writes one topic's rows to one table until it is stopped. `rows_written` counts those of this process."""

    def __init__(self, settings: Settings, clickhouse: ClickHouse, sink: Sink) -> None:
        self.settings = settings
        self.clickhouse = clickhouse
        self.sink = sink
        self.rows_written = 0
        self.ready = asyncio.Event()
        self._marks: dict[int, Mark] = {}
        self._pending = _Pending()
        # Counts changes of assignment: records that were asked for under another one are not to be trusted to be next.
        self._assignment = 0
        self._interrupted = True
        self._writing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None

    async def run(self) -> None:
        """Run until cancelled. A failed insert is tried again, from what ClickHouse says it holds."""
        consumer = self._consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            group_id=f"{topics_of(self.settings).historian_group}-{self.sink.table}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=min(100, self.settings.historian_flush_ms),
            max_partition_fetch_bytes=8 * 1024 * 1024,
            session_timeout_ms=int(self.settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(self.settings.session_timeout_seconds * 1000 / 3),
        )
        consumer.subscribe([self.sink.topic], listener=_OnAssigned(self))
        await consumer.start()
        try:
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
        """The assignment changes: finish the insert under way; what is pending is read again, or is another's now."""
        self._assignment += 1
        self._interrupted = True
        self.ready.clear()
        async with self._writing:
            self._marks.clear()
            self._pending = _Pending()

    async def resume(self) -> None:
        """Drop what is pending and read on after what ClickHouse holds."""
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
        waited = time.monotonic() - pending.since if pending.rows else 0.0
        records = await consumer.getmany(timeout_ms=max(1, int((flush_seconds - waited) * 1000)), max_records=64)
        if assignment != self._assignment:
            return  # some of it may be another's now; what is still ours is read again
        for tp, partition_records in records.items():
            for record in partition_records:
                self._add(tp, record)
        if pending.rows and (
            len(pending.rows) >= self.settings.historian_rows_max or time.monotonic() - pending.since >= flush_seconds
        ):
            async with self._writing:
                if assignment == self._assignment:
                    await self._flush(consumer)

    def _add(self, tp: TopicPartition, record: Any) -> None:
        pending = self._pending
        mark = pending.marks.get(tp.partition) or self._marks[tp.partition]
        if not pending.rows:
            pending.since = time.monotonic()
        for row_mark, month, row in self.sink.rows(record):
            # Below the mark: a batch that the owner repeated, or a record we had in part.
            if row_mark > mark:
                mark = row_mark
                pending.rows.append((month, row))
        pending.marks[tp.partition] = mark

    async def _flush(self, consumer: AIOKafkaConsumer) -> None:
        pending, self._pending = self._pending, _Pending()
        # Cut where the month changes, in order of arrival: what is missing after a crash is then always the newest.
        for _, group in groupby(pending.rows, key=itemgetter(0)):
            while block := [row for _, row in islice(group, self.settings.historian_rows_max)]:
                await asyncio.to_thread(
                    self.clickhouse.insert_columns, self.sink.table, self.sink.columns, list(zip(*block, strict=True))
                )
                self.rows_written += len(block)
        self._marks.update(pending.marks)
        # For lag monitors only; no reader of ours starts from it.
        await consumer.commit()


class _OnAssigned(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, historian: Historian) -> None:
        self._historian = historian

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        await self._historian.interrupt()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        await self._historian.interrupt()


def journal_sink(settings: Settings) -> Sink:
    """Facts, exact by (offset, index)."""
    return Sink(
        topic=topics_of(settings).journal,
        table="facts",
        columns=[
            "partition",
            "offset",
            "position",
            "journal_offset",
            "kind",
            "project",
            "environment",
            "operation",
            "quantity",
            "amount",
            "balance",
            "grant_id",
            "reason",
            "price_version",
            "source",
            "event_id",
            "job_id",
            "key_id",
            "occurred_at",
            "booked_at",
            "metadata",
        ],  # type: ignore[arg-type]
        marks_sql=(
            "SELECT partition, tupleElement(mark, 1), tupleElement(mark, 2), journal FROM "
            "(SELECT partition, max((offset, position)) AS mark, max(journal_offset) AS journal FROM facts "
            "GROUP BY partition)"
        ),
        rows=_fact_rows,
    )


def dead_letter_sink(settings: Settings) -> Sink:
    """Dead letters, exact by their offset on their topic."""
    return Sink(
        topic=topics_of(settings).dead_letters,
        table="dead_letters",
        columns=[
            "journal_partition",
            "journal_offset",
            "code",
            "detail",
            "field",
            "topic",
            "partition",
            "offset",
            "position",
            "received_at",
            "event",
        ],  # type: ignore[arg-type]
        marks_sql=(
            "SELECT journal_partition, max(journal_offset) AS newest, 0, newest FROM dead_letters "
            "GROUP BY journal_partition"
        ),
        rows=_dead_letter_rows,
    )


def _fact_rows(record: Any) -> Iterator[tuple[Mark, int, Row]]:
    for fact in decode_facts(record.value):
        yield (
            (fact.offset, fact.index),
            _month(fact.booked_at_ms // _DAY_MS),
            (
                record.partition,
                fact.offset,
                fact.index,
                record.offset,
                fact.kind,
                fact.project,
                fact.environment,
                fact.operation,
                fact.quantity,
                fact.amount,
                fact.balance,
                fact.grant_id,
                fact.reason,
                fact.price_version,
                fact.source,
                fact.event_id,
                fact.job_id,
                fact.key_id,
                fact.occurred_at_ms,
                fact.booked_at_ms,
                fact.metadata,
            ),
        )


def _dead_letter_rows(record: Any) -> Iterator[tuple[Mark, int, Row]]:
    letter = decode_dead_letter(record.value)
    yield (
        (record.offset, 0),
        _month(letter.received_at_ms // _DAY_MS),
        (
            record.partition,
            record.offset,
            letter.code,
            letter.detail,
            letter.field,
            letter.topic,
            letter.partition,
            letter.offset,
            letter.index,
            letter.received_at_ms,
            letter.event,
        ),
    )


@lru_cache(maxsize=64)
def _month(day: int) -> int:
    """A number that is the same for the days of one month, and rises; `day` counts from 1970."""
    at = date.fromordinal(_EPOCH_DAY + day)
    return at.year * 12 + at.month
