"""Batches: what has arrived is taken at once, applied, and acknowledged in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from streams.collector import CycleCollector
from streams.worker.lease import AssignmentEndedError

log = logging.getLogger(__name__)


def time_of(message: Any) -> int:
    at_seconds: float = message.timestamp
    return round(at_seconds * 1000)


async def work(
    stream: Any,
    records_max: int,
    is_current: Callable[[Any], bool],
    apply: Callable[[list[Any]], Awaitable[None]],
    gather_seconds: float = 0.0,
) -> None:
    """Take what has arrived, apply it as one batch, acknowledge it in order; forever. See `batches`.

    Records of an assignment that has ended are let go unacknowledged: their new owner has them.
    """
    collector = CycleCollector()
    async for batch in batches(stream, records_max, gather_seconds):
        newest = batch[-1].message.generation_id
        current = [event for event in batch if event.message.generation_id == newest and is_current(event)]
        if current:
            try:
                await apply(current)
            except AssignmentEndedError as ended:
                log.info("%s records are let go: %s", len(current), ended)
                continue
            for event in current:
                event.ack()
            collector.tick()


async def batches(stream: Any, records_max: int, gather_seconds: float = 0.0) -> AsyncIterator[list[Any]]:
    """Lists of at most `records_max` events: waits for the first and takes those that are there already.

    Nothing polls: an idle worker sleeps, and a record that comes alone is not kept waiting for company. But where the
    last batch was of several, and fewer wait now, others are given `gather_seconds` to join: who was answered by that
    batch asks again about now, and two small batches cost nearly twice as much as one.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=2 * records_max)

    async def read() -> None:
        async for event in stream.noack().events():
            await queue.put(event)

    reader = asyncio.create_task(read())
    last = 0
    try:
        while True:
            taking = asyncio.ensure_future(queue.get())
            await asyncio.wait({taking, reader}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                reader.result()
                return
            batch = [taking.result()]
            if gather_seconds and 1 + queue.qsize() < last:
                await asyncio.sleep(gather_seconds)
            while len(batch) < records_max and not queue.empty():
                batch.append(queue.get_nowait())
            last = len(batch)
            yield batch
    finally:
        reader.cancel()
