"""Batches: all records that have arrived are taken at once, applied, and acknowledged in order."""

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
    """Take the records that have arrived, apply them as one batch, acknowledge them in order; forever. See `batches`.

    Records of an assignment that has ended are let go unacknowledged: they go to their new owner.
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
    """Yield batches of at most `records_max` events: wait for the first event, and take all that have come by then.

    Nothing polls: an idle worker sleeps, and a record that comes alone is not kept waiting for others. But where fewer
    wait now than the last batch had, more are given `gather_seconds` to join: a caller that the last batch answered
    asks again about now, and two small batches cost nearly twice as much as one.
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
