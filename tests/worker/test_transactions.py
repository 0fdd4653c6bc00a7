"""Producers with transactions: what one aborts is never billed, what it commits is billed once, and one that is left
open holds nothing up for longer than the broker lets it."""

from __future__ import annotations

import asyncio
import re

import httpx
import orjson
from aiokafka import AIOKafkaProducer

from api.stack import Stack
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from streams.settings import Settings
from streams.worker.watchdog import Watchdog
from tests.calls import Operator, event, eventually

# The broker's transaction.max.timeout.ms, and how often it looks.
HELD_UP_SECONDS_MAX = 15.0


def producer(settings: Settings, name: str, timeout_ms: int = 10_000) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        **kafka_client_settings(settings),
        transactional_id=name,
        transaction_timeout_ms=timeout_ms,
        enable_idempotence=True,
    )


def test_what_is_aborted_is_not_billed_and_an_open_transaction_ends_by_itself(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer()
    topic, partition = topics_of(stack.settings).usage, partition_of(project, stack.settings.partitions)
    restarts = stack.restarts
    stalls: list[str] = []
    watched = stack.settings.model_copy(update={"stall_seconds": 3.0})

    async def send() -> None:
        async def write(sender: AIOKafkaProducer, id: str) -> None:
            await sender.send_and_wait(topic, orjson.dumps(event(project, id, "image")), partition=partition)

        sender = producer(stack.settings, f"tx-{project}")
        await sender.start()
        await sender.begin_transaction()
        await write(sender, "aborted")
        await sender.abort_transaction()
        async with sender.transaction():
            await write(sender, "committed")
        await sender.stop()
        await asyncio.to_thread(eventually, lambda: client.get("/v1/balance").json()["available"] == str(250 - 32))
        # This one is left open, with a record of somebody else behind it.
        left_open = producer(stack.settings, f"open-{project}", 6_000)
        await left_open.start()
        await left_open.begin_transaction()
        await write(left_open, "never")
        Watchdog(watched, lambda: [(topic, partition)], lambda: 0, stalls.append).start()
        other = AIOKafkaProducer(**kafka_client_settings(stack.settings))
        await other.start()
        await write(other, "behind")
        await other.stop()
        await asyncio.sleep(2.5)
        assert client.get("/v1/balance").json()["available"] == str(250 - 32)

        def held_up() -> list[float]:
            figures = httpx.get(stack.metrics_url).text
            found = re.findall(rf'meterline_usage_held_up_seconds{{partition="{partition}"}} ([0-9.]+)', figures)
            return [float(each) for each in found]

        # The API looks now and then.
        await asyncio.to_thread(eventually, lambda: [each > 0 for each in held_up()] == [True])
        left_open._sender.sender_task.cancel()
        left_open._closed = True
        await left_open.client.close()

    asyncio.run(send())
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(250 - 2 * 32), HELD_UP_SECONDS_MAX)
    ids = f"SELECT event_id FROM facts WHERE project = '{project}' AND kind = 'charge' ORDER BY event_id"
    eventually(lambda: operator.rows(stack.clickhouse_url, ids) == [["behind"], ["committed"]])
    assert stack.restarts == restarts
    assert not stalls


def test_a_transaction_on_intake_leaves_gaps_that_stop_no_worker(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer()
    topic, partition = topics_of(stack.settings).intake, partition_of(project, stack.settings.partitions)
    restarts = stack.restarts

    async def write() -> None:
        sender = producer(stack.settings, f"intake-{project}")
        await sender.start()
        await sender.begin_transaction()
        await sender.send_and_wait(topic, b"garbage", partition=partition)
        await sender.abort_transaction()
        async with sender.transaction():
            await sender.send_and_wait(topic, b"more garbage", partition=partition)
        await sender.stop()

    for number in range(1, 3):
        asyncio.run(write())
        answer = client.post("/v1/admissions", json={"operation": "image"})
        assert (answer.status_code, answer.json()["available"]) == (200, str(250 - number * 32))
    assert stack.restarts == restarts
