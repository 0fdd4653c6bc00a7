"""The last resort: where deciding a record fails in a way that nobody foresaw, the item at fault is a dead letter, all
else is decided, and no record is read for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.commands import AnyCommand, Commands, Envelope
from schemas.events import DeadLetter
from schemas.facts import Fact
from streams.core import fold as core
from streams.kafka.codecs import decode_account, decode_dead_letter, decode_facts, encode
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from streams.worker import decider as deciding
from streams.worker.agents import Owner
from streams.worker.decider import tables_of_one
from streams.worker.lease import Lease
from tests.core.builders import CREDIT, START_MS, admit, create_project, top_up, usage

PARTITION = 0


@contextmanager
def owner(settings: Settings, publisher: Publisher, directory: Path) -> Iterator[Owner]:
    lease = Lease(60)
    lease.assign(1)
    with tables_of_one(directory, settings) as tables:
        yield Owner(settings, topics_of(settings), publisher, tables, lease, lambda _partition: 0)


def record(offset: int, body: Envelope | Commands | AnyCommand) -> Any:
    message = SimpleNamespace(
        topic="intake",
        partition=PARTITION,
        offset=offset,
        generation_id=1,
        timestamp=(START_MS + offset) / 1000,
        value=encode(body),
    )
    return SimpleNamespace(message=message)


def events(*ids: str) -> Envelope:
    return Envelope([usage(each) for each in ids])


RECORDS = [
    record(0, create_project()),
    record(1, events("a", "bad-1", "b")),
    record(2, Commands([top_up(key="t"), admit(usage("bad-2"), key="k", correlation="c-bad"), top_up(key="u")])),
    record(3, events("c")),
    record(4, events("bad-3", "d", "bad-4")),
]


async def written(settings: Settings, topic: str, decode: Callable[[bytes], Any]) -> list[Any]:
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        place = TopicPartition(topic, PARTITION)
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        found: list[Any] = []
        while await consumer.position(place) < end:
            for each in (await consumer.getmany(place, timeout_ms=1000)).get(place, []):
                found.append(decode(each.value))
        return found
    finally:
        await consumer.stop()


async def applied(settings: Settings, directory: Path, batches: list[list[Any]]) -> tuple[list[Fact], list[DeadLetter]]:
    """The facts and dead letters that are on the topics once an owner has applied these batches."""
    await create_topics(settings)
    publisher = Publisher(settings)
    await publisher.start()
    try:
        with owner(settings, publisher, directory) as owning:
            for batch in batches:
                await owning.apply(batch)
            value = owning.decider.tables.accounts.file(PARTITION).get_many([b"p1"])[0]
            assert decode_account(value).last_offset == RECORDS[-1].message.offset
    finally:
        await publisher.stop()
    topics = topics_of(settings)
    facts = [fact for pack in await written(settings, topics.journal, decode_facts) for fact in pack]
    return facts, await written(settings, topics.dead_letters, decode_dead_letter)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules with a fault: they can't charge an event whose id begins with "bad"."""

    def fail_on(name: str) -> None:
        rule = getattr(core, name)

        def faulty_rule(*arguments: Any) -> Any:
            told = getattr(arguments[1], "usage", arguments[1])
            if getattr(told, "event_id", "").startswith("bad"):
                raise RuntimeError(f"no rule foresees {told.event_id}")
            return rule(*arguments)

        monkeypatch.setattr(core, name, faulty_rule)

    fail_on("charge")
    fail_on("command_reply")


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [2, 3]])
def test_items_that_cannot_be_decided_are_dead_letters_and_their_neighbours_are_charged(
    settings_for: Callable[..., Settings], tmp_path: Path, sizes: list[int]
) -> None:
    left = list(RECORDS)
    batches = [[left.pop(0) for _ in range(size)] for size in sizes]
    facts, letters = asyncio.run(applied(settings_for(partitions=1), tmp_path, batches))
    charged = [fact.event_id for fact in facts if fact.kind == "charge"]
    assert charged == ["a", "b", "c", "d"]
    assert sum(fact.amount for fact in facts) == 250 * CREDIT + 2 * 4_000 * CREDIT - 4 * CREDIT
    assert [(letter.code, letter.offset, letter.index) for letter in letters] == [
        ("unprocessable_record", 1, 1),
        ("unprocessable_record", 2, 1),
        ("unprocessable_record", 4, 0),
        ("unprocessable_record", 4, 2),
    ]
    assert "no rule foresees bad-1" in letters[0].detail
    assert '"bad-1"' in letters[0].event


@pytest.mark.usefixtures("faulty")
def test_a_record_decided_again_after_a_crash_gives_the_same_dead_letters_and_charges(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=1)
    first = asyncio.run(applied(settings, tmp_path / "first", [RECORDS]))
    # Another owner, with nothing on its disk, decides everything again: as after a crash before the changelogs.
    facts, letters = asyncio.run(applied(settings, tmp_path / "second", [RECORDS[:3], RECORDS[3:]]))
    assert facts[len(first[0]) :] == first[0]
    assert letters[len(first[1]) :] == first[1]


def test_what_cannot_be_encoded_is_given_up_as_a_whole_record(
    settings_for: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_facts = deciding.encode_facts

    def faulty_encode(facts: Any) -> bytes:
        if any(fact.event_id == "bad-1" for fact in facts):
            raise OverflowError("can't serialize such an integer")
        return encode_facts(facts)

    monkeypatch.setattr(deciding, "encode_facts", faulty_encode)
    facts, letters = asyncio.run(applied(settings_for(partitions=1), tmp_path, [RECORDS]))
    assert [fact.event_id for fact in facts if fact.kind == "charge"] == ["bad-2", "c", "bad-3", "d", "bad-4"]
    assert [(letter.code, letter.offset, letter.index) for letter in letters] == [("unprocessable_record", 1, 0)]


def test_what_the_disk_or_the_broker_raises_ends_the_worker_and_is_no_records_fault(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    async def apply() -> None:
        settings = settings_for(partitions=1)
        await create_topics(settings)
        publisher = Publisher(settings)
        await publisher.start()
        try:
            with owner(settings, publisher, tmp_path) as owning:
                await owning.apply(RECORDS[:1])

                def broken(_keys: list[bytes]) -> list[bytes | None]:
                    raise OSError(5, "Input/output error")

                owning.decider.tables.accounts.file(PARTITION).get_many = broken  # type: ignore[method-assign]
                owning.decider.forget()
                with pytest.raises(OSError, match="Input/output"):
                    await owning.apply(RECORDS[1:])
        finally:
            await publisher.stop()
        assert await written(settings, topics_of(settings).dead_letters, decode_dead_letter) == []

    asyncio.run(apply())


@pytest.mark.usefixtures("faulty")
def test_a_record_of_too_many_faults_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(deciding, "ITEMS_REFUSED_MAX", 3)
    nothing: Any = None
    with owner(Settings(), nothing, tmp_path) as owning:
        owning.decider._cache[PARTITION] = {}
        decide = owning.decider.decide
        opened = decide(PARTITION, [RECORDS[0].message])
        owning.decider.tables.accounts.file(PARTITION).write(opened.values, 0)
        some = decide(PARTITION, [record(1, events("bad-1", "a", "bad-2", "b", "bad-3")).message])
        assert len(some.dead_letters) == 3
        owning.decider.forget()
        many = decide(PARTITION, [record(1, events("bad-1", "a", "bad-2", "b", "bad-3", "bad-4")).message])
        assert (len(many.dead_letters), many.journal) == (1, [])
