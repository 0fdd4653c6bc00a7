"""No fetch outlives a seek: neither while it waits, nor when its records are seen late."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from streams.kafka import pace
from streams.kafka.pace import IDLE_AFTER_SECONDS
from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.worker.transport import FETCH_WAIT_MS, IDLE_FETCH_WAIT_MS, _ConsumerThread

SETTINGS = Settings(kafka_url="127.0.0.1:9092")
INTAKE = TopicPartition(topics_of(SETTINGS).intake, 0)
CHANGELOG = TopicPartition(topics_of(SETTINGS).accounts_changelog, 0)


class Client:
    """A stand-in for an aiokafka consumer of one partition, with its position; `arrives` wakes a waiting fetch."""

    _max_poll_records = 100

    def __init__(self) -> None:
        self.position = 0
        self.committed: int | None = None
        self.log: list[str] = []
        self.arrived = asyncio.Event()
        self._fetcher = SimpleNamespace(_fetch_max_wait_ms=-1)

    async def fetch(self) -> dict[str, list[str]]:
        while self.position == len(self.log):
            self.arrived.clear()
            await self.arrived.wait()
        records, self.position = self.log[self.position :], len(self.log)
        return {"tp": records}

    def arrives(self, record: str) -> None:
        self.log.append(record)
        self.arrived.set()

    async def seek_to_committed(self) -> dict[TopicPartition, int | None]:
        """Seek as aiokafka does: where nothing is committed, the position stays."""
        if self.committed is not None:
            self.position = self.committed
        return {INTAKE: self.committed, CHANGELOG: None}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition == INTAKE, "recovery alone says where changelogs are read"
        self.position = offset


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def fetch_records(_self: object, client: Client, *_args: object, **_how: object) -> Any:
        return await client.fetch()

    monkeypatch.setattr(AIOKafkaConsumerThread, "_fetch_records", fetch_records)
    made = _ConsumerThread.__new__(_ConsumerThread)
    made.app = SimpleNamespace(settings=SETTINGS)
    made._seeks, made._is_seeking, made._fetches = 0, False, set()
    made._pace = pace.FetchPace(FETCH_WAIT_MS, IDLE_FETCH_WAIT_MS)
    return made


def run(thread: Any, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        client = Client()
        thread._ensure_consumer = lambda: client

        async def call_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.ensure_future(function(*args, **kwargs))

        thread.call_thread = call_thread
        async with asyncio.timeout(10):
            await scenario(client)

    asyncio.run(main())


def test_a_fetch_that_waits_ends_before_the_seek(thread: Any) -> None:
    async def scenario(client: Client) -> None:
        waiting = asyncio.ensure_future(thread.getmany(None, 1.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert thread._fetches
        await thread.seek_to_committed()
        client.arrives("first")
        assert await waiting == {}
        assert await thread.getmany(None, 1.0) == {"tp": ["first"]}

    run(thread, scenario)


def test_records_from_before_a_seek_that_are_seen_after_it_come_again(thread: Any) -> None:
    async def scenario(client: Client) -> None:
        client.arrives("first")
        fetched = await thread._fetch_records(client)
        assert fetched == (0, {"tp": ["first"]})
        await thread.seek_to_committed()

        async def late(*_args: object, **_how: object) -> Any:
            return fetched

        answers_now, thread.call_thread = thread.call_thread, late
        assert await thread.getmany(None, 1.0) == {}
        thread.call_thread = answers_now
        assert await thread.getmany(None, 1.0) == {"tp": ["first"]}

    run(thread, scenario)


def test_a_fetch_that_fails_says_so(thread: Any) -> None:
    async def scenario(client: Client) -> None:
        async def fetch() -> Any:
            raise ConnectionError("gone")

        client.fetch = fetch  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await thread.getmany(None, 1.0)
        assert not thread._fetches

    run(thread, scenario)


def test_the_broker_may_sit_longer_on_a_fetch_once_no_records_come(
    thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(client: Client) -> None:
        now = 1000.0
        monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
        client.arrives("first")
        await thread.getmany(None, 1.0)
        assert client._fetcher._fetch_max_wait_ms == FETCH_WAIT_MS
        monkeypatch.setattr(Client, "fetch", nothing)
        now += IDLE_AFTER_SECONDS / 2
        await thread.getmany(None, 1.0)
        assert client._fetcher._fetch_max_wait_ms == FETCH_WAIT_MS
        now += IDLE_AFTER_SECONDS
        await thread.getmany(None, 1.0)
        assert client._fetcher._fetch_max_wait_ms == IDLE_FETCH_WAIT_MS

    async def nothing(_client: Client) -> dict[str, list[str]]:
        return {}

    run(thread, scenario)
