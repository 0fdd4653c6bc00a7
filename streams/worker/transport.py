"""Faust's Kafka transport with a fetch wait that suits decisions, and a lease that heartbeats renew.

Faust hard-codes `fetch_max_wait_ms=1500`: a broker that has nothing may sit on a fetch that long, and records of
another partition wait behind it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from faust.transport.drivers import aiokafka as driver

from streams.kafka.pace import FetchPace
from streams.kafka.topics import ISOLATION, topics_of
from streams.worker.lease import Lease
from streams.worker.membership import note_member

# While records come, those of a partition that was not fetched at once may wait this long behind the others.
FETCH_WAIT_MS = 20
# Once no records come, one fetch waits for all partitions, and the first record of any ends it: so asking seldom costs
# nothing.
IDLE_FETCH_WAIT_MS = 250


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """A consumer thread in which no fetch outlives a seek to the committed offsets.

    Faust goes back to those after every rebalance, while a fetch from before may still wait in this thread. Records
    that such a fetch brought after the seek would be dropped, since the flow is stopped, and the position would be past
    them: lost, until another worker reads them. Or they would be taken, and the records before them dropped as old.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seeks = 0
        self._is_seeking = False
        self._fetches: set[asyncio.Future[Any]] = set()
        self._pace = FetchPace(FETCH_WAIT_MS, IDLE_FETCH_WAIT_MS)

    async def getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Fetch records, by partition. Faust's thread calls this, and may see records only after a seek: those are
        dropped."""
        seeks, records = await super().getmany(active_partitions, timeout)
        return records if seeks == self._seeks else {}

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        """Fetch records in this thread; gives after how many seeks they were fetched, and the records."""
        seeks = self._seeks
        if self._is_seeking:
            return seeks, {}
        fetch = asyncio.ensure_future(super()._fetch_records(consumer, *args, **kwargs))
        self._fetches.add(fetch)
        try:
            await asyncio.wait({fetch})
        finally:
            self._fetches.discard(fetch)
            fetch.cancel()
        records = {} if fetch.cancelled() else fetch.result()
        self._pace.note(consumer, bool(records))
        return seeks, records

    async def seek_to_committed(self) -> Any:
        """Go back to the committed offset in every partition; gives the offsets."""
        return await self.call_thread(self._seek_to_committed)

    async def _seek_to_committed(self) -> Any:
        self._is_seeking = True
        try:
            fetches = set(self._fetches)
            for fetch in fetches:
                fetch.cancel()
            if fetches:
                await asyncio.wait(fetches)
            self._seeks += 1
            consumer = self._ensure_consumer()
            offsets = await consumer.seek_to_committed()
            # aiokafka does not move a partition for which nothing is committed yet: records that were fetched of it
            # before, and are let go now, would never come again.
            topics = topics_of(self.app.settings)
            for tp, offset in offsets.items():
                if not offset and tp.topic in (topics.usage, topics.intake):
                    consumer.seek(tp, 0)
            return offsets
        finally:
            self._is_seeking = False

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        # Strangers write to usage: what the transaction of one aborted was never sent.
        consumer._isolation_level = ISOLATION
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        lease: Lease = self.app.lease
        coordinator = self._ensure_consumer()._coordinator
        beat = coordinator._do_heartbeat

        async def beat_and_renew() -> bool:
            sent_at = lease.now()
            answered = bool(await beat())
            if answered:
                lease.renew(sent_at)
            return answered

        coordinator._do_heartbeat = beat_and_renew


class _Listener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    def on_partitions_revoked(self, revoked: Any) -> Any:
        # This comes before the coordinator hears of it: records being written now are on the log before others read it.
        self._thread.app.lease.revoke()
        return super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        app, coordinator = self._thread.app, self._thread._ensure_consumer()._coordinator
        app.lease.assign(coordinator.generation)
        note_member(app.settings.worker_dir, coordinator.member_id)
        await super().on_partitions_assigned(assigned)


class _Consumer(driver.Consumer):  # type: ignore[misc]
    RebalanceListener = _Listener

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):  # type: ignore[misc]
    """The Kafka transport that Faust would choose, but for the fetch wait and the lease (`app.lease`)."""

    Consumer = _Consumer
