"""The watchdog ends a worker that takes no records while some wait: a new process begins at the committed offsets.

It looks from outside, with a thread, an event loop and connections of its own, so that nothing that hangs the worker
hangs the watchdog. Heartbeats do not tell: they go on in Faust's consumer thread, and the group goes on believing in
this member.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.kafka.topics import ISOLATION, kafka_client_settings, topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

# The looks without any progress after which the watchdog acts. They are counted, not timed: while the machine sleeps,
# or this process is stopped, nobody looks.
LOOKS = 6

Offsets = dict[TopicPartition, int]


class Watchdog:
    """A Watchdog calls `on_stall`, with the reason, once this worker takes no records while some wait.

    `assigned` gives the partitions of this worker, `recovered` a number that grows while the worker reads changelogs.
    All three are called in the watchdog's thread.
    """

    def __init__(
        self,
        settings: Settings,
        assigned: Callable[[], Collection[tuple[str, int]]],
        recovered: Callable[[], int],
        on_stall: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._assigned = assigned
        self._recovered = recovered
        self._on_stall = on_stall
        topics = topics_of(settings)
        self._group = topics.worker_app
        self._all = [
            TopicPartition(topic, number)
            for topic in (topics.usage, topics.intake)
            for number in range(settings.partitions)
        ]

    def start(self) -> None:
        """Watch from now on, until the process ends."""
        threading.Thread(target=lambda: asyncio.run(self._watch()), name="watchdog", daemon=True).start()

    async def _watch(self) -> None:
        while True:
            try:
                await self._watch_while_connected()
            except (KafkaError, OSError) as error:
                # Without the broker there is nothing to take, and nothing to know.
                log.info("the watchdog can't ask the broker: %s", error)
            except Exception:
                # A watchdog that ended would guard nothing, and nobody would know.
                log.exception("the watchdog could not look; it looks again")
            await asyncio.sleep(self._settings.stall_seconds / LOOKS)

    async def _watch_while_connected(self) -> None:
        client = kafka_client_settings(self._settings)
        admin = AIOKafkaAdminClient(**client)
        # As the worker reads: the end is the last stable offset, and what an open transaction holds up is not awaited.
        consumer = AIOKafkaConsumer(**client, auto_offset_reset="earliest", isolation_level=ISOLATION)
        try:
            await admin.start()
            await consumer.start()
            consumer.assign(self._all)
            consumer.pause(*self._all)
            seen: tuple[Offsets, int] | None = None
            looks = 0
            while True:
                await asyncio.sleep(self._settings.stall_seconds / LOOKS)
                behind, ends = await self._behind(admin, consumer)
                now = behind, self._recovered()
                looks = looks + 1 if behind and now == seen else 0
                seen = now
                if looks >= LOOKS:
                    waiting = [tp for tp, offset in behind.items() if await has_record(consumer, tp, offset, ends[tp])]
                    if waiting:
                        places = ", ".join(f"{tp.topic}-{tp.partition} at {behind[tp]}" for tp in waiting)
                        self._on_stall(f"no record was taken for {self._settings.stall_seconds:g} s: {places}")
                    looks = 0
        finally:
            await consumer.stop()
            await admin.close()

    async def _behind(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer) -> tuple[Offsets, Offsets]:
        """The committed offset of each partition of this worker that has records after it, and where each ends; of all
        partitions, while none is assigned."""
        assigned = {TopicPartition(*tp) for tp in self._assigned()}
        mine = [tp for tp in self._all if tp in assigned] or self._all
        committed = await admin.list_consumer_group_offsets(self._group, partitions=mine)
        ends = await consumer.end_offsets(mine)
        offsets = {tp: max(0, committed[tp].offset) if tp in committed else 0 for tp in mine}
        return {tp: offset for tp, offset in offsets.items() if ends[tp] > offset}, ends


async def has_record(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int, end: int) -> bool:
    """Whether there is a record from `offset` on, before `end`. A transaction's markers have offsets too, but are no
    records; and what comes while this waits has not been waiting."""
    consumer.seek(tp, offset)
    consumer.resume(tp)
    try:
        records = (await consumer.getmany(tp, timeout_ms=5_000, max_records=1)).get(tp)
        return bool(records) and records[0].offset < end
    finally:
        consumer.pause(tp)
