"""The producer by Kafka: KafkaProducer writes usage events straight to the usage topic, packed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from schemas.problems import Rejection
from streams.client.producer import Bucket, EventPlace, Producer
from streams.core.packed_usage import packed_event
from streams.kafka.codecs import encode_usage
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Reach, partition_of, topics_of


class KafkaProducer(Producer):
    """A KafkaProducer sends straight to the usage topic, packed: what an event says is read here, not in the worker.

    The text of an event that is no good shows on the dead-letter topic, not here. It is sent as the JSON that it is, in
    records of their own.
    """

    def __init__(
        self,
        settings: Reach,
        *,
        events_per_pack: int = 500,
        linger_ms: int = 20,
        events_pending_max: int = 50_000,
    ) -> None:
        super().__init__(
            events_per_pack=events_per_pack,
            linger_ms=linger_ms,
            events_pending_max=events_pending_max,
            pack_bytes_max=512 * 1024,
        )
        self._settings = settings
        self._topic = topics_of(settings).usage
        self._publisher = Publisher(settings)
        self._connecting = asyncio.Lock()

    def _formed(self, text: bytes, is_own: bool) -> tuple[Bucket, bytes]:
        try:
            project, packed = packed_event(text)
        except Rejection:
            if is_own:
                raise
            return (partition_of("", self._settings.partitions), False), text
        return (partition_of(project, self._settings.partitions), True), packed

    async def _deliver(self, bucket: Bucket, texts: list[bytes]) -> list[EventPlace | Exception]:
        partition, is_packed = bucket
        await self._reconnect()
        record = encode_usage(texts) if is_packed else b"[" + b",".join(texts) + b"]"
        offset = await (await self._publisher.send(self._topic, partition, record))
        return [EventPlace(partition, offset, index) for index in range(len(texts))]

    async def _connect(self) -> None:
        await self._publisher.start()

    async def _disconnect(self) -> None:
        await self._publisher.stop()

    async def _reconnect(self) -> None:
        """Make a new connection where there is none, or where the old one can never send again."""
        async with self._connecting:
            if not self._publisher.is_alive:
                with suppress(Exception):
                    await self._publisher.stop()
                self._publisher = Publisher(self._settings)
                await self._publisher.start()
