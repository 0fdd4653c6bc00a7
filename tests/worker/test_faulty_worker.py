"""A worker with a fault of ours in it: what meets the fault is a dead letter, all else is done, and nothing is read for
ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.commands import Admit, CreateProject, TopUp
from schemas.events import DeadLetter
from streams.kafka.codecs import decode_dead_letter
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import Settings
from tests.calls import event, eventually
from tests.core.builders import CREDIT, usage
from tests.intake import MakeCommand, decide
from tests.worker.test_watchdog import end_of, send, worker

FAULTY = """
from streams.core import acceptance, fold
from streams.kafka import envelopes
from streams.logs import configure
from streams.settings import Settings
from streams.worker.app import run_worker

charge, command_reply, encode = fold.charge, fold.command_reply, envelopes.encode_envelope

def faulty_charge(booking, usage):
    if usage.event_id == "poison":
        booking.account.grants.clear()
        raise KeyError("no such grant")
    return charge(booking, usage)

def faulty_reply(booking, command, already_decided):
    if getattr(command, "reference", "") == "poison":
        raise RecursionError
    return command_reply(booking, command, already_decided)

def faulty_encode(usages):
    if any(usage.event_id == "unwritable" for usage in usages):
        raise OverflowError("too large")
    return encode(usages)

fold.charge, fold.command_reply, envelopes.encode_envelope = faulty_charge, faulty_reply, faulty_encode
settings = Settings()
configure(settings, "worker-1")
run_worker(settings)
"""

WHY = ("OverflowError: too large", "Deciding it failed: 'no such grant'", "Deciding it failed: It is nested too deeply")


async def dead_letters(settings: Settings) -> list[DeadLetter]:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_url, auto_offset_reset="earliest")
    await consumer.start()
    try:
        tps = [TopicPartition(topics_of(settings).dead_letters, number) for number in range(settings.partitions)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: list[DeadLetter] = []
        while sum([await consumer.position(tp) for tp in tps]) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [decode_dead_letter(record.value) for record in records]
        return found
    finally:
        await consumer.stop()


def opening(project: str) -> MakeCommand:
    return lambda to: CreateProject(project=project, name="", plan="free", contract_allowance=0, **to)


def topping_up(project: str, reference: str) -> MakeCommand:
    return lambda to: TopUp(project=project, environment="production", bundle_usd=20, reference=reference, **to)


def test_what_meets_a_fault_of_ours_is_a_dead_letter_and_the_worker_lives_on(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(reply_timeout_seconds=60)
    asyncio.run(create_topics(settings))
    with worker(settings, FAULTY) as process:
        assert [reply.status for reply, _ in decide(settings, opening("p1"), opening("p2"))] == [201, 201]
        records = [
            [event("p1", "a"), event("p1", "poison"), event("p2", "b")],
            [event("p1", "c"), event("p2", "unwritable")],
            [event("p1", "d"), event("p2", "e")],
        ]
        asyncio.run(send(settings, *(orjson.dumps(record) for record in records)))
        ends = [TopicPartition(topics_of(settings).dead_letters, number) for number in range(settings.partitions)]
        eventually(lambda: sum(asyncio.run(end_of(settings, tp)) for tp in ends) == 2)
        answers = decide(settings, topping_up("p1", "poison"), topping_up("p1", "good"))
        assert [(reply.status, reply.code) for reply, _ in answers] == [(500, "internal_error"), (200, "")]

        def left(project: str) -> int:
            asked = usage(f"last-{project}", project, occurred_at_ms=time.time_ns() // 1_000_000)
            return decide(settings, lambda to: Admit(project=project, usage=asked, hold_seconds=0, **to))[0][
                0
            ].available

        # The free plan's 250 credits, a bundle, and what was charged: a, d, and the last; b, e, and the last.
        assert left("p1") == (250 + 4_000 - 3) * CREDIT
        assert left("p2") == (250 - 3) * CREDIT
        assert process.poll() is None
    letters = {each.detail: each for each in asyncio.run(dead_letters(settings))}
    assert {each.code for each in letters.values()} == {"unprocessable_record"}
    usage_topic, intake = topics_of(settings).usage, topics_of(settings).intake
    whole, one, command = (letters[why] for why in WHY)
    assert (whole.topic, json.loads(whole.event)[1]["id"]) == (usage_topic, "unwritable")
    assert (one.topic, json.loads(one.event)["id"]) == (intake, "poison")
    assert (command.topic, command.index) == (intake, 0)
    assert len(letters) == 3
