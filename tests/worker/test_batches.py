"""The agents take batches: all records that are there, and sometimes those that are about to come."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.worker import batches as module
from streams.worker.agents import _days
from streams.worker.batches import batches


class Stream:
    """A stand-in for a Faust stream: `arrive` brings records, each an event here."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[int] = asyncio.Queue()

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[int]:
        while True:
            yield await self._queue.get()

    async def arrive(self, *records: int) -> None:
        for record in records:
            self._queue.put_nowait(record)
        for _ in range(10):
            await asyncio.sleep(0)


class Clock:
    """A clock in place of the agents' asyncio: it notes each sleep, and lets `arriving` come meanwhile."""

    def __init__(self, stream: Stream) -> None:
        self.slept: list[float] = []
        self.arriving: list[int] = []
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._stream.arrive(*self.arriving)


@pytest.mark.asyncio
async def test_a_record_alone_is_taken_at_once_and_several_give_the_next_ones_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Stream()
    clock = Clock(stream)
    monkeypatch.setattr(module, "asyncio", clock)
    taken = batches(stream, 4, gather_seconds=0.5)
    await stream.arrive(1)
    assert await anext(taken) == [1]
    await stream.arrive(2)
    assert await anext(taken) == [2]
    await stream.arrive(3, 4, 5)
    assert await anext(taken) == [3, 4, 5]
    assert clock.slept == []
    clock.arriving = [7, 8]
    await stream.arrive(6)
    assert await anext(taken) == [6, 7, 8]
    assert clock.slept == [0.5]
    await stream.arrive(9, 10, 11, 12, 13)
    assert await anext(taken) == [9, 10, 11, 12], "as many wait as came last time"
    assert clock.slept == [0.5]
    clock.arriving = []
    assert await anext(taken) == [13]
    assert clock.slept == [0.5, 0.5]
    await taken.aclose()


@pytest.mark.asyncio
async def test_nothing_is_waited_for_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    clock = Clock(stream)
    monkeypatch.setattr(module, "asyncio", clock)
    taken = batches(stream, 4)
    await stream.arrive(1, 2, 3)
    assert await anext(taken) == [1, 2, 3]
    await stream.arrive(4)
    assert await anext(taken) == [4]
    assert clock.slept == []
    await taken.aclose()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3))))
def test_each_partition_has_one_day_a_batch_and_shares_the_batch(placed: list[tuple[int, int]]) -> None:
    """A regression: where partitions were at different days of a log that is read again, each record became a batch of
    its own."""
    days: dict[int, int] = defaultdict(int)
    records = []
    for offset, (partition, days_later) in enumerate(placed):
        days[partition] += days_later
        records.append(SimpleNamespace(partition=partition, timestamp=days[partition] * 86_400.0, offset=offset))
    found = list(_days(records))
    spans: dict[int, set[float]] = defaultdict(set)
    for record in records:
        spans[record.partition].add(record.timestamp)
    assert len(found) == max(map(len, spans.values()), default=0)
    for batch in found:
        of_each = {(record.partition, record.timestamp) for record in batch}
        assert len(of_each) == len({partition for partition, _ in of_each})
    for partition in spans:
        in_order = [record.offset for batch in found for record in batch if record.partition == partition]
        assert in_order == [record.offset for record in records if record.partition == partition]
