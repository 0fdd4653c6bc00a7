"""Faust's Kafka transport with a fetch wait that suits decisions, and a lease that heartbeats renew.

Faust hard-codes `fetch_max_wait_ms=1500`: a broker that has nothing may sit on a fetch that long, and records of
another partition wait behind it.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers import aiokafka as driver

from streams.lease import Lease
from streams.membership import note_member

FETCH_WAIT_MS = 20


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
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
    async def on_partitions_assigned(self, assigned: Any) -> None:
        # The coordinator answered our join a moment ago, and its session timer runs from there.
        app = self._thread.app
        app.lease.renew(Lease.now())
        note_member(app.settings.worker_dir, self._thread._ensure_consumer()._coordinator.member_id)
        await super().on_partitions_assigned(assigned)


class _Consumer(driver.Consumer):  # type: ignore[misc]
    RebalanceListener = _Listener

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):  # type: ignore[misc]
    """The driver Faust would choose, but for the fetch wait and the lease (`app.lease`)."""

    Consumer = _Consumer
