"""Compaction on demand: the broker compacts the accounts changelog now, instead of in a day."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.errors import OperatorError
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings

_EAGER = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
_SECONDS_MAX = 120.0


async def compact_eagerly(settings: Settings) -> None:
    """Have the broker compact the accounts changelog eagerly: a segment is compacted soon after the next has begun."""
    topics = topics_of(settings)
    config = topics.configs(settings.dedup_days)[topics.accounts_changelog] | _EAGER
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    try:
        node = str((await admin.describe_cluster())["brokers"][0]["node_id"])
        for resource in (
            ConfigResource(ConfigResourceType.TOPIC, topics.accounts_changelog, config),
            ConfigResource(ConfigResourceType.BROKER, node, {"log.cleaner.backoff.ms": "200"}),
        ):
            (response,) = [each for each in await admin.alter_configs([resource]) if each.resources]
            code, message, *_ = response.resources[0]
            if code:
                raise OperatorError(f"{resource.name} could not be configured: {message}")
    finally:
        await admin.close()


async def await_compaction(settings: Settings, records_max: int) -> int:
    """Wait until the accounts changelog has `records_max` records at most, and return how many it has."""
    deadline = time.monotonic() + _SECONDS_MAX
    while (left := await _count(settings)) > records_max:
        if time.monotonic() > deadline:
            raise OperatorError(f"The changelog still has {left:,} records, {records_max:,} would be compacted")
        await asyncio.sleep(1.0)
    return left


async def _count(settings: Settings) -> int:
    consumer = AIOKafkaConsumer(
        **kafka_client_settings(settings), auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES
    )
    await consumer.start()
    count = 0
    try:
        topic = topics_of(settings).accounts_changelog
        partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            count += sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
    finally:
        await consumer.stop()
    return count
