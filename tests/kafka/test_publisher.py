"""Records of one partition stand in the order in which they came, however many wait, and none waits for ever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import Settings

# Two fit into a batch, and none compresses.
RECORD = os.urandom(200 * 1024)
RECORDS = 300


@pytest.mark.parametrize("is_batch", [False, True])
def test_whoever_waits_for_room_is_not_overtaken_by_who_comes_later(
    settings_for: Callable[..., Settings], is_batch: bool
) -> None:
    settings = settings_for(partitions=1)
    topic = topics_of(settings).usage

    async def run() -> list[int | None]:
        await create_topics(settings)
        publisher = Publisher(settings)
        await publisher.start()
        room = asyncio.Semaphore(50)

        async def deliver() -> int | None:
            try:
                if is_batch:
                    return await publisher.send_all(topic, 0, [(None, RECORD)])
                return await (await publisher.send(topic, 0, RECORD))
            finally:
                room.release()

        try:
            deliveries = []
            for _ in range(RECORDS):
                # As a producer does: whatever is acknowledged makes room for what comes next.
                await room.acquire()
                deliveries.append(asyncio.create_task(deliver()))
            return await asyncio.gather(*deliveries)
        finally:
            await publisher.stop()

    assert asyncio.run(run()) == list(range(RECORDS))
