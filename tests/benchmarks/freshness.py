"""`meterline bench freshness` measures how soon a decision can be read in the history, at a steady rate of events.

From the broker's time of a journal record until a question sees its facts. Another process than the historian looks,
again and again, so what is told is at most one look too long. The first seconds are left out.

Then the history goes away while more is decided, and comes back: how soon has it caught up?
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from clickhouse_connect.driver.exceptions import OperationalError

from api.stack import Stack, backlog_of
from streams.clickhouse.client import ClickHouse, ClickHouseError
from streams.client.kafka_producer import KafkaProducer
from streams.kafka.stored import raw_pack_of
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.throughput import opened, wait_for_facts
from tests.benchmarks.workload import Workload

LOOK_SECONDS = 0.1
TICK_SECONDS = 0.05
WARM_SECONDS = 3.0
PACK = 100
# Events a second that no sender reaches: what waits is bounded by the producer.
_UNPACED = 1_000_000
LINGER_MS = 20

# When it was looked, in Unix milliseconds, and the newest journal offset of each partition that was seen.
Sight = tuple[float, dict[int, int]]


def measure(rate: int, seconds: float, projects: int, away: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark with `rate` events a second for `seconds`, then with `away` events while the history is away,
    and return its figures. Times are milliseconds."""
    workload = Workload(int(rate * seconds) + away, projects)
    with opened(workload, tell) as (stack, live, clickhouse):
        every = [text for _, text in workload]
        texts, later_texts = every[: len(every) - away], every[len(every) - away :]
        began_at = time.time()
        with _Watch(live) as watch, ProcessUsage(stack.pids()) as usage:
            tell(f"sending {rate:,} events a second")
            sent_in, behind = asyncio.run(_send(live, texts, rate))
            ended_at = wait_for_facts(clickhouse, 2 * projects + len(texts), tell)
        waits = asyncio.run(_waits(live, watch.sights, 1000 * (began_at + WARM_SECONDS)))
        caught_up = _caught_up(stack, live, clickhouse, later_texts, 2 * projects + len(every), tell) if away else None
    looks = [later[0] - earlier[0] for earlier, later in pairwise(watch.sights)]
    return {
        "events_per_second_wanted": rate,
        "events_per_second_sent": round(len(texts) / sent_in),
        "sender_behind_ms_max": round(1000 * behind, 1),
        "seconds": seconds,
        "projects": projects,
        "seconds_until_all_visible": round(ended_at - began_at, 2),
        "facts_measured": sum(count for _, count in waits),
        "decision_to_visible_ms": {f"p{percent}": _percentile(waits, percent) for percent in (50, 90, 99, 100)},
        "looks": len(watch.sights),
        "look_ms": {"mean": round(sum(looks) / len(looks), 1), "max": round(max(looks), 1)},
        "cpu_seconds_by_process": usage.cpu_seconds,
        "after_being_away": caught_up,
        "machine": describe(),
    }


class _Watch:
    """A watch notes, while its block runs, up to which journal offset of each partition facts can be read, and when."""

    def __init__(self, settings: Settings) -> None:
        self.sights: list[Sight] = []
        self._clickhouse = ClickHouse(settings)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._clickhouse.close()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            rows = self._clickhouse.query("SELECT partition, max(journal_offset) FROM facts GROUP BY partition")
            self.sights.append((1000 * time.time(), {row[0]: row[1] for row in rows}))


def _caught_up(
    stack: Stack,
    settings: Settings,
    clickhouse: ClickHouse,
    texts: list[bytes],
    wanted: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Have these events decided while ClickHouse and the historian are away, let them come back, and tell how long it
    took until all of the `wanted` facts could be read."""
    tell(f"sending {len(texts):,} events while the history is away")
    stack.hold("history")
    began = time.monotonic()
    asyncio.run(_send(settings, texts, _UNPACED))
    while backlog_of(httpx.get(stack.metrics_url).text)[0]:
        time.sleep(0.2)
    decided = time.monotonic()
    stack.let_go("history")
    while True:
        try:
            clickhouse.query("SELECT 1")
            break
        except (ClickHouseError, OperationalError):
            time.sleep(0.05)
    answered = time.monotonic()
    wait_for_facts(clickhouse, wanted, tell)
    seconds = time.monotonic() - decided
    return {
        "events": len(texts),
        "seconds_until_decided": round(decided - began, 2),
        "seconds_until_it_answers": round(answered - decided, 2),
        "seconds_until_all_visible": round(seconds, 2),
        "facts_per_second": round(len(texts) / seconds),
    }


async def _send(settings: Settings, texts: list[bytes], rate: int) -> tuple[float, float]:
    """Send events at an even rate; gives the seconds that it took, and how far behind it was at most."""
    began_at, behind = time.monotonic(), 0.0
    each = max(1, int(rate * TICK_SECONDS))
    async with KafkaProducer(
        settings, events_per_pack=PACK, linger_ms=LINGER_MS, events_pending_max=min(20 * rate, 400_000)
    ) as producer:
        for first in range(0, len(texts), each):
            due = began_at + first / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            behind = max(behind, -early)
            for text in texts[first : first + each]:
                await producer.send(text)
    return time.monotonic() - began_at, behind


async def _waits(settings: Settings, sights: list[Sight], from_ms: float) -> list[tuple[float, int]]:
    """For each journal record written after a time: how many milliseconds until its facts were seen, and how many they
    are. Sorted."""
    topic = topics_of(settings).journal
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings), auto_offset_reset="earliest")
    await consumer.start()
    waits: list[tuple[float, int]] = []
    try:
        for number in range(settings.partitions):
            place = TopicPartition(topic, number)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            seen = [sight.get(number, -1) for _, sight in sights]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(timeout_ms=1000)).get(place, ()):
                    found = bisect_left(seen, record.offset)
                    if record.timestamp >= from_ms and found < len(seen):
                        waits.append((max(0.0, sights[found][0] - record.timestamp), raw_pack_of(record).count))
    finally:
        await consumer.stop()
    return sorted(waits)


def _percentile(waits: list[tuple[float, int]], percent: int) -> float | None:
    """The wait that so many percent of the facts are within."""
    left = sum(count for _, count in waits) * percent / 100
    for wait, count in waits:
        left -= count
        if left <= 0:
            return round(wait, 1)
    return None
