"""The baseline of recovery: a plain Faust app gets its RocksDB table back from the same changelog that Meterline's
worker reads.

This module, run, is its child process. It recovers that one table alone, raw bytes as they stand.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import faust
import uvloop
from yarl import URL

from streams.embedded import lifeline
from streams.kafka.topics import topics_of
from streams.settings import Settings
from tests.benchmarks.rivals.rival import BenchChild, BenchKafka, write_note

NAME = "faust"
NOTE = "plain Faust, one RocksDB table from the same accounts changelog, no dedup index, its own settings"

_PROGRESS = "recovered"
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Recovered:
    """The result of a recovery: `records` of the changelog were back `seconds` after the process began. Unless
    `complete`, its time was up before all were."""

    name: str
    records: int
    seconds: float
    complete: bool

    @property
    def records_per_second(self) -> float:
        """The rate of recovery; 0 where no record came back."""
        return self.records / self.seconds

    def summary(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "name": self.name,
            "records": self.records,
            "seconds": round(self.seconds, 2),
            "records_per_second": round(self.records_per_second),
            "complete": self.complete,
            "note": NOTE,
        }


async def faust_recovery(settings: Settings, seconds_max: float) -> Recovered:
    """Run this baseline: start the app on an empty directory, and stop it when it has recovered or its time is up."""
    broker_url, changelog = settings.kafka_url, topics_of(settings).accounts_changelog
    assert broker_url is not None
    async with BenchKafka(broker_url, f"{NAME}-recovery") as kafka:
        await kafka.create(_commands(kafka.prefix))
        began_at = time.monotonic()
        with BenchChild(__name__, broker_url, kafka.prefix, changelog, str(settings.partitions)) as child:
            while True:
                records, complete = (child.note(_PROGRESS) or "0 0").split()
                seconds = time.monotonic() - began_at
                if complete == "1" or seconds >= seconds_max:
                    return Recovered(NAME, int(records), seconds, complete == "1")
                child.check(f"ended after {records} records")
                await asyncio.sleep(_POLL_SECONDS)


def _commands(prefix: str) -> str:
    return f"{prefix}-commands"


def _run_child(broker_url: str, prefix: str, directory: Path, changelog: str, partitions: int) -> NoReturn:
    uvloop.install()
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    app = faust.App(
        prefix,
        broker=URL(f"kafka://{broker_url}"),
        store="rocksdb://",
        datadir=str(directory),
        topic_partitions=partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    table = app.Table(
        "accounts",
        partitions=partitions,
        key_type=bytes,
        value_type=bytes,
        changelog_topic=app.topic(changelog, partitions=partitions, compacting=True, **raw),
        options={"driver": "rocksdict"},
    )

    @app.agent(app.topic(_commands(prefix), **raw), name="decide")  # type: ignore[untyped-decorator]
    async def decide(commands: Any) -> None:
        async for key in commands:
            table.get(key)

    applied = 0
    apply = table.apply_changelog_batch

    def apply_and_count(batch: Any) -> None:
        nonlocal applied
        apply(batch)
        applied += len(batch)

    table.apply_changelog_batch = apply_and_count

    def watch() -> None:
        # The public property would make the service, for this thread's loop.
        while (recovery := app.tables._recovery) is None:
            time.sleep(_POLL_SECONDS)
        while True:
            complete = int(recovery.completed.is_set())
            write_note(directory, _PROGRESS, f"{applied} {complete}")
            if complete:
                return
            time.sleep(_POLL_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
    worker = faust.Worker(app, loglevel="INFO", quiet=True, redirect_stdouts=False)
    raise SystemExit(worker.execute_from_commandline())


if __name__ == "__main__":
    lifeline.watch()
    _run_child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
