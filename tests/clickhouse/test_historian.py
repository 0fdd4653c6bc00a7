"""The historian on the real broker and the real engine: each fact once, after restarts and after repeated batches."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from schemas.facts import Fact
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import Historian, dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.core.acceptance import dead_letter
from streams.kafka.codecs import encode, encode_facts, encode_json
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import Settings

JUNE_MS = 1_780_272_000_000  # 2026-06-01T00:00:00Z


def fact(offset: int, index: int, at_ms: int = JUNE_MS) -> Fact:
    name = f"e{offset}-{index}"
    return Fact(
        offset, index, "charge", "p1", "production", "image", 1, -32_000_000, 5, "g", "", "v", "/s", name, "", "",
        at_ms, at_ms, '{"customer_id":"c1"}',
    )  # fmt: skip


@pytest.fixture
def history(settings_for: Callable[..., Settings]) -> Iterator[tuple[Settings, ClickHouse]]:
    settings = settings_for(historian_flush_ms=50)
    asyncio.run(create_topics(settings))
    clickhouse = ClickHouse(settings)
    migrate(clickhouse)
    yield settings, clickhouse
    clickhouse.close()


@asynccontextmanager
async def writing(historian: Historian):
    task = asyncio.create_task(historian.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(clickhouse: ClickHouse, sql: str, expected: object) -> None:
    async with asyncio.timeout(30):
        while (found := (await asyncio.to_thread(clickhouse.query, sql))[0][0]) != expected:
            assert found <= expected, f"{found} rows, {expected} expected"
            await asyncio.sleep(0.05)


def names(clickhouse: ClickHouse) -> list[str]:
    return [row[0] for row in clickhouse.query("SELECT event_id FROM facts ORDER BY partition, offset, position")]


COUNT = "SELECT toInt64(count()) FROM facts"


def test_repeated_batches_and_restarts_leave_each_fact_once(history: tuple[Settings, ClickHouse]) -> None:
    settings, clickhouse = history
    journal = topics_of(settings).journal

    async def scenario() -> None:
        publisher = Publisher(settings)
        await publisher.start()

        async def publish(partition: int, *facts: Fact) -> None:
            await publisher.send_all(journal, partition, [(None, encode_facts(facts))])

        try:
            async with writing(Historian(settings, clickhouse, journal_sink(settings))):
                await publish(0, fact(1, 0), fact(1, 1), fact(2, 0))
                await publish(1, fact(1, 0))
                await until(clickhouse, COUNT, 4)
                # The owner crashed before its changelogs were written: it repeats a batch, cut otherwise, and goes on.
                await publish(0, fact(2, 0))
                await publish(0, fact(1, 1), fact(2, 0), fact(3, 0))
                await until(clickhouse, COUNT, 5)
            await publish(0, fact(3, 0), fact(4, 0))
            await publish(1, fact(2, 0), fact(2, 1024))
            async with writing(Historian(settings, clickhouse, journal_sink(settings))):
                await until(clickhouse, COUNT, 8)
                await publish(0, fact(5, 0))
                await until(clickhouse, COUNT, 9)
        finally:
            await publisher.stop()

    asyncio.run(scenario())
    assert names(clickhouse) == ["e1-0", "e1-1", "e2-0", "e3-0", "e4-0", "e5-0", "e1-0", "e2-0", "e2-1024"]


def test_a_record_that_was_inserted_in_part_is_completed(history: tuple[Settings, ClickHouse]) -> None:
    """A batch that spans a month's end is two blocks; a crash between them leaves the older one."""
    settings, clickhouse = history
    record = [fact(1, 0, JUNE_MS - 1), fact(1, 1, JUNE_MS - 1), fact(1, 2, JUNE_MS), fact(2, 0, JUNE_MS + 1)]
    sink = journal_sink(settings)

    async def scenario() -> None:
        publisher = Publisher(settings)
        await publisher.start()
        await publisher.send_all(topics_of(settings).journal, 0, [(None, encode_facts(record))])
        await publisher.stop()
        clickhouse.insert_packs("facts", sink.shared, sink.columns, [Pack((0, 0), encode(record[:2]), 2)])
        async with writing(Historian(settings, clickhouse, sink)):
            await until(clickhouse, COUNT, 4)
            await asyncio.sleep(0.3)

    asyncio.run(scenario())
    assert names(clickhouse) == ["e1-0", "e1-1", "e1-2", "e2-0"]
    months = clickhouse.query("SELECT DISTINCT _partition_id FROM facts ORDER BY _partition_id")
    assert [row[0] for row in months] == ["202605", "202606"]


def test_a_failing_insert_is_tried_again_from_what_is_held(
    history: tuple[Settings, ClickHouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, clickhouse = history
    insert, query = clickhouse.insert_packs, clickhouse.query
    calls: list[int] = []
    outage = [2]

    def away(*args: object, **kwargs: object) -> object:
        if calls and outage[0]:
            outage[0] -= 1
            raise ConnectionError("the server is still away when it is asked what it holds")
        return query(*args, **kwargs)  # type: ignore[arg-type]

    def failing(*args: object, **kwargs: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("lost before it was taken")
        done = insert(*args, **kwargs)  # type: ignore[arg-type]
        if len(calls) == 2:
            raise ConnectionError("lost after it was taken")
        return done

    monkeypatch.setattr(clickhouse, "insert_packs", failing)
    monkeypatch.setattr(clickhouse, "query", away)

    async def scenario() -> None:
        publisher = Publisher(settings)
        await publisher.start()
        await publisher.send_all(
            topics_of(settings).journal, 0, [(None, encode_facts([fact(1, n) for n in range(100)]))]
        )
        async with writing(Historian(settings, clickhouse, journal_sink(settings))):
            async with asyncio.timeout(30):
                while outage[0] or not calls:
                    await asyncio.sleep(0.05)
            await until(clickhouse, COUNT, 100)
            await publisher.send_all(topics_of(settings).journal, 0, [(None, encode_facts([fact(2, 0)]))])
            await until(clickhouse, COUNT, 101)
        await publisher.stop()

    asyncio.run(scenario())
    assert len(calls) >= 3


def test_dead_letters_are_kept_with_their_reason(history: tuple[Settings, ClickHouse]) -> None:
    settings, clickhouse = history
    letters = [
        dead_letter(b'{"id": "\xff"}', Rejection("malformed_json", "bad", "id"), "usage", 1, 7, n, JUNE_MS)
        for n in range(3)
    ]

    async def scenario() -> None:
        publisher = Publisher(settings)
        await publisher.start()
        topic = topics_of(settings).dead_letters
        for _ in range(2):
            await publisher.send_all(topic, 0, [(None, encode_json(letter)) for letter in letters])
        await publisher.stop()
        for _ in range(2):
            async with writing(Historian(settings, clickhouse, dead_letter_sink(settings))):
                await until(clickhouse, "SELECT toInt64(count()) FROM dead_letters", 6)

    asyncio.run(scenario())
    found = clickhouse.query(
        "SELECT code, field, uniqExact(topic, partition, offset, position) FROM dead_letters GROUP BY ALL"
    )
    assert [tuple(row) for row in found] == [("malformed_json", "id", 3)]
