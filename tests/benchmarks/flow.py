"""A flow of usage events at an even rate, for as long as something else is measured. This module, run, is the child
process that sends it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Self

import msgspec
import uvloop

from streams.client.kafka_producer import KafkaProducer
from streams.collector import tune_collector
from streams.embedded import lifeline
from streams.settings import Settings
from tests.benchmarks.rivals.rival import BenchChild, write_note
from tests.benchmarks.workload import Workload

_SENT = "sent"
_EVENTS_MAX = 1_000_000_000
_TICK_SECONDS = 0.05
_PACK, _LINGER_MS = 100, 20
_BEGIN_SECONDS_MAX = 30.0


class FlowCounts(msgspec.Struct, frozen=True):
    """The counts of a flow so far: events sent, in how many seconds, and by how much the sender was late at most."""

    events: int
    seconds: float
    behind_ms_max: float

    @property
    def per_second(self) -> float:
        """The events that were sent a second."""
        return round(self.events / self.seconds, 1)


class UsageFlow:
    """A flow of `rate` events a second, of the projects of a workload, while the block runs; it has begun when the
    block begins. `seed` is not shared with another flow of the same stack, or its events were billed already."""

    def __init__(self, settings: Settings, rate: int, projects: int, seed: int) -> None:
        arguments = (str(settings.partitions), str(rate), str(projects), str(seed))
        self._child = BenchChild(__name__, settings.kafka_url or "", settings.topic_prefix, *arguments)

    def __enter__(self) -> Self:
        self._child.__enter__()
        try:
            self._child.result(_SENT, _BEGIN_SECONDS_MAX)
        except BaseException:
            self._child.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._child.check("ended while it was to send")
        finally:
            self._child.__exit__()

    def counts(self) -> FlowCounts:
        """The counts so far."""
        return msgspec.json.decode(self._child.result(_SENT, 1.0), type=FlowCounts)


async def _send(settings: Settings, directory: Path, rate: int, projects: int, seed: int) -> None:
    events = iter(Workload(_EVENTS_MAX, projects, seed))
    sent, behind, told_at = 0, 0.0, 0.0
    async with KafkaProducer(
        settings, events_per_pack=_PACK, linger_ms=_LINGER_MS, events_pending_max=20 * max(rate, 1000)
    ) as producer:
        began_at = time.monotonic()
        while True:
            due = began_at + sent / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            behind = max(behind, -early)
            for _ in range(max(1, int(rate * _TICK_SECONDS))):
                _, text = next(events)
                await producer.send(text)
                sent += 1
            if (now := time.monotonic()) - told_at > 0.25:
                counts = FlowCounts(sent, round(now - began_at, 3), round(1000 * behind, 1))
                write_note(directory, _SENT, msgspec.json.encode(counts).decode())
                told_at = now


def _run_child(arguments: list[str]) -> None:
    url, prefix, directory, partitions, rate, projects, seed = arguments
    tune_collector()
    settings = Settings(kafka_url=url, topic_prefix=prefix, partitions=int(partitions))
    uvloop.run(_send(settings, Path(directory), int(rate), int(projects), int(seed)))


if __name__ == "__main__":
    lifeline.watch()
    _run_child(sys.argv[1:])
