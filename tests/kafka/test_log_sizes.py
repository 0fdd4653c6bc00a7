"""The bytes of logs on the brokers' disks, as a real Kafka tells them."""

import asyncio
import os
from collections.abc import Callable

from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.log_sizes import log_bytes
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings


def test_the_bytes_of_a_topic_are_what_its_records_take(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=3)
    topics = topics_of(settings)
    written, empty = topics.replies_changelog, topics.recent_replies_changelog

    async def run() -> dict[str, int]:
        await create_topics(settings)
        publisher = Publisher(settings)
        await publisher.start()
        for partition in range(3):
            await publisher.send_all(written, partition, [(b"key", os.urandom(50_000))])
        await publisher.stop()
        admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
        await admin.start()
        try:
            return await log_bytes(admin, [written, empty], settings.partitions)
        finally:
            await admin.close()

    found = asyncio.run(run())
    assert 150_000 < found[written] < 155_000
    assert found[empty] == 0
