"""The creation of all topics, the check of those that exist, and the first record of one."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import collect_hosts
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError

from streams.kafka.topics import ISOLATION, TopicError, kafka_client_settings, topics_of
from streams.settings import Settings

FIRST_RECORD_SECONDS = 10
# How often a process looks whether the Kafka that it waits for is there.
WAIT_POLL_SECONDS = 0.05


async def first_record_from(settings: Settings, place: TopicPartition, offset: int) -> int | None:
    """The offset of a partition's first record from `offset` on; None where none comes within FIRST_RECORD_SECONDS.

    A transaction's markers have offsets, but are no records, and neither is what it aborted.
    """
    consumer = AIOKafkaConsumer(
        **kafka_client_settings(settings), auto_offset_reset="earliest", isolation_level=ISOLATION
    )
    await consumer.start()
    try:
        consumer.assign([place])
        consumer.seek(place, offset)
        records = await consumer.getmany(place, timeout_ms=1000 * FIRST_RECORD_SECONDS, max_records=1)
        return int(records[place][0].offset) if records.get(place) else None
    finally:
        await consumer.stop()


async def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing and check those that exist. Returns the names of those created.

    A Kafka that is not there yet is waited for, for `kafka_wait_seconds`. Raises TopicError where a topic has another
    partition count than the settings, and KafkaConnectionError where there is no Kafka.
    """
    topics = topics_of(settings)
    configs = topics.configs(settings.dedup_days, settings.kept_for)
    admin = await _connected(settings)
    try:
        existing = set(await admin.list_topics())
        missing = [name for name in configs if name not in existing]
        if missing:
            await _create(admin, settings, {name: configs[name] for name in missing})
        await _check_partitions(admin, list(configs), settings.partitions)
    finally:
        await admin.close()
    return missing


async def require_topics(settings: Settings) -> None:
    """Raise TopicError where a topic is missing or has another partition count than the settings; create none."""
    names = list(topics_of(settings).configs())
    admin = await _connected(settings)
    try:
        missing = set(names) - set(await admin.list_topics())
        if missing:
            raise TopicError(
                f"There is no topic {min(missing)} at {settings.kafka_url}: is METERLINE_TOPIC_PREFIX that of the "
                "running system? `meterline topics` makes new ones"
            )
        await _check_partitions(admin, names, settings.partitions)
    finally:
        await admin.close()


async def _connected(settings: Settings) -> AIOKafkaAdminClient:
    options = kafka_client_settings(settings)
    deadline = time.monotonic() + settings.kafka_wait_seconds
    while True:
        await _await_listener(options["bootstrap_servers"], deadline)
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            return admin
        except KafkaConnectionError:
            await admin.close()
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(WAIT_POLL_SECONDS)


async def _await_listener(servers: list[str], deadline: float) -> None:
    """Return once one of the servers accepts connections, or at the deadline: asking the client itself until then
    would fill the log with its errors."""
    while (left := deadline - time.monotonic()) > 0:
        for host, port, _ in collect_hosts(servers):
            # A timeout is an OSError too.
            with suppress(OSError):
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), left)
                writer.close()
                return
        await asyncio.sleep(WAIT_POLL_SECONDS)


async def _create(admin: AIOKafkaAdminClient, settings: Settings, configs: dict[str, dict[str, str]]) -> None:
    response = await admin.create_topics(
        [
            NewTopic(name, settings.partitions, settings.replication_factor, topic_configs=config)
            for name, config in configs.items()
        ]
    )
    for error in response.topic_errors:
        name, code, *rest = error
        if code not in (0, TopicAlreadyExistsError.errno):
            raise TopicError(f"Topic {name} could not be created: {rest[0] if rest else code}")


async def _check_partitions(admin: AIOKafkaAdminClient, names: list[str], partitions: int) -> None:
    for _ in range(100):
        found = {topic["topic"]: topic for topic in await admin.describe_topics(names)}
        # A topic that was made a moment ago may not have reached this broker's metadata yet.
        if all(name in found and found[name]["error_code"] == 0 and found[name]["partitions"] for name in names):
            break
        await asyncio.sleep(0.05)
    else:
        raise TopicError(f"The cluster does not show the topics {', '.join(names)}; is it healthy?")
    for name in names:
        count = len(found[name]["partitions"])
        if count != partitions:
            raise TopicError(
                f"Topic {name} has {count} partitions, the settings say {partitions}. Every topic needs the same "
                f"count, and it can't be changed once there is data: set METERLINE_PARTITIONS={count}, or set another "
                "METERLINE_TOPIC_PREFIX to start anew."
            )
