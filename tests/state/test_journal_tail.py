"""The journal's tail on real Kafka: facts that somebody listens to are told once, in order, whatever the owner says
again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from schemas.facts import ENTRY_KINDS, Fact, FactPack
from streams.kafka.codecs import encode
from streams.kafka.formats import FACTS
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.state.journal_tail import NOWHERE, JournalTail

Make = Callable[..., Settings]


def fact(offset: int, index: int = 0, project: str = "mine", kind: Any = "charge") -> Fact:
    named = (
        kind,
        project,
        "production",
        "read",
        1,
        -1,
        1,
        "allowance-0-0",
        "",
        "1",
        "/s",
        str(offset),
        "",
        "",
        1,
        1,
        "",
    )
    return Fact(offset, index, *named)


def record(*facts: Fact) -> bytes:
    places = [(each.offset, each.index) for each in facts]
    return FACTS.head + encode(FactPack(places[0], places[-1], 1, 1, len(facts), list(facts)))


class Told:
    """A note of what a tail has told."""

    def __init__(self, settings: Settings, projects: set[str]) -> None:
        self.places: list[tuple[int, int, int]] = []
        self.lost: list[int] = []
        self.news = asyncio.Event()
        self.tail = JournalTail(settings, ENTRY_KINDS, projects, self._tell, self._lose)

    def _tell(self, partition: int, facts: Sequence[Fact]) -> None:
        self.places += [(partition, each.offset, each.index) for each in facts]
        self.news.set()

    def _lose(self, partition: int) -> None:
        self.lost.append(partition)
        self.news.set()

    async def has(self, count: int) -> list[tuple[int, int, int]]:
        async with asyncio.timeout(30):
            while len(self.places) < count:
                await self.news.wait()
                self.news.clear()
        return self.places


@asynccontextmanager
async def journal(settings: Settings, projects: set[str]) -> Any:
    """A tail, and a function that writes records to a partition of the journal."""
    await create_topics(settings)
    publisher, told = Publisher(settings), Told(settings, projects)
    await publisher.start()

    async def write(*records: bytes, partition: int = 0) -> None:
        for each in records:
            await publisher.append(topics_of(settings).journal, partition, each)

    try:
        yield told, write
    finally:
        await told.tail.stop()
        await publisher.stop()


def test_only_entries_of_those_listened_to_are_told_once_though_a_batch_is_said_again(settings_for: Make) -> None:
    async def check() -> None:
        async with journal(settings_for(), {"mine"}) as (told, write):
            await write(record(fact(1), fact(2)), record(fact(3)))
            assert await told.tail.listen(0) == (3, 0)
            await write(record(fact(4), fact(4, 1, "theirs"), fact(4, 2, kind="request"), fact(5)), record(fact(6)))
            # A new owner says the last batch again, and goes on within the same record.
            await write(record(fact(4), fact(5)), record(fact(6), fact(7), fact(8, 0, "theirs")), record(fact(9)))
            assert await told.has(5) == [(0, offset, 0) for offset in (4, 5, 6, 7, 9)]
            # Nobody listens to the other partition.
            await write(record(fact(1)), partition=1)
            assert await told.tail.listen(1) == (1, 0)
            await write(record(fact(2)), partition=1)
            assert (await told.has(6))[-1] == (1, 2, 0)
            assert told.lost == []

    asyncio.run(check())


def test_whoever_listens_again_hears_what_comes_then_and_nothing_from_between(settings_for: Make) -> None:
    async def check() -> None:
        async with journal(settings_for(), {"mine"}) as (told, write):
            assert await told.tail.listen(0) == NOWHERE
            await write(record(fact(1)))
            await told.has(1)
            told.tail.leave(0)
            await write(record(fact(2)), record(fact(3)))
            assert await told.tail.listen(0) == (3, 0)
            await write(record(fact(3)), record(fact(4)))
            assert await told.has(2) == [(0, 1, 0), (0, 4, 0)]

    asyncio.run(check())


def test_a_record_that_can_not_be_read_is_told_as_a_loss_and_the_next_is_told(settings_for: Make) -> None:
    async def check() -> None:
        async with journal(settings_for(), {"mine"}) as (told, write):
            await told.tail.listen(0)
            await write(record(fact(1)), FACTS.head + b"\x93garbage", b"\xc1MF\x63newer", record(fact(2)))
            assert await told.has(2) == [(0, 1, 0), (0, 2, 0)]
            assert told.lost == [0, 0]

    asyncio.run(check())
