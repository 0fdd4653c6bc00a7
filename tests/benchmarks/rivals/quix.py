"""The baseline `Quix Streams` charges from its state, as its documentation teaches it. This module, run, is its child
process."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from schemas.prices import FIRST_PRICE_BOOK
from streams.embedded import lifeline
from tests.benchmarks.rivals.rival import (
    BaselineResult,
    BenchChild,
    BenchKafka,
    measured,
    not_installed,
    note_first_event,
    single_events,
)
from tests.benchmarks.workload import OPENING_BALANCE, Workload

NAME = "quix"
NOTE = (
    "one event a record, RocksDB state with its changelog (balances once a checkpoint, every 5 s and at the end), "
    "at least once, no dedup, one process"
)


def quix_baseline(broker_url: str, workload: Workload, seconds_max: float) -> BaselineResult:
    """Run this baseline: charge the workload. An event is durable once its checkpoint is committed; its entries and its
    changelog record come before that."""
    if find_spec("quixstreams") is None:
        return not_installed(NAME, "quixstreams", "uv sync --group bench")
    return asyncio.run(_measure(broker_url, workload, seconds_max))


async def _measure(broker_url: str, workload: Workload, seconds_max: float) -> BaselineResult:
    async with BenchKafka(broker_url, NAME) as kafka:
        usage, entries = _topics(kafka.prefix)
        await kafka.create(usage, entries)
        await kafka.produce(usage, single_events(workload))
        with BenchChild(__name__, broker_url, kafka.prefix, str(workload.events)) as child:
            run = await child.follow(lambda: kafka.committed(kafka.prefix, usage), workload.events, seconds_max)
        counts: Counter[str] = Counter([record.key.decode() async for record in kafka.read(entries)])
        balances: dict[str, int] = {}
        async for record in kafka.read(f"changelog__{kafka.prefix}--{usage}--default"):
            # A changelog key is the record's key as JSON, a bar, and the state's own key.
            balances[orjson.loads(record.key.partition(b"|")[0])] = orjson.loads(record.value)
        charged = {project: (counts[project], OPENING_BALANCE - balance) for project, balance in balances.items()}
    return measured(NAME, workload, run, NOTE, charged)


def _topics(prefix: str) -> tuple[str, str]:
    return f"{prefix}-usage", f"{prefix}-entries"


def _run_child(broker_url: str, prefix: str, directory: Path, events: int) -> None:
    from quixstreams import Application, State

    usage_topic, entries_topic = _topics(prefix)
    app = Application(
        broker_address=broker_url,
        consumer_group=prefix,
        auto_offset_reset="earliest",
        state_dir=directory / "state",
    )
    usage = app.topic(usage_topic, key_deserializer="str", value_deserializer="json")
    entries = app.topic(entries_topic, key_serializer="str", value_serializer="json")
    rates = FIRST_PRICE_BOOK.rates
    is_first = True

    def charge(event: dict[str, Any], state: State) -> dict[str, Any] | None:
        nonlocal is_first
        if is_first:
            note_first_event(directory)
            is_first = False
        data = event["data"]
        cost = rates[data["operation"]] * data.get("quantity", 1)
        balance = state.get("balance", OPENING_BALANCE)
        if balance < cost:
            return None
        state.set("balance", balance - cost)
        return {
            "source": event["source"],
            "id": event["id"],
            "operation": data["operation"],
            "amount": -cost,
            "balance": balance - cost,
        }

    charged = app.dataframe(usage).apply(charge, stateful=True)
    charged = charged.filter(lambda entry: entry is not None)
    charged.to_topic(entries)
    # With `count`, Quix commits when it has made so many entries, instead of at its next checkpoint up to 5 s later.
    app.run(count=events, collect=False)


if __name__ == "__main__":
    lifeline.watch()
    _run_child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
