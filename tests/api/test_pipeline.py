"""`/readyz` says what is not ready and why, on a real Kafka; nothing flaps, and all comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from typer.testing import CliRunner

from api.cli.main import app
from api.pipeline import Pipeline
from api.stack import Stack
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from tests.calls import Operator, eventually


@asynccontextmanager
async def watched(settings: Settings) -> AsyncIterator[Pipeline]:
    """A pipeline that is being watched, beside nothing but Kafka."""
    await create_topics(settings)
    publisher = Publisher(settings)
    accounts, commands = AccountsView(settings, settings.api_dir), CommandClient(settings, publisher)
    await publisher.start()
    await accounts.start()
    pipeline = Pipeline(settings, commands, accounts)
    running = asyncio.create_task(pipeline.run())
    try:
        yield pipeline
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await accounts.stop()
        await publisher.stop()


@asynccontextmanager
async def group(settings: Settings, name: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A member of a group, which takes nothing by itself."""
    consumer = AIOKafkaConsumer(topic, **kafka_client_settings(settings), group_id=name, enable_auto_commit=False)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def says(pipeline: Pipeline, part: str, text: str, seconds: float = 40.0) -> None:
    """Wait until a part says this; "" is that it is well."""
    told = ""
    try:
        async with asyncio.timeout(seconds):
            while (told := pipeline.waiting()[part]) != text and not (text and text in told):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{part} says {told!r}, not {text!r}") from None


def test_every_part_that_keeps_decisions_or_history_from_going_on_is_named(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(
        ready_grace_seconds=0.5,
        ready_intake_lag_seconds=0.5,
        ready_usage_lag_seconds=0.5,
        ready_history_still_seconds=0.5,
    )
    topics = topics_of(settings)

    async def run() -> None:
        async with watched(settings) as pipeline:
            await says(pipeline, "kafka", "")
            await says(pipeline, "worker", "no worker has been there yet")
            producer = AIOKafkaProducer(**kafka_client_settings(settings))
            await producer.start()
            for name, topic in (("intake", topics.intake), ("usage", topics.usage)):
                async with group(settings, topics.worker_app, topic) as member:
                    await says(pipeline, "worker", "")
                    await producer.send_and_wait(topic, b"x", partition=0)
                    await says(pipeline, "worker", f"{name} has 1 records that wait, the oldest for")
                    await member.commit({TopicPartition(topic, 0): 1})
                    await says(pipeline, "worker", "")
                await says(pipeline, "worker", "no worker is there for")
            journal = TopicPartition(topics.journal, 1)
            await producer.send_and_wait(topics.journal, b"x", partition=1)
            await says(pipeline, "history", "1 records of journal wait, and none was written for")
            async with group(settings, topics.historian_group_of("facts"), topics.journal) as historian:
                await historian.commit({journal: (0, "journal-1 at 0 can't be read")})
                await says(pipeline, "history", "it stopped: journal-1 at 0 can't be read")
                await historian.commit({journal: 1})
                await says(pipeline, "history", "")
            await producer.stop()

    asyncio.run(run())


def test_a_group_that_another_broker_coordinates_by_now_is_asked_for_anew(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for()
    topics = topics_of(settings)

    async def run() -> None:
        async with watched(settings) as pipeline, group(settings, topics.worker_app, topics.intake):
            await says(pipeline, "worker", "")
            known = dict(pipeline._coordinators)
            assert known.keys() >= {topics.worker_app, topics.courier_group}
            for each in known:
                pipeline._coordinators[each] = 99
            async with asyncio.timeout(30):
                while pipeline._coordinators != known:
                    await asyncio.sleep(0.02)
            await says(pipeline, "worker", "")
            assert pipeline.flows["intake"].records == 0 and pipeline.flows["intake"].complete_at is not None

    asyncio.run(run())


def test_the_marker_of_a_transaction_is_nothing_that_waits(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(ready_usage_lag_seconds=1, partitions=1)
    topics = topics_of(settings)

    async def run() -> None:
        async with watched(settings) as pipeline, group(settings, topics.worker_app, topics.usage) as member:
            producer = AIOKafkaProducer(
                **kafka_client_settings(settings), transactional_id=settings.topic_prefix, transaction_timeout_ms=10_000
            )
            await producer.start()
            async with producer.transaction():
                await producer.send_and_wait(topics.usage, b"x", partition=0)
            await producer.stop()
            await says(pipeline, "worker", "usage has 2 records that wait")
            await member.commit({TopicPartition(topics.usage, 0): 1})
            await says(pipeline, "worker", "")
            assert pipeline.flows["usage"].records == 0

    asyncio.run(run())


def readiness(operator: Operator) -> tuple[int, str]:
    response = httpx.get(f"{operator.url}/readyz", timeout=5.0)
    return response.status_code, response.json()["status"]


def is_ready(operator: Operator) -> bool:
    return readiness(operator) == (200, "ok")


def is_unready(operator: Operator, text: str) -> bool:
    status, told = readiness(operator)
    return status == 503 and text in told


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for each in processes:
        each.suspend()
    try:
        yield
    finally:
        for each in processes:
            each.resume()


def test_a_worker_that_is_away_or_killed_again_and_again_is_said_and_it_comes_back(
    stack: Stack, operator: Operator
) -> None:
    eventually(lambda: is_ready(operator), 60)
    stack.hold("worker-1")
    eventually(lambda: is_unready(operator, "worker: no worker is there"))
    assert httpx.get(f"{operator.url}/healthz").status_code == 200
    stack.let_go("worker-1")
    eventually(lambda: is_ready(operator), 60)

    def is_killed_and_said() -> bool:
        pid = stack.pids().get("worker-1")
        if pid is not None and is_ready(operator):
            # It may be the one that was killed the last time, whose end nobody has noticed yet.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return is_unready(operator, "worker: ")

    eventually(is_killed_and_said, 60)
    eventually(lambda: is_ready(operator), 90)


def test_a_kafka_that_is_silent_is_said_and_it_comes_back(
    stack: Stack, operator: Operator, broker: EmbeddedBroker
) -> None:
    eventually(lambda: is_ready(operator), 60)
    assert broker.pid is not None
    with stopped(broker.pid):
        eventually(lambda: is_unready(operator, "kafka: it has not answered"))
        assert httpx.get(f"{operator.url}/healthz").status_code == 200
    eventually(lambda: is_ready(operator), 90)
    project = operator.project("free")
    assert operator.http.get("/v1/balance", params={"project": project}).status_code == 200


def test_metrics_have_every_flow(operator: Operator) -> None:
    text = operator.metrics()
    for name in ("lag_records", "lag_seconds", "still_seconds"):
        for topic in ("usage", "intake", "journal", "dead_letters"):
            assert f'meterline_{name}{{topic="{topic}"}} ' in text


def test_metrics_have_restarts_dead_letters_by_code_and_the_age_of_the_last_decision(operator: Operator) -> None:
    operator.project("free")
    operator.http.post("/v1/events", json={"not": "an event"})
    # The worker that the test before has killed joins its group a little after it decides again.
    text = eventually(lambda: "meterline_workers 1.0" in (told := operator.metrics()) and told)
    for name in ("worker_starts_total ", "commands_waiting 0.0", "last_decision_age_seconds "):
        assert f"meterline_{name}" in text, [line for line in text.splitlines() if "meterline_work" in line]
    assert 0 <= float(text.partition("\nmeterline_last_decision_age_seconds ")[2].split()[0]) < 30


def test_the_command_line_says_what_is_ready(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_API_URL", operator.url)
    eventually(lambda: is_ready(operator), 60)
    assert CliRunner().invoke(app, ["ready", "worker", "history"]).output == "worker: ready\nhistory: ready\n"
    unknown = CliRunner().invoke(app, ["ready", "nothing"])
    assert unknown.exit_code == 1 and "There is no part nothing" in str(unknown.exception)
    monkeypatch.setenv("METERLINE_API_URL", "http://127.0.0.1:9")
    assert "does not say what is ready" in str(CliRunner().invoke(app, ["ready"]).exception)
