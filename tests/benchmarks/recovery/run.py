"""`meterline bench recovery` measures how long a worker takes to be back: without its disk, with it, and after a kill.

Time runs from the start of the worker's process until it has decided a command in every partition. The replies name
the accounts' balances, which shows that the accounts are back. The broker is running all the while.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.core.booking import available
from streams.embedded import lifeline
from streams.embedded.broker import EmbeddedBroker
from streams.errors import OperatorError
from streams.kafka.codecs import decode_account
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.rocks import VersionedFile
from streams.worker.tables import seen_file
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.recovery.compaction import await_compaction, compact_eagerly
from tests.benchmarks.recovery.filling import ENVIRONMENT, Filler, filler
from tests.benchmarks.rivals.faust_recovery import faust_recovery
from tests.benchmarks.workload import Workload

_STOP_SECONDS = 60.0
_SAMPLE_SECONDS = 0.05
# Before the kill, events are charged (this share of the seen ids), which the worker's files have not flushed by then.
_CHARGED_BEFORE_KILL = 0.05


@dataclass(slots=True)
class Start:
    """A start of the worker: the seconds until it had decided in every partition, and the most memory until then."""

    seconds: float
    peak_rss_mb: int
    wrong_replies: int


class BenchWorker:
    """A worker process that the benchmark starts and ends as it needs. Leaving the block ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log_path = settings.data_dir / "worker.log"
        self._child: lifeline.Child | None = None

    async def start(self, fill: Filler) -> Start:
        """Start the worker, and return once it has decided a command in every partition; those are sent before."""
        argv = [sys.executable, "-m", "api.cli", "worker"]
        deciding = asyncio.create_task(fill.decide_everywhere())
        began_at = time.monotonic()
        self._child = lifeline.start("worker", argv, log_path=self._log_path, env=self._settings.as_environment())
        with ProcessUsage({"worker": self._child.pid}, _SAMPLE_SECONDS) as usage:
            while not (await asyncio.wait({deciding}, timeout=0.5))[0]:
                self.check()
            seconds = time.monotonic() - began_at
        return Start(round(seconds, 2), usage.peak_rss_mb.get("worker", 0), deciding.result())

    @property
    def pid(self) -> int:
        """The worker's process id. Raises OperatorError where it has ended."""
        self.check()
        assert self._child is not None
        return self._child.pid

    @property
    def rss_mb(self) -> int:
        """The worker's resident memory now, in megabytes."""
        return round(psutil.Process(self.pid).memory_info().rss / 1e6)

    def check(self) -> None:
        """Look whether the worker still runs. Raises OperatorError where it has ended."""
        if self._child is None or self._child.poll() is not None:
            log = "\n".join(self._log_path.read_text(errors="replace").splitlines()[-15:])
            raise OperatorError(f"The worker ended. The end of its log:\n{log}")

    def stop(self) -> None:
        """Stop the worker with SIGTERM, and wait for its end."""
        if self._child is not None:
            self._child.stop(_STOP_SECONDS)
            self._child = None

    def kill(self) -> None:
        """Kill the worker with SIGKILL."""
        if self._child is not None:
            self._child.process.send_signal(signal.SIGKILL)
            self.stop()


def measure(
    accounts: int, seen_ids: int, tell: Callable[[str], None], baseline_seconds_max: float, compacting: bool
) -> dict[str, Any]:
    """Run the benchmark on a broker of its own, and then plain Faust on the same changelog, for
    `baseline_seconds_max` at most."""
    with tempfile.TemporaryDirectory(prefix="meterline-bench-", ignore_cleanup_errors=True) as directory:
        data_dir = Path(directory)
        settings = Settings().model_copy(update={"data_dir": data_dir})
        with EmbeddedBroker(data_dir, settings.cache_dir, heap_mb=settings.kafka_heap_mb) as broker:
            settings.kafka_url = broker.url
            figures = asyncio.run(_measure(settings, accounts, seen_ids, tell, baseline_seconds_max, compacting))
    return {**figures, "machine": describe()}


async def _measure(
    settings: Settings,
    accounts: int,
    seen_ids: int,
    tell: Callable[[str], None],
    baseline_seconds_max: float,
    compacting: bool,
) -> dict[str, Any]:
    await create_topics(settings)
    workload = Workload(seen_ids, accounts)
    worker = BenchWorker(settings)
    began_at = time.monotonic()
    try:
        async with filler(settings, workload.project_ids()) as fill:
            await _fill(settings.data_dir / "filling", fill, workload, began_at, tell)
            fill_seconds = time.monotonic() - began_at
            starts: dict[str, Start] = {}
            tell("starting without a disk")
            starts["without_disk"] = await worker.start(fill)
            worker.stop()
            wrong = wrong_accounts(settings, fill.expected)
            seen = seen_rows(settings)
            changelogs = await _changelogs(settings)
            tell("baseline: plain Faust")
            baseline = await faust_recovery(settings, baseline_seconds_max)
            tell("starting after a clean stop")
            starts["with_disk"] = await worker.start(fill)
            tell("starting after a kill")
            await fill.charge(Workload(max(1, round(seen_ids * _CHARGED_BEFORE_KILL)), accounts, seed=2))
            wrong_replies = await fill.decide_everywhere()
            worker.kill()
            starts["after_kill"] = await worker.start(fill)
            worker.stop()
            wrong += wrong_accounts(settings, fill.expected)
            if compacting:
                tell("compacting the changelog")
                await compact_eagerly(settings)
                # A new segment begins with a new record: the worker is started to write some.
                wrong_replies += (await worker.start(fill)).wrong_replies
                worker.stop()
                # The newest record of each account stays, and so do a few that came after the compacted segments.
                left = await await_compaction(settings, accounts + accounts // 100 + 100)
                changelogs["accounts_changelog_records_compacted"] = left
                tell("starting without a disk, from the compacted changelog")
                shutil.rmtree(settings.worker_dir)
                starts["without_disk_compacted"] = await worker.start(fill)
                worker.stop()
                wrong += wrong_accounts(settings, fill.expected)
    finally:
        worker.kill()
    rate = changelogs["accounts_changelog_records"] / starts["without_disk"].seconds
    return {
        "accounts": accounts,
        "seen_ids": seen_ids,
        **{f"seconds_{name}": start.seconds for name, start in starts.items()},
        "peak_rss_mb": {name: start.peak_rss_mb for name, start in starts.items()},
        "wrong_accounts": wrong,
        "wrong_replies": wrong_replies + sum(start.wrong_replies for start in starts.values()),
        "missing_seen_ids": seen_ids - seen,
        "session_timeout_seconds": settings.session_timeout_seconds,
        "partitions": settings.partitions,
        "filled_by": "the worker's owner, in larger batches, from commands and envelopes on intake",
        "fill_seconds": round(fill_seconds, 1),
        **changelogs,
        "accounts_changelog_records_per_second": round(rate),
        "baselines": [baseline.summary()],
        "ratios": {
            baseline.name: round(rate / baseline.records_per_second, 2) if baseline.records_per_second else None
        },
    }


async def _fill(
    directory: Path, fill: Filler, workload: Workload, began_at: float, tell: Callable[[str], None]
) -> None:
    """Put all accounts and events on intake and decide them, telling the seconds since it began."""

    def filled(what: str) -> None:
        tell(f"{what} ({time.monotonic() - began_at:.0f} s)")

    filled(f"filling: {workload.projects:,} accounts on intake")
    await fill.open_projects()
    filled("filling: deciding them")
    await fill.decide_all(directory)
    filled(f"filling: {workload.events:,} events on intake")
    await fill.charge(workload)
    filled("filling: deciding them")
    await fill.decide_all(directory)


def wrong_accounts(settings: Settings, expected: dict[str, int]) -> int:
    """Count the accounts that are missing, should not exist, or have a wrong balance, in a stopped worker's files."""
    right = wrong = 0
    for partition in range(settings.partitions):
        file = VersionedFile(settings.worker_dir / "tables" / "accounts" / str(partition))
        for _, value in file.items():
            account = decode_account(value)
            if available(account, ENVIRONMENT) == expected.get(account.project):
                right += 1
            else:
                wrong += 1
        file.close()
    return max(wrong, len(expected) - right)


def seen_rows(settings: Settings) -> int:
    rows = 0
    for partition in range(settings.partitions):
        file = seen_file(settings.worker_dir / "tables" / "seen" / str(partition), settings.dedup_days)
        rows += sum(1 for _ in file.items())
        file.close()
    return rows


async def _changelogs(settings: Settings) -> dict[str, Any]:
    """The size of the changelogs: records, and megabytes on the broker's disk, compressed."""
    topics = topics_of(settings)
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings))
    await consumer.start()
    figures: dict[str, Any] = {"changelog_records": 0, "changelog_mb": 0.0}
    try:
        for name, topic in (("accounts", topics.accounts_changelog), ("seen", topics.seen_changelog)):
            ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(settings.partitions)])
            logs = (settings.data_dir / "kafka" / "log").glob(f"{topic}-*/*.log")
            megabytes = round(sum(log.stat().st_size for log in logs) / 1e6, 1)
            figures[f"{name}_changelog_records"] = sum(ends.values())
            figures[f"{name}_changelog_mb"] = megabytes
            figures["changelog_records"] += sum(ends.values())
            figures["changelog_mb"] += megabytes
    finally:
        await consumer.stop()
    return figures
