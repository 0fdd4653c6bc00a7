"""Recovery of the tables, which reads changelogs a fetch at a time, where Faust takes them a record at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.tables import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery
from faust.types import TP

from streams.collector import CycleCollector
from streams.kafka.stored import other_timelines
from streams.kafka.topics import kafka_client_settings
from streams.settings import Settings
from streams.worker.tables import PartitionedStore

# The logger has another name than this module: Faust logs under that for the classes derived here, and is kept quiet.
log = logging.getLogger("meterline.recovery")

_FETCH_BYTES = 1024 * 1024
# Records written at once: enough for RocksDB to take them in key order, few enough that heartbeats and rebalances get
# their turn.
_RECORDS_MAX = 4000


class Recovery(FaustRecovery):  # type: ignore[misc]
    """Recovery reads changelogs for Faust, which decides what must be recovered, and finds it done when it looks.

    A partition that changes owner meanwhile, or a worker that ends, is for Faust to see: it cancels the reading and
    begins anew.
    """

    settings: Settings

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        if title == "active":
            await self._drop_other_timelines(tps, destination)
        await super()._build_offsets(consumer, tps, destination, title)

    async def _drop_other_timelines(self, tps: set[TP], offsets: Any) -> None:
        """Remove files that hold what their changelog does not, so that they are read anew: Kafka was restored from an
        older backup."""
        stores: dict[TP, PartitionedStore] = {tp: self.tp_to_table[tp].data for tp in tps}
        held = {
            TopicPartition(*tp): offset
            for tp, store in stores.items()
            if (offset := store.persisted_offset(tp)) is not None and offset >= 0
        }

        def is_held(record: Any) -> bool:
            store = stores[TP(record.topic, record.partition)]
            return store.has(record.partition, record.key, record.value)

        for place in await other_timelines(self.settings, held, is_held):
            log.warning("the local copy of %s-%s is not of this Kafka; it is read anew", place.topic, place.partition)
            tp = TP(place.topic, place.partition)
            stores[tp].drop(place.partition)
            offsets[tp] = -1

    async def _seek_offsets(self, consumer: Any, tps: set[TP], offsets: dict[TP, int], title: str) -> None:
        if title == "active":
            await self._catch_up({tp for tp in tps if offsets[tp] < self.active_highwaters[tp]}, offsets)
        await super()._seek_offsets(consumer, tps, offsets, title)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Hold all records back until Faust's own method is through, which ends with letting the flow go on.

        Faust resumes our topics' partitions, looks up their committed offsets, and then empties every stream's queue.
        Records that got into a queue in between would be gone: later ones may have passed by then, and the same ones
        are dropped as old when they are fetched again. (Starting workers on a backlog of 260 records, 2 rounds of 10
        lost one.)
        """
        self.app.consumer.stop_flow()
        self.app.flow_control.suspend()
        await super().on_recovery_completed(generation_id)

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        # After a timeout Faust takes itself for stopped: the worker would stay, and never decide anything.
        # Every wait is for Kafka, whose client has timeouts of its own that raise.
        await super()._wait(coro)

    async def _catch_up(self, behind: set[TP], offsets: dict[TP, int]) -> None:
        """Read each changelog from above its offset up to its highwater, into the tables' files."""
        if not behind:
            return
        began_at = time.monotonic()
        count = 0
        collector = CycleCollector()
        consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        await consumer.start()
        try:
            places = {TopicPartition(tp.topic, tp.partition): tp for tp in behind}
            consumer.assign(list(places))
            for place, tp in places.items():
                consumer.seek(place, offsets[tp] + 1)
            while places:
                for place, records in (await consumer.getmany(timeout_ms=200, max_records=_RECORDS_MAX)).items():
                    tp = places[place]
                    if tp not in self.active_tps:
                        continue  # revoked a moment ago; this reading is about to be cancelled
                    store: PartitionedStore = self.tp_to_table[tp].data
                    offsets[tp] = records[-1].offset
                    # A record without a key is none of ours, whoever wrote it.
                    rows = [(record.key, record.value) for record in records if record.key]
                    store.apply(tp.partition, rows, offsets[tp])
                    count += len(records)
                    self._active_events_received_at[tp] = time.monotonic()
                    # RocksDB's writes do not yield, and fetches and heartbeats wait for the loop.
                    await asyncio.sleep(0)
                collector.tick()
                # The position tells, not the records: the last of them may be compacted away.
                done = [
                    place for place in places if await consumer.position(place) > self.active_highwaters[places[place]]
                ]
                for place in done:
                    tp = places.pop(place)
                    offsets[tp] = max(offsets[tp], self.active_highwaters[tp])
                consumer.pause(*done)
        finally:
            await consumer.stop()
        log.info(
            "read %d changelog records of %d partitions in %.1f s", count, len(behind), time.monotonic() - began_at
        )


class TableManager(FaustTableManager):  # type: ignore[misc]
    """Faust's table manager, with our recovery, and without the second that Faust sleeps before it begins."""

    _recovery: Recovery | None

    @property
    def recovery(self) -> Recovery:
        """The service that recovers the tables."""
        if self._recovery is None:
            recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
            recovery.settings = self.app.settings
            self._recovery = recovery
        return self._recovery

    async def on_start(self) -> None:
        """Register the changelogs; the consumer subscribes once that is done."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()
