"""The traffic of a benchmark on Kafka: what a block has written, by topic."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.log_sizes import log_bytes
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings

# The ways through Kafka, one after the other. What stands in one line is written at once.
HOPS_OF_A_DECISION = (
    "callers → intake, acknowledged",
    "intake → worker",
    "worker → journal, dedup index and kept replies, acknowledged",
    "worker → accounts, and replies → callers",
)
HOPS_OF_AN_EVENT = (
    "producers → usage",
    "usage → worker → intake, acknowledged",
    "intake → worker → journal, dedup index and kept replies, acknowledged",
    "worker → accounts; journal → history",
)


class Traffic:
    """Traffic counts, for each of our topics, the bytes by which its log grows while a block runs, and the records.

    Bytes are those on the brokers' disks, compressed, with the records' heads. Kafka's own topics are not among them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bytes: dict[str, int] = {}
        self._records: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bytes, self._records = asyncio.run(_written(self._settings))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            sizes, ends = asyncio.run(_written(self._settings))
            self._bytes = {name: size - self._bytes[name] for name, size in sizes.items()}
            self._records = {name: end - self._records[name] for name, end in ends.items()}

    def per(self, count: int) -> dict[str, Any]:
        """The traffic of each of `count` decisions or events: `bytes` in all and by topic, and records by topic."""
        return {
            "bytes": round(sum(self._bytes.values()) / count, 1),
            "bytes_by_topic": {name: round(size / count, 1) for name, size in self._bytes.items()},
            "records_by_topic": {name: round(records / count, 5) for name, records in self._records.items()},
        }


async def _written(settings: Settings) -> tuple[dict[str, int], dict[str, int]]:
    """The bytes of each topic's log, and the offset at its end, by the topic's name without our prefix."""
    names = list(topics_of(settings).configs())
    client = kafka_client_settings(settings)
    admin, consumer = AIOKafkaAdminClient(**client), AIOKafkaConsumer(**client)
    await admin.start()
    try:
        await consumer.start()
        sizes = await log_bytes(admin, names, settings.partitions)
        places = [TopicPartition(name, number) for name in names for number in range(settings.partitions)]
        ends = dict.fromkeys(names, 0)
        for place, end in (await consumer.end_offsets(places)).items():
            ends[place.topic] += end
    finally:
        await consumer.stop()
        await admin.close()

    def short(name: str) -> str:
        return name.removeprefix(settings.topic_prefix).lstrip(".-")

    return {short(name): sizes[name] for name in names}, {short(name): ends[name] for name in names}


def per_core(cpu_microseconds: dict[str, float]) -> float | None:
    """How many decisions or events a second one core carries, where each costs so much of every process."""
    spent = sum(cpu_microseconds.values())
    return round(1e6 / spent, 1) if spent else None
