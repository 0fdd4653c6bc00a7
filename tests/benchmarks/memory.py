"""`meterline bench memory` measures what a worker's memory and files come to: by the ids of its dedup index, and by its
accounts with their windows and keys.

Each time a worker starts without a disk, reads the changelogs, and then decides events, so that its caches are as full
as use makes them. The ids are put on the changelog as the owner would; the accounts come about as in bench recovery.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams.core.marks import MARK_BYTES, Claim
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.worker.tables import day_of, seen_records
from tests.benchmarks.dedup.ids import BATCH_IDS, batch_count, bytes_on_disk, ids_of
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.recovery.filling import Filler, filler
from tests.benchmarks.recovery.run import BenchWorker, wrong_accounts
from tests.benchmarks.workload import Workload

# The goals, for as many ids and accounts as are measured unless told otherwise.
GROWTH_MB_MAX = 100
ACCOUNTS_RSS_MB_MAX = 400
ACCOUNTS_DISK_MB_MAX = 1000
# So many projects are charged beside the ids.
PROJECTS = 1000
_IDS_SENT_AT_ONCE = 16 * BATCH_IDS
_MB, _MIB = 1e6, 1024 * 1024


def measure(accounts: int, ids: list[int], events: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark on a broker of its own: each number of `ids`, then the accounts. `events` are decided before
    memory is read."""
    with tempfile.TemporaryDirectory(prefix="meterline-bench-", ignore_cleanup_errors=True) as directory:
        data_dir = Path(directory)
        settings = Settings().model_copy(update={"data_dir": data_dir})
        with EmbeddedBroker(data_dir, settings.cache_dir, heap_mb=settings.kafka_heap_mb) as broker:
            settings.kafka_url = broker.url

            def apart(name: str) -> Settings:
                return settings.model_copy(update={"data_dir": data_dir / name, "topic_prefix": f"bench-{name}"})

            by_ids = [asyncio.run(_with_ids(apart(f"ids-{count}"), count, events, tell)) for count in ids]
            of_accounts = asyncio.run(_with_accounts(apart("accounts"), accounts, events, tell))
    growth_mb = by_ids[-1]["rss_mb"] - by_ids[0]["rss_mb"]
    return {
        "by_ids": by_ids,
        "growth_mb": growth_mb,
        "by_accounts": of_accounts,
        "wrong": sum(run["wrong_replies"] for run in (*by_ids, of_accounts)) + of_accounts["wrong_accounts"],
        "events": events,
        "targets": {
            "more ids: under 100 MB more": growth_mb < GROWTH_MB_MAX,
            "accounts: 400 MB of memory at most": of_accounts["rss_mb"] <= ACCOUNTS_RSS_MB_MAX,
            "accounts: 1 GB of files at most": of_accounts["disk_mb"] <= ACCOUNTS_DISK_MB_MAX,
        },
        "machine": describe(),
    }


async def _with_ids(settings: Settings, ids: int, events: int, tell: Callable[[str], None]) -> dict[str, Any]:
    await create_topics(settings)
    tell(f"{ids:,} ids: writing them to the changelog")
    await _write_ids(settings, ids)
    workload = Workload(events, PROJECTS)
    async with filler(settings, workload.project_ids()) as fill:
        await fill.open_projects()
        tell(f"{ids:,} ids: a worker reads them")
        return {"ids": ids, **await _run_worker(settings, fill, workload, tell)}


async def _with_accounts(settings: Settings, accounts: int, events: int, tell: Callable[[str], None]) -> dict[str, Any]:
    await create_topics(settings)
    workload = Workload(events, accounts)
    async with filler(settings, workload.project_ids()) as fill:
        tell(f"{accounts:,} accounts: opening and counting them")
        await fill.open_projects()
        await fill.count_each()
        await fill.decide_all(settings.data_dir / "filling")
        tell(f"{accounts:,} accounts: a worker reads them")
        figures = await _run_worker(settings, fill, workload, tell)
    return {"accounts": accounts, **figures, "wrong_accounts": wrong_accounts(settings, fill.expected)}


async def _run_worker(
    settings: Settings, fill: Filler, workload: Workload, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Have a worker read the changelogs and decide the workload; its memory, and its files once it has ended."""
    worker = BenchWorker(settings)
    try:
        start = await worker.start(fill)
        with ProcessUsage({"worker": worker.pid}) as usage:
            recovered_mb = worker.rss_mb
            tell(f"deciding {workload.events:,} events")
            await fill.charge(workload)
            wrong = start.wrong_replies + await fill.decide_everywhere()
            rss_mb = worker.rss_mb
        worker.stop()
    finally:
        worker.kill()
    tables = settings.worker_dir / "tables"
    return {
        "seconds_until_deciding": start.seconds,
        "rss_mb_after_recovery": recovered_mb,
        "rss_mb": rss_mb,
        "peak_rss_mb": max(rss_mb, round(max(start.peak_rss_mb, *usage.peak_rss_mb.values()) * _MIB / _MB)),
        "disk_mb": round(bytes_on_disk(tables) / _MB, 1),
        "disk_mb_by_table": {path.name: round(bytes_on_disk(path) / _MB, 1) for path in sorted(tables.iterdir())},
        "wrong_replies": wrong,
    }


async def _write_ids(settings: Settings, ids: int) -> None:
    """Write ids to the changelog of the dedup index, as many on each day of its window."""
    publisher = Publisher(settings)
    await publisher.start()
    topic, batches = topics_of(settings).seen_changelog, batch_count(ids)
    today = day_of(round(time.time() * 1000))
    try:
        pending: list[asyncio.Future[int]] = []
        for batch in range(batches):
            day = today - settings.dedup_days + 1 + batch * settings.dedup_days // batches
            for key, value in seen_records(dict.fromkeys(ids_of(batch), Claim(0, bytes(MARK_BYTES))), day, batch):
                pending.append(await publisher.send(topic, batch % settings.partitions, value, key))
            if len(pending) * BATCH_IDS >= _IDS_SENT_AT_ONCE:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await publisher.stop()
