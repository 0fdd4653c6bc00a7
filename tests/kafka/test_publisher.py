"""Records of one partition stand in the order in which they came, however many wait, and none waits for ever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from streams.kafka.publisher import Publisher
from streams.kafka.topics import create_topics, topics_of
from streams.settings import Settings

# Two fit into a batch, and none compresses.
RECORD = os.urandom(200 * 1024)
RECORDS = 300


def test_whoever_waits_for_room_is_not_overtaken_by_who_comes_later(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=1)
    topic = topics_of(settings).usage

    async def run() -> list[int]:
        await create_topics(settings)
        publisher = Publisher(settings)
        await publisher.start()
        room = asyncio.Semaphore(50)

        async def deliver() -> int:
            try:
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
