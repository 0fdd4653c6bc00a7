"""Commits: how far a consumer group has come, asked of Kafka once for all who wait for it."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.topics import kafka_client_settings
from streams.settings import Settings

_ASK_SECONDS = 0.05


class Commits:
    """Commits are the offsets that a consumer group has committed of a topic."""

    def __init__(self, settings: Settings, group: str, topic: str) -> None:
        self._settings, self._group, self._topic = settings, group, topic
        self._admin: AIOKafkaAdminClient | None = None
        self._offsets: dict[int, int] = {}
        self._asked_at = 0.0
        self._asking = asyncio.Lock()

    async def wait_for(self, partition: int, offset: int) -> None:
        """Wait until the group has committed this offset of a partition, or a later one. Raises KafkaError."""
        loop = asyncio.get_running_loop()
        while self._offsets.get(partition, 0) < offset:
            async with self._asking:
                if self._offsets.get(partition, 0) >= offset:
                    return
                await asyncio.sleep(max(0.0, self._asked_at + _ASK_SECONDS - loop.time()))
                self._asked_at = loop.time()
                try:
                    await self._ask()
                except BaseException:
                    await self.stop()
                    raise

    async def stop(self) -> None:
        """Disconnect."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def _ask(self) -> None:
        if self._admin is None:
            admin = AIOKafkaAdminClient(**kafka_client_settings(self._settings))
            try:
                await admin.start()
            except BaseException:
                await admin.close()
                raise
            self._admin = admin
        places = [TopicPartition(self._topic, number) for number in range(self._settings.partitions)]
        found = await self._admin.list_consumer_group_offsets(self._group, partitions=places)
        self._offsets = {place.partition: each.offset for place, each in found.items()}
