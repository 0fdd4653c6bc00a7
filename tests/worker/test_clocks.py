"""A worker whose clock is far behind Kafka's stops before it decides, says both times, and does not start either."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.times import utc
from streams.kafka.codecs import encode
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from streams.worker.app import EXIT_FAILED
from streams.worker.clocks import ClockAheadError, Clocks, check_clocks
from tests.calls import eventually
from tests.core.builders import create_project
from tests.kafka.written_log import create_intake, write_intake
from tests.worker.test_watchdog import worker

CODE = "from api.cli.main import main; import sys; sys.argv = ['meterline', 'worker']; main()"
HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def ends(settings: Settings, *topics: str) -> list[int]:
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings))
    await consumer.start()
    try:
        return list((await consumer.end_offsets([TopicPartition(topic, 0) for topic in topics])).values())
    finally:
        await consumer.stop()


async def end_of_journal(settings: Settings) -> int:
    (end,) = await ends(settings, topics_of(settings).journal)
    return end


@pytest.mark.parametrize(("ahead_ms", "is_refused"), [(-HOUR_MS, False), (0, False), (300_000, False), (300_001, True)])
def test_five_minutes_ahead_are_allowed_and_no_more(ahead_ms: int, is_refused: bool) -> None:
    message = SimpleNamespace(topic="intake", partition=3, offset=7, timestamp=(1_700_000_000_000 + ahead_ms) / 1000)
    clocks = Clocks(Settings(), clock=lambda: 1_700_000_000_000)
    clocks.check([])
    if not is_refused:
        clocks.check([message])
        return
    with pytest.raises(ClockAheadError, match=r"intake-3 at 7 is of .* 22:18:20.*, and here it is .* 22:13:20"):
        clocks.check([message])


def test_a_record_from_the_future_stops_the_worker_and_its_next_start_before_anything_is_decided_on_it(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(partitions=1)
    asyncio.run(create_intake(settings))
    asyncio.run(create_topics(settings))
    with worker(settings, CODE) as process:
        asyncio.run(write_intake(settings, [(0, now_ms(), encode(create_project("now")))]))
        eventually(lambda: asyncio.run(end_of_journal(settings)) > 0)
        facts = asyncio.run(end_of_journal(settings))
        asyncio.run(check_clocks(settings))
        future_ms = now_ms() + HOUR_MS
        asyncio.run(write_intake(settings, [(0, future_ms, encode(create_project("future")))]))
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == EXIT_FAILED
    told = f"intake-0 at 1 is of {utc(future_ms)}".encode()
    assert told in stderr and b"Traceback" not in stderr
    with pytest.raises(ClockAheadError, match="docs/operators.md"):
        asyncio.run(check_clocks(settings))
    assert asyncio.run(end_of_journal(settings)) == facts, "no fact is written for it"
    # The operator may decide to take it as it is.
    asyncio.run(check_clocks(settings.model_copy(update={"clock_ahead_seconds_max": 7200.0})))
