"""The baseline `plain Faust` is an agent as Faust's documentation teaches it, one event a record. This module, run, is
its child process."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import faust
import orjson
import uvloop
from yarl import URL

from schemas.prices import FIRST_PRICE_BOOK
from streams.embedded import lifeline
from tests.benchmarks.rivals.rival import (
    PARTITIONS,
    BaselineResult,
    BenchChild,
    BenchKafka,
    measured,
    note_first_event,
    single_events,
)
from tests.benchmarks.workload import OPENING_BALANCE, Workload

NAME = "faust"
NOTE = "plain agent, one event a record, RocksDB table with its changelog, at least once, no dedup, one process"


def faust_baseline(broker_url: str, workload: Workload, seconds_max: float) -> BaselineResult:
    """Run this baseline: charge the workload. An event is durable once its entry and its changelog record are
    acknowledged."""
    return asyncio.run(_measure(broker_url, workload, seconds_max))


async def _measure(broker_url: str, workload: Workload, seconds_max: float) -> BaselineResult:
    async with BenchKafka(broker_url, NAME) as kafka:
        usage, entries, changelog = _topics(kafka.prefix)
        await kafka.create(usage, entries)
        await kafka.produce(usage, single_events(workload))

        async def done() -> int:
            return min(await kafka.length(entries), await kafka.length(changelog))

        with BenchChild(__name__, broker_url, kafka.prefix) as child:
            run = await child.follow(done, workload.events, seconds_max)
        counts: Counter[str] = Counter([record.key.decode() async for record in kafka.read(entries)])
        balances = {record.key: orjson.loads(record.value) async for record in kafka.read(changelog)}
        charged = {
            project: (counts[project], OPENING_BALANCE - balance)
            for project, balance in ((orjson.loads(key), balance) for key, balance in balances.items())
        }
    return measured(NAME, workload, run, NOTE, charged)


def _topics(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}-usage", f"{prefix}-entries", f"{prefix}-balances-changelog"


def _run_child(broker_url: str, prefix: str, directory: Path) -> NoReturn:
    uvloop.install()
    usage_topic, entries_topic, _ = _topics(prefix)
    app = faust.App(
        prefix,
        broker=URL(f"kafka://{broker_url}"),
        store="rocksdb://",
        datadir=str(directory),
        topic_partitions=PARTITIONS,
        web_enabled=False,
    )
    usage = app.topic(usage_topic, key_type=str, value_serializer="json")
    entries = app.topic(entries_topic, key_type=str, value_serializer="json")
    balances = app.Table(
        "balances", default=lambda: OPENING_BALANCE, partitions=PARTITIONS, options={"driver": "rocksdict"}
    )
    rates = FIRST_PRICE_BOOK.rates

    @app.agent(usage, name="charge")  # type: ignore[untyped-decorator]
    async def charge(events: Any) -> None:
        is_first = True
        async for event in events:
            if is_first:
                note_first_event(directory)
                is_first = False
            project, data = event["subject"], event["data"]
            cost = rates[data["operation"]] * data.get("quantity", 1)
            balance = balances[project]
            if balance < cost:
                continue
            balances[project] = balance - cost
            entry = {
                "source": event["source"],
                "id": event["id"],
                "operation": data["operation"],
                "amount": -cost,
                "balance": balance - cost,
            }
            await entries.send(key=project, value=entry)

    worker = faust.Worker(app, loglevel="INFO", quiet=True, redirect_stdouts=False)
    raise SystemExit(worker.execute_from_commandline())


if __name__ == "__main__":
    lifeline.watch()
    _run_child(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
