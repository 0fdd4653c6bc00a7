"""`meterline bench throughput` measures how many events a second one worker carries, from the usage topic to balances,
journal and ClickHouse.

The usage is on its topic before the worker starts, so that sending it takes no processor time from the worker. Broker,
worker and API (with the historian and the embedded ClickHouse) share the machine. Time runs from the first envelope on
intake, as the broker stamped it, until ClickHouse has every event.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from api.stack import Stack, settings_apart
from schemas.commands import CreateProject
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.client.kafka_producer import KafkaProducer
from streams.embedded.broker import EmbeddedBroker
from streams.errors import OperatorError
from streams.kafka.codecs import decode_intake, encode_intake
from streams.kafka.publisher import Publisher
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from streams.reconcile.verify import verify
from streams.settings import Settings
from tests.benchmarks.history.run import PROJECTIONS
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.rivals.faust_app import faust_baseline
from tests.benchmarks.rivals.postgres import postgres_baseline
from tests.benchmarks.rivals.quix import quix_baseline
from tests.benchmarks.rivals.raw import raw_baseline
from tests.benchmarks.rivals.rival import BaselineResult
from tests.benchmarks.traffic import HOPS_OF_AN_EVENT, Traffic, per_core
from tests.benchmarks.workload import OPENING_BALANCE, Workload

PACK = 500
STALLED_SECONDS = 60.0


def compare(quick: bool, tell: Callable[[str], None]) -> list[BaselineResult]:
    """Run the baselines, one after the other on a broker of their own, each with a shorter workload and a limit of
    time."""
    baselines = (
        ("plain Faust", faust_baseline, 100_000),
        ("PostgreSQL", postgres_baseline, 60_000),
        ("Quix Streams", quix_baseline, 300_000),
        ("raw aiokafka", raw_baseline, 2_000_000),
    )
    seconds_max = 4.0 if quick else 60.0
    results = []
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory:
        settings = Settings()
        with EmbeddedBroker(Path(directory), settings.cache_dir, heap_mb=settings.kafka_heap_mb) as broker:
            for name, baseline, size in baselines:
                tell(f"baseline: {name}")
                workload = Workload(size // 20 if quick else size, 500 if quick else 10_000)
                results.append(baseline(broker.url, workload, seconds_max))
    return results


def ratios(events_per_second: float, baselines: list[BaselineResult]) -> dict[str, float | None]:
    """The ratio of this rate to the rate of each baseline."""
    return {
        each.name: round(events_per_second / each.events_per_second, 2) if each.events_per_second else None
        for each in baselines
    }


def measure(
    events: int, projects: int, tell: Callable[[str], None], *, packed: bool = True, projections: bool = True
) -> dict[str, Any]:
    """Run the benchmark without the baselines, and return its figures. The usage is packed, as our own producers send
    it, or JSON. Without `projections` ClickHouse keeps no sums of use."""
    workload = Workload(events, projects)
    with opened(workload, tell, projections=projections) as (stack, live, clickhouse):
        stack.hold("worker-1")
        tell(f"writing {events:,} events to the usage topic")
        with Traffic(live) as traffic:
            asyncio.run(_produce(live, workload) if packed else _produce_json(live, workload))
            stack.let_go("worker-1")
            while "worker-1" not in stack.pids():
                time.sleep(0.05)
            with ProcessUsage(stack.pids()) as usage:
                ended_at = wait_for_facts(clickhouse, 2 * projects + events, tell)
        began_at, decided_at = asyncio.run(_times(live))
        tell("reconciling")
        figures = _figures(clickhouse, workload)
        verdict = asyncio.run(verify(live, clickhouse))
    seconds = ended_at - began_at
    cpu = {name: round(spent / events * 1e6, 2) for name, spent in usage.cpu_seconds.items()}
    return {
        "events": events,
        "projects": projects,
        "usage": "packed" if packed else "JSON",
        "projections": projections,
        "seconds": round(seconds, 2),
        "events_per_second": round(events / seconds, 1),
        "events_per_second_to_journal": round(events / (decided_at - began_at), 1),
        "clickhouse_rows_per_second": round(events / seconds, 1),
        **figures,
        "drift_microcredits": verdict.drift_microcredits,
        "peak_rss_mb": usage.peak_rss_mb.get("worker-1"),
        "peak_rss_mb_by_process": usage.peak_rss_mb,
        "cpu_seconds_by_process": usage.cpu_seconds,
        "cpu_microseconds_per_event": cpu,
        "events_per_core": per_core(cpu),
        "hops": HOPS_OF_AN_EVENT,
        "written_per_event": traffic.per(events),
        "machine": describe(),
    }


@contextmanager
def opened(
    workload: Workload, tell: Callable[[str], None], *, projections: bool = True
) -> Iterator[tuple[Stack, Settings, ClickHouse]]:
    """A stack of its own in which a workload's projects are open, each with credits for all of it; gives it with its
    settings and its history, which keeps no sums of use without `projections`."""
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory, ExitStack() as ends:
        settings = settings_apart(Path(directory))
        if not projections:
            # While the stack runs, nobody may change a table but the historian.
            with closing(ClickHouse(settings)) as embedded:
                migrate(embedded)
                for name in PROJECTIONS:
                    embedded.command(f"ALTER TABLE facts DROP PROJECTION {name}")
        stack = ends.enter_context(Stack(settings, tell=tell))
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        tell(f"opening {workload.projects:,} projects")
        asyncio.run(_open_projects(live, workload))
        with closing(ClickHouse(live)) as clickhouse:
            # A project opens with two facts: that it is opened, and its first grant.
            wait_for_facts(clickhouse, 2 * workload.projects, tell)
            yield stack, live, clickhouse


async def _open_projects(settings: Settings, workload: Workload) -> None:
    publisher = Publisher(settings)
    await publisher.start()
    by_partition: dict[int, list[tuple[bytes | None, bytes]]] = {}
    for project in workload.project_ids():
        command = CreateProject(
            project=project,
            name="",
            plan="enterprise",
            contract_allowance=OPENING_BALANCE,
            idempotency_key="",
            correlation=project,
            reply_instance="",
            reply_partition=0,
        )
        partition = partition_of(project, settings.partitions)
        by_partition.setdefault(partition, []).append((None, encode_intake(command)))
    try:
        for partition, records in by_partition.items():
            await publisher.send_all(topics_of(settings).intake, partition, records)
    finally:
        await publisher.stop()


async def _produce(settings: Settings, workload: Workload) -> None:
    """Send the usage as our own producers do. Packs are full: how long they linger is no matter here."""
    producer = KafkaProducer(settings, events_per_pack=PACK, linger_ms=1000, events_pending_max=200 * PACK)
    async with producer:
        for _, text in workload:
            await producer.send(text)
    if producer.acknowledged != workload.events:
        sent = f"{producer.acknowledged:,} of {workload.events:,} events"
        raise OperatorError(f"Only {sent} are on the usage topic: {producer.last_error!r}")


async def _produce_json(settings: Settings, workload: Workload) -> None:
    """Send the usage as other producers do: arrays of JSON."""
    publisher = Publisher(settings)
    await publisher.start()
    topic = topics_of(settings).usage
    try:
        pending: list[asyncio.Future[int]] = []
        for record in workload.records(PACK, settings.partitions):
            pending.append(await publisher.send(topic, record.partition, record.value))
            if len(pending) >= 200:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await publisher.stop()


def wait_for_facts(clickhouse: ClickHouse, wanted: int, tell: Callable[[str], None]) -> float:
    """Wait until ClickHouse has the `wanted` number of facts, and return the wall-clock time. It is asked seldom until
    that is near, since asking costs time too."""
    count, moved_at, pause = 0, time.monotonic(), 0.5
    while True:
        found = int(clickhouse.query("SELECT count() FROM facts")[0][0])
        now = time.monotonic()
        if found >= wanted:
            return time.time()
        if found != count:
            rate = (found - count) / (now - moved_at)
            pause = min(1.0, max(0.05, 0.3 * (wanted - found) / rate))
            count, moved_at = found, now
            tell(f"{count:,} of {wanted:,} facts in ClickHouse")
        elif now - moved_at > STALLED_SECONDS:
            raise OperatorError(f"Only {count:,} of {wanted:,} facts reached ClickHouse; nothing more for a minute")
        time.sleep(pause)


async def _times(settings: Settings) -> tuple[float, float]:
    """The times at which the first envelope was on intake and the last fact on the journal, by the broker's clock, in
    seconds."""
    topics = topics_of(settings)
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        intake = [TopicPartition(topics.intake, number) for number in range(settings.partitions)]
        journal = [TopicPartition(topics.journal, number) for number in range(settings.partitions)]
        consumer.assign(intake + journal)
        firsts = []
        for tp in intake:
            await consumer.seek_to_beginning(tp)
            while True:
                record = await consumer.getone(tp)
                if type(decode_intake(record.value)).__name__ == "Envelope":
                    firsts.append(record.timestamp)
                    break
        lasts = []
        for tp, end in (await consumer.end_offsets(journal)).items():
            consumer.seek(tp, end - 1)
            lasts.append((await consumer.getone(tp)).timestamp)
    finally:
        await consumer.stop()
    return min(firsts) / 1000, max(lasts) / 1000


def _figures(clickhouse: ClickHouse, workload: Workload) -> dict[str, Any]:
    """The figures of events that are lost, billed twice or charged wrongly, by a count of the workload made here."""
    rows = clickhouse.query(
        "SELECT project, countIf(quantity > 0), uniqExact(event_id), -sum(amount) FROM facts WHERE kind = 'charge' "
        "GROUP BY project"
    )
    found = {row[0]: (int(row[1]), int(row[2]), int(row[3])) for row in rows}
    lost = twice = wrong = 0
    for project, (count, microcredits) in workload.expected().items():
        charged, distinct, amount = found.get(project, (0, 0, 0))
        lost += max(0, count - distinct)
        twice += charged - distinct
        wrong += abs(amount - microcredits)
    return {"lost": lost, "billed_twice": twice, "wrong_microcredits": wrong}
