"""The agents take batches: all records that are there, and sometimes those that are about to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.worker import batches as module
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
