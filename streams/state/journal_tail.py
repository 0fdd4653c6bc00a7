"""The tail of the journal: facts as they are stated, of the projects that somebody listens to, and of no others.

One consumer reads only the partitions that somebody listens to, each from its end. Of a record it decodes the heads of
the facts, and the rest only of those that are listened to; or all at once, where these were most of the record before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.facts import Fact, FactHead
from streams.kafka.codecs import decode_fact_heads, decode_facts, decode_some_facts
from streams.kafka.formats import FormatError
from streams.kafka.pace import FetchPace
from streams.kafka.stored import BrokenRecordError, read
from streams.kafka.topics import FETCH_BYTES, ISOLATION, kafka_client_settings, topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

# A fetch costs as much as it takes to decode hundreds of facts, so under load a few large ones are made.
_FETCH_WAIT_MS = 120
_FETCH_MIN_BYTES = 1024 * 1024
_IDLE_FETCH_WAIT_MS = 300
_RECORDS_MAX = 200
# So long at a time this may keep the loop from deciding.
_SLICE_SECONDS = 0.001
_BEGIN_SECONDS_MAX = 3.0
_PAUSE_SECONDS = 1.0

Place = tuple[int, int]
NOWHERE: Place = (-1, -1)


class JournalTail:
    """A JournalTail tells `on_facts` of the facts of `kinds` in partitions that are listened to, of those projects that
    `projects` has at that time; each fact once, in the order of its partition. `on_lost` hears of each partition of
    which something could not be read, so that it was told of less than there is. `places` has the highest place that
    was read so far of each partition."""

    def __init__(
        self,
        settings: Settings,
        kinds: Container[str],
        projects: Container[str],
        on_facts: Callable[[int, Sequence[Fact]], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._topic = topics_of(settings).journal
        self._kinds, self._projects = kinds, projects
        self._on_facts, self._on_lost = on_facts, on_lost
        self._listeners = Counter[int]()
        self._is_listened_to = asyncio.Event()
        self._pace = FetchPace(_FETCH_WAIT_MS, _IDLE_FETCH_WAIT_MS, _FETCH_MIN_BYTES)
        self._consumer: AIOKafkaConsumer | None = None
        # One partition is begun at a time, and none while the consumer is made anew.
        self._beginning = asyncio.Lock()
        # Of each partition that is read: where it ended when it was begun, where it is read on, and the highest place
        # read so far.
        self._begun_at: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self.places: dict[int, Place] = {}
        self._advanced = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        # Of most records most facts are wanted, or few: the last tells how to read the next.
        self._wants_most = False

    async def listen(self, partition: int) -> Place:
        """Listen to a partition: from the answer on, `on_facts` is told of what comes. Gives the place of the last fact
        before that, or NOWHERE where there is none. Raises KafkaError where Kafka does not answer in time."""
        self._listeners[partition] += 1
        self._is_listened_to.set()
        if self._reader is None:
            self._reader = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(_BEGIN_SECONDS_MAX), self._beginning:
                await self._begin(partition)
            # The last record before the end only says how far the facts have come.
            with suppress(TimeoutError):
                async with asyncio.timeout(_BEGIN_SECONDS_MAX), self._advanced:
                    await self._advanced.wait_for(lambda: self._is_at_work(partition))
        except TimeoutError:
            self.leave(partition)
            raise KafkaError("the journal can't be read") from None
        except BaseException:
            self.leave(partition)
            raise
        return self.places.get(partition, NOWHERE)

    def leave(self, partition: int) -> None:
        """Undo one `listen`."""
        self._listeners[partition] -= 1
        if self._listeners[partition] > 0:
            return
        del self._listeners[partition]
        self._begun_at.pop(partition, None)
        self.places.pop(partition, None)
        if self._consumer is not None:
            self._consumer.pause(TopicPartition(self._topic, partition))
        if not self._listeners:
            self._is_listened_to.clear()

    def end(self, partition: int) -> int:
        """The offset of the next record of a partition that is listened to: all before it that was not told, was
        stated before somebody listened."""
        return self._ends.get(partition, 0)

    async def stop(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._close()

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **kafka_client_settings(self._settings),
                enable_auto_commit=False,
                auto_offset_reset="latest",
                isolation_level=ISOLATION,
                fetch_max_wait_ms=_FETCH_WAIT_MS,
                max_partition_fetch_bytes=FETCH_BYTES,
            )
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            places = [TopicPartition(self._topic, number) for number in range(self._settings.partitions)]
            consumer.assign(places)
            consumer.pause(*places)
            for place in places:
                # A position of its own: looked up, it could come after a partition is begun, and in its place.
                consumer.seek(place, 0)
            self._consumer = consumer
        return self._consumer

    async def _begin(self, partition: int) -> None:
        consumer = await self._started()
        if partition in self._begun_at:
            return
        place = TopicPartition(self._topic, partition)
        begin, end = (await consumer.beginning_offsets([place]))[place], (await consumer.end_offsets([place]))[place]
        # An owner that crashed says again what it said last, and only a place that is known tells that it did.
        consumer.seek(place, max(begin, end - 1))
        self.places.pop(partition, None)
        if begin == end:
            self.places[partition] = NOWHERE
        self._begun_at[partition] = self._ends[partition] = end
        consumer.resume(place)

    def _is_at_work(self, partition: int) -> bool:
        return partition in self.places

    async def _run(self) -> None:
        while True:
            await self._is_listened_to.wait()
            try:
                consumer = self._consumer
                if consumer is None or not self._begun_at:
                    async with self._beginning:
                        for partition in list(self._listeners):
                            await self._begin(partition)
                    continue
                await self._step(consumer)
            except Exception as error:
                log.warning("the live ledger can't read the journal, and begins anew: %r", error)
                await self._begin_anew()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        found = await consumer.getmany(timeout_ms=self._pace.wait_ms, max_records=_RECORDS_MAX)
        self._pace.note(consumer, bool(found))
        began = time.monotonic()
        for records in found.values():
            for record in records:
                self._take(record)
                if time.monotonic() - began > _SLICE_SECONDS:
                    await asyncio.sleep(0)
                    began = time.monotonic()
        if found:
            async with self._advanced:
                self._advanced.notify_all()

    def _take(self, record: Any) -> None:
        """Tell of the facts of a record that are listened to. What the owner says again after a crash was told."""
        partition = record.partition
        begun_at = self._begun_at.get(partition)
        if begun_at is None:
            return  # nobody listens any more
        try:
            whole = read(record, decode_facts) if self._wants_most else None
            first, end, heads = _span(record) if whole is None else (_place(whole[0]), _place(whole[-1]), whole)
            last = self.places.get(partition, NOWHERE)
            self.places[partition] = max(last, end)
            self._ends[partition] = max(self._ends[partition], record.offset + 1)
            if record.offset < begun_at or end <= last:
                return
            projects, kinds, is_new = self._projects, self._kinds, first > last
            numbers = [
                number
                for number, head in enumerate(heads)
                if head.project in projects and head.kind in kinds and (is_new or _place(head) > last)
            ]
            self._wants_most = 2 * len(numbers) > len(heads)
            if not numbers:
                return
            if whole is None:
                facts = read(record, lambda value: decode_some_facts(value, numbers))
            else:
                facts = whole if len(numbers) == len(whole) else [whole[number] for number in numbers]
            self._on_facts(partition, facts)
        except (BrokenRecordError, FormatError) as error:
            log.error("the live ledger passes over what can't be read: %s", error)
            self.places.setdefault(partition, NOWHERE)
            self._on_lost(partition)

    async def _begin_anew(self) -> None:
        async with self._beginning:
            await self._close()
            self._begun_at.clear()
        for partition in list(self._listeners):
            self._on_lost(partition)

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


def _span(record: Any) -> tuple[Place, Place, Sequence[Fact | FactHead]]:
    """The places of a record's first and last fact, and the heads of all."""
    pack = read(record, decode_fact_heads)
    return pack.first, pack.last, pack.facts


def _place(fact: Fact | FactHead) -> Place:
    return fact.offset, fact.index
