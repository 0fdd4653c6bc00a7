"""The floor of bench admission: a decision's hops through Kafka with nothing decided. Nothing that goes this way can be
faster.

Callers write to `intake`; a worker takes what has come, writes a fact for each to `journal`, and once that is
acknowledged an account for most of them and all their replies; each caller waits for its own. This module, run, is the
worker.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.events import UsageEvent
from streams.collector import tune_collector
from streams.embedded import lifeline
from streams.kafka.topics import kafka_client_settings
from streams.settings import Settings
from tests.benchmarks.rivals.batch_clock import ACCOUNTS, JOURNAL, BatchClock

NAMES = ("intake", "journal", "accounts", "replies")
ADMITTED = 200
# What a batch of ours writes: some callers of a batch share a project, and an account takes about so much.
ACCOUNT_BYTES = 800
ACCOUNTS_A_DECISION = 0.6

_PARTITION = 0
_RECORDS_MAX = 64
_BATCH_BYTES = 4 * 1024 * 1024
_REQUEST_BYTES = 8 * 1024 * 1024
_FETCH_WAIT_MS = 100

_encode = msgspec.msgpack.encode
_decode_ids = msgspec.msgpack.Decoder(list[str]).decode
_decode_replies = msgspec.msgpack.Decoder(list[tuple[str, int, int, int]]).decode


def topic(prefix: str, name: str) -> str:
    """The topic of one of NAMES."""
    return f"{prefix}-{name}"


@dataclass(slots=True)
class _Callers:
    """Callers of one process: their ids go together in a record once the record before is acknowledged."""

    producer: AIOKafkaProducer
    prefix: str
    waiting: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    unsent: list[str] = field(default_factory=list)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, _caller: int, event: UsageEvent) -> int:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting[event.id] = answered
        self.unsent.append(event.id)
        self.is_asked.set()
        return await answered

    async def send(self) -> None:
        while True:
            await self.is_asked.wait()
            self.is_asked.clear()
            some, self.unsent = self.unsent, []
            await _send(self.producer, topic(self.prefix, "intake"), [_encode(some)])

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            for id, status, _, _ in _decode_replies(record.value):
                if (answered := self.waiting.pop(id, None)) is not None:
                    answered.set_result(status)


@asynccontextmanager
async def floor_way(settings: Settings, prefix: str) -> AsyncIterator[Callable[[int, UsageEvent], Awaitable[int]]]:
    """The function with which a caller asks the worker whose topics have this prefix."""
    async with _clients(settings, prefix, "replies", "latest") as (producer, consumer):
        callers = _Callers(producer, prefix)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(callers.send()), tasks.create_task(callers.read(consumer))]
            yield callers.ask
            for task in running:
                task.cancel()


async def _work(settings: Settings, prefix: str, clock: BatchClock) -> None:
    account = os.urandom(ACCOUNT_BYTES)
    journal, accounts, replies = (topic(prefix, name) for name in NAMES[1:])
    async with _clients(settings, prefix, "intake", "earliest") as (producer, consumer):
        while True:
            records = await consumer.getmany(timeout_ms=500, max_records=_RECORDS_MAX)
            ids = [id for some in records.values() for record in some for id in _decode_ids(record.value)]
            if not ids:
                continue
            clock.begin()
            facts = [(id, "charge", "bench-000000", -1_000_000, 5, "chat.message", 1_800_000_000_000) for id in ids]
            await _send(producer, journal, [_encode(facts)])
            clock.end(JOURNAL)
            changed = max(1, round(ACCOUNTS_A_DECISION * len(ids)))
            await asyncio.gather(
                _send(producer, accounts, [account] * changed),
                _send(producer, replies, [_encode([(id, ADMITTED, 1_000_000, 5) for id in ids])]),
            )
            clock.end(ACCOUNTS)


@asynccontextmanager
async def _clients(
    settings: Settings, prefix: str, read: str, since: str
) -> AsyncIterator[tuple[AIOKafkaProducer, AIOKafkaConsumer]]:
    """A producer, and a consumer of one topic from its beginning ("earliest") or its end ("latest") on."""
    options = kafka_client_settings(settings)
    producer = AIOKafkaProducer(
        **options,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=_BATCH_BYTES,
        max_request_size=_REQUEST_BYTES,
    )
    consumer = AIOKafkaConsumer(**options, auto_offset_reset=since, fetch_max_wait_ms=_FETCH_WAIT_MS)
    await producer.start()
    try:
        await consumer.start()
        place = TopicPartition(topic(prefix, read), _PARTITION)
        consumer.assign([place])
        await consumer.position(place)
        yield producer, consumer
    finally:
        await consumer.stop()
        await producer.stop()


async def _send(producer: AIOKafkaProducer, to: str, values: Sequence[bytes]) -> None:
    """Send values as one batch, and wait until it is acknowledged."""
    batch = producer.create_batch()
    for value in values:
        if batch.append(key=None, value=value, timestamp=None) is None:
            raise ValueError(f"{len(values)} records for {to} are more than a batch holds")
    await (await producer.send_batch(batch, to, partition=_PARTITION))


if __name__ == "__main__":
    lifeline.watch()
    tune_collector()
    uvloop.run(_work(Settings(kafka_url=sys.argv[1]), sys.argv[2], BatchClock(Path(sys.argv[3]))))
