"""Helpers that write an intake log with times of a test's choice."""

from __future__ import annotations

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings


async def create_intake(settings: Settings) -> None:
    """Create the intake topic so that it keeps the times it is given. Comes before the stack, which creates it too."""
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    topic = topics_of(settings).intake
    config = topics_of(settings).configs()[topic] | {
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": str(2**63 - 1),
    }
    await admin.create_topics([NewTopic(topic, settings.partitions, 1, topic_configs=config)])
    await admin.close()


async def write_intake(settings: Settings, records: list[tuple[int, int, bytes]]) -> None:
    """Write records to that topic in order, each (partition, Unix ms, value)."""
    topic = topics_of(settings).intake
    producer = AIOKafkaProducer(**kafka_client_settings(settings), enable_idempotence=True)
    await producer.start()
    for partition, at_ms, value in records:
        await producer.send(topic, value, partition=partition, timestamp_ms=at_ms)
    await producer.stop()
