"""Faust's Kafka transport with a fetch wait that suits decisions.

Faust hard-codes `fetch_max_wait_ms=1500`: a broker that has nothing may sit on a fetch that long, and records of
another partition wait behind it.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers import aiokafka as driver

FETCH_WAIT_MS = 20


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class _Consumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):  # type: ignore[misc]
    """The driver Faust would choose, but for the fetch wait."""

    Consumer = _Consumer
