"""A month is complete once all that was asked for in it is decided and in the history (real broker, real engine)."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.facts import Fact
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import journal_sink
from streams.clickhouse.migrations import migrate
from streams.history.month_end import Closing
from streams.kafka.codecs import encode, encode_facts
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings


class World:
    """A world of real Kafka and ClickHouse, in which the test takes the place of worker and historian, on partition
    0."""

    def __init__(self, settings: Settings, clickhouse: ClickHouse, publisher: Publisher) -> None:
        self.settings, self.clickhouse, self.publisher = settings, clickhouse, publisher

    async def ask(self) -> datetime:
        """Send a request, and return a time after it."""
        await self.publisher.send_all(topics_of(self.settings).intake, 0, [(None, b"a request")])
        await asyncio.sleep(0.01)
        return datetime.now(UTC)

    async def state(self, *names: tuple[int, int]) -> None:
        """State facts as the worker does, in one record of the journal."""
        facts = [fact(offset, index) for offset, index in names]
        await self.publisher.send_all(topics_of(self.settings).journal, 0, [(None, encode_facts(facts))])

    async def acknowledge(self, offset: int) -> None:
        """Acknowledge all requests below an offset, as the worker does."""
        topics = topics_of(self.settings)
        consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings), group_id=topics.worker_app, enable_auto_commit=False
        )
        await consumer.start()
        tp = TopicPartition(topics.intake, 0)
        consumer.assign([tp])
        await consumer.commit({tp: offset})
        await consumer.stop()

    def write(self, journal_offset: int, *names: tuple[int, int]) -> None:
        """Write facts of a journal record into the history, as the historian does."""
        sink = journal_sink(self.settings)
        rows = encode([fact(offset, index) for offset, index in names])
        packs = [Pack((0, journal_offset), rows, len(names))]
        self.clickhouse.insert_packs(sink.table, sink.shared, sink.columns, packs)

    async def is_complete(self, until: datetime) -> bool:
        async with asyncio.timeout(60):
            return await Closing(self.settings, self.clickhouse, timedelta(0)).is_complete(until)


def fact(offset: int, index: int) -> Fact:
    return Fact(
        offset, index, "charge", "p1", "production", "image", 1, -1, 0, "g", "", "v", "/s", "e", "", "", 0, 1, "",
    )  # fmt: skip


@pytest.fixture
def run(settings_for: Callable[..., Settings]) -> Iterator[Callable]:
    settings = settings_for()
    asyncio.run(create_topics(settings))
    clickhouse = ClickHouse(settings)
    migrate(clickhouse)

    def run(scenario: Callable) -> None:
        async def with_publisher() -> None:
            publisher = Publisher(settings)
            await publisher.start()
            try:
                await scenario(World(settings, clickhouse, publisher))
            finally:
                await publisher.stop()

        asyncio.run(with_publisher())

    yield run
    clickhouse.close()


def test_a_time_is_complete_once_its_requests_are_decided_and_in_the_history(run: Callable) -> None:
    async def scenario(world: World) -> None:
        assert await world.is_complete(datetime.now(UTC)), "nothing was ever asked for"
        assert not await world.is_complete(datetime.now(UTC) + timedelta(minutes=1)), "it is still to come"
        asked = await world.ask()
        assert not await world.is_complete(asked), "no worker has decided it"
        await world.state((0, 0), (0, 1))
        assert not await world.is_complete(asked), "the worker may have more to say"
        await world.acknowledge(1)
        assert not await world.is_complete(asked), "the history lacks it"
        world.write(0, (0, 0))
        assert not await world.is_complete(asked), "the history has the half of a record"
        world.write(0, (0, 1))
        assert await world.is_complete(asked)
        later = await world.ask()
        assert await world.is_complete(asked), "what comes later does not matter"
        assert not await world.is_complete(later)
        await world.state((1, 0))
        world.write(1, (1, 0))
        assert not await world.is_complete(later)
        await world.acknowledge(2)
        assert await world.is_complete(later)

    run(scenario)


def test_a_repeat_at_the_journals_end_does_not_hide_what_the_history_lacks(run: Callable) -> None:
    """The owner, after a crash, repeats only its first record: the accounts of the second were stored already."""

    async def scenario(world: World) -> None:
        await world.ask()
        asked = await world.ask()
        await world.state((0, 0))
        await world.state((1, 0))
        await world.state((0, 0))
        await world.acknowledge(2)
        world.write(0, (0, 0))
        assert not await world.is_complete(asked)
        world.write(1, (1, 0))
        assert await world.is_complete(asked)

    run(scenario)


def test_a_request_that_led_to_nothing_does_not_keep_a_month_open(run: Callable) -> None:
    async def scenario(world: World) -> None:
        asked = await world.ask()
        await world.acknowledge(1)
        assert await world.is_complete(asked)

    run(scenario)


def test_clocks_that_differ_are_waited_for(settings_for: Callable[..., Settings]) -> None:
    # Neither Kafka nor ClickHouse is asked before that.
    closing = Closing(settings_for(), clickhouse=None)  # type: ignore[arg-type]
    now = datetime.now(UTC)
    assert not asyncio.run(closing.is_complete(now - timedelta(minutes=4)))
