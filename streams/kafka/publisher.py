"""The publisher, an idempotent Kafka producer: every record it has acknowledged is on the log, in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from streams.kafka.topics import Reach, kafka_client_settings

_BATCH_BYTES = 512 * 1024
REQUEST_BYTES_MAX = 8 * 1024 * 1024


class Publisher:
    """A Publisher sends records and waits until all in-sync replicas acknowledge them. Any failure is an exception."""

    def __init__(self, settings: Reach) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        # While a partition's batch is full, aiokafka lets those who come later overtake those who wait for the next
        # one, and has each wait for 30 seconds at most: under load that came true. Here they wait in turn.
        self._turns: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def start(self) -> None:
        """Connect to the brokers."""
        producer = AIOKafkaProducer(
            **kafka_client_settings(self._settings),
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
            compression_type="zstd",
            request_timeout_ms=30_000,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

    async def stop(self) -> None:
        """Send what is queued, and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    @property
    def is_alive(self) -> bool:
        """Whether the publisher can still send. An idempotent producer that lost its place in the log never can
        again."""
        if self._producer is None:
            return False
        sender = self._producer._sender.sender_task
        return sender is not None and not sender.done()

    async def send(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None = None
    ) -> asyncio.Future[int]:
        """Queue one record, behind those of its partition that came before; the future gives its offset once the record
        is acknowledged."""
        return asyncio.ensure_future(_offset(await self._queue(topic, partition, value, key)))

    async def append(self, topic: str, partition: int, value: bytes) -> tuple[int, int]:
        """Send one record; gives its offset and its time, in Unix milliseconds, once it is acknowledged. On a topic of
        LogAppendTime the time is the broker's."""
        metadata = await (await self._queue(topic, partition, value))
        return metadata.offset, metadata.timestamp

    async def send_all(
        self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]
    ) -> int | None:
        """Send records, in order, in as few batches as they fit in. Returns the last offset once all are
        acknowledged. A value of None is a tombstone of its key."""
        producer = self._started()
        last: int | None = None
        batch = producer.create_batch()
        pending: list[tuple[asyncio.Future[RecordMetadata], int]] = []
        for key, value in records:
            if batch.append(key=key, value=value, timestamp=None) is None:
                if not batch.record_count():
                    # A record larger than a whole batch goes on its own: then only the limit of a request counts.
                    last = await (await self.send(topic, partition, value, key))
                    continue
                pending.append((await self._queue_batch(topic, partition, batch), batch.record_count()))
                batch = producer.create_batch()
                if batch.append(key=key, value=value, timestamp=None) is None:
                    last = await (await self.send(topic, partition, value, key))
        if batch.record_count():
            pending.append((await self._queue_batch(topic, partition, batch), batch.record_count()))
        for future, count in pending:
            metadata = await future
            last = max(last if last is not None else -1, metadata.offset + count - 1)
        return last

    async def _queue(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None = None
    ) -> asyncio.Future[RecordMetadata]:
        async with self._turns[topic, partition]:
            sent: asyncio.Future[RecordMetadata] = await self._started().send(
                topic, value, key=key, partition=partition
            )
        return sent

    async def _queue_batch(self, topic: str, partition: int, batch: BatchBuilder) -> asyncio.Future[RecordMetadata]:
        async with self._turns[topic, partition]:
            sent: asyncio.Future[RecordMetadata] = await self._started().send_batch(batch, topic, partition=partition)
        return sent

    def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("The publisher is not started")
        return self._producer


async def _offset(sent: asyncio.Future[RecordMetadata]) -> int:
    offset: int = (await sent).offset
    return offset
