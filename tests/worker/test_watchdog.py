"""The watchdog ends a worker that hangs while records wait, not one that is idle or waits for a transaction marker."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import PROJECT_ROOT, Settings
from streams.worker.app import EXIT_FAILED
from streams.worker.watchdog import Watchdog
from tests.calls import eventually

HANGING = """
import asyncio
from streams.worker.accept import Accept
from streams.worker.app import run_worker
from streams.logs import configure
from streams.settings import Settings

async def hang(self, events):
    while True:
        await asyncio.sleep(3600)

Accept.apply = hang
settings = Settings()
configure(settings, "worker-1")
run_worker(settings)
"""


@contextmanager
def worker(settings: Settings, code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        env=os.environ | settings.as_environment(),
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def send(settings: Settings, *values: bytes, transactional: bool = False) -> None:
    name = "test" if transactional else None
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_url, transactional_id=name, transaction_timeout_ms=10_000
    )
    await producer.start()
    try:
        for value in values:
            if transactional:
                async with producer.transaction():
                    await producer.send_and_wait(topics_of(settings).usage, value, partition=0)
            else:
                await producer.send_and_wait(topics_of(settings).usage, value, partition=0)
    finally:
        await producer.stop()


def test_a_worker_that_hangs_is_ended_and_says_where(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(stall_seconds=3)
    asyncio.run(create_topics(settings))
    with worker(settings, HANGING) as process:
        asyncio.run(send(settings, b"[]"))
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_FAILED
    assert b"no record was taken for 3 s: " + topics_of(settings).usage.encode() + b"-0 at 0" in stderr


def test_an_idle_worker_lives_on_behind_the_marker_of_a_transaction(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(stall_seconds=1)
    asyncio.run(create_topics(settings))
    code = "from streams.worker.app import run_worker; from streams.settings import Settings; run_worker(Settings())"
    with worker(settings, code) as process:
        asyncio.run(send(settings, b"{", transactional=True))
        dead_letters = TopicPartition(topics_of(settings).dead_letters, 0)
        eventually(lambda: asyncio.run(end_of(settings, dead_letters)) == 1)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)


async def end_of(settings: Settings, tp: TopicPartition) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_url)
    await consumer.start()
    try:
        return int((await consumer.end_offsets([tp]))[tp])
    finally:
        await consumer.stop()


def test_recovery_that_goes_on_is_progress(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(stall_seconds=1)
    stalls: list[str] = []
    numbers = iter(range(1_000_000))
    asyncio.run(create_topics(settings))
    asyncio.run(send(settings, b"[]"))
    usage = topics_of(settings).usage
    Watchdog(settings, lambda: [(usage, 0)], lambda: next(numbers), stalls.append).start()
    hung: list[str] = []
    Watchdog(settings, lambda: [(usage, 0)], lambda: 0, hung.append).start()
    eventually(lambda: len(hung) > 0)
    assert not stalls
