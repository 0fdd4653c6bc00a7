"""The trace of bench admission says where the time of a batch goes: in our worker, and in that of the floor.

The worker is the same process in all but the classes that it takes its times in. This module, run, is that worker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from rich.table import Table

from api.stack import Stack
from streams import logs
from streams.embedded import lifeline
from streams.kafka.codecs import encode_account
from streams.settings import Settings
from streams.state.rocks import PartitionFile
from streams.worker import app, decider
from streams.worker.agents import Owner
from streams.worker.lease import Lease
from tests.benchmarks.admission.callers import Level, LoadPlan, run_callers
from tests.benchmarks.rivals.batch_clock import ACCOUNTS, DECIDING, JOURNAL, WAITING, BatchClock, Parts, read_parts
from tests.benchmarks.rivals.rival import BenchChild

CALLERS = 64
WORKER = "worker-1"
ENCODING, READING, WRITING = "encoding", "reading", "writing"
# Each part of a batch, and in which other one it is; in the order of the table.
WORDS = {
    WAITING: "replies to callers, their next commands, intake, the fetch, the stream",
    DECIDING: "deciding, and encoding what follows",
    READING: "· of it RocksDB's look-ups",
    ENCODING: "· of it accounts as bytes",
    JOURNAL: "journal, dedup index and kept replies, acknowledged",
    ACCOUNTS: "accounts acknowledged, RocksDB, replies sent",
    WRITING: "· of it RocksDB's writes",
}
# The same time as callers see it, on average.
CALLERS_MS = {
    "callers: a record of commands, from sending it until it is acknowledged": "acknowledged_ms",
    "callers: all else, from asking until the reply is read": "else_ms",
}
WARM_UP_SECONDS = 1.0


class TracedLease(Lease):
    """A lease that sets a clock. The owner checks it twice in a batch: before it writes facts, and once they are
    acknowledged, before it writes accounts."""

    def __init__(self, session_timeout_seconds: float, clock: BatchClock) -> None:
        super().__init__(session_timeout_seconds)
        self._clock = clock
        self.next_part = DECIDING

    def check(self, generation: int) -> None:
        super().check(generation)
        self._clock.end(self.next_part)
        self.next_part = JOURNAL


class TracedOwner(Owner):
    """An owner that sets its lease's clock when a batch begins, and when all that follows from it is acknowledged."""

    clock: BatchClock

    async def apply(self, events: list[Any]) -> None:
        assert isinstance(self.lease, TracedLease)
        self.lease.next_part = DECIDING
        self.clock.begin()
        try:
            await super().apply(events)
        finally:
            self.clock.end(ACCOUNTS)


def traced_level(settings: Settings, plan: LoadPlan, worker: BenchChild) -> tuple[Level, Parts]:
    """Run a plan of one level, and read the clock of the worker that serves it."""
    before = read_parts(worker)
    (level,) = run_callers(settings, plan)
    return level, read_parts(worker).since(before)


def trace_worker(stack: Stack, settings: Settings, seconds: float, projects: int) -> tuple[Level, Parts]:
    """Trace a worker that takes the place of the stack's own for so long."""
    env = settings.as_environment() | {"METERLINE_WORKER_NAME": WORKER}
    stack.hold(WORKER)
    try:
        with BenchChild(__name__, settings.kafka_url or "", settings.topic_prefix, env=env) as worker:
            # The first callers wait until it owns the partitions.
            run_callers(settings, LoadPlan("client", [CALLERS], WARM_UP_SECONDS, projects, seed=7))
            plan = LoadPlan("client", [CALLERS], seconds, projects, 8, is_traced=True)
            return traced_level(settings, plan, worker)
    finally:
        stack.let_go(WORKER)


def compare(ours: tuple[Level, Parts], floor: tuple[Level, Parts]) -> dict[str, Any]:
    """Compare a traced level of ours with the floor's."""
    return {
        "callers": CALLERS,
        "parts": [
            {"part": words, **_figures(name, *ours), **{f"floor_{key}": v for key, v in _figures(name, *floor).items()}}
            for name, words in WORDS.items()
        ],
        "worker": _summary(*ours),
        "floor": _summary(*floor),
    }


def table(trace: dict[str, Any]) -> Table:
    """The parts as a table for people."""
    batches = " and ".join(f"{trace[side]['decisions_per_batch']:g}" for side in ("worker", "floor"))
    shown = Table(title=f"A batch at {trace['callers']} callers ({batches} decisions): ours, and the floor's")
    shown.add_column("part of a batch")
    for name in ("ms", "µs a decision", "floor: ms", "µs a decision"):
        shown.add_column(name, justify="right")
    columns = ("ms", "microseconds_per_decision", "floor_ms", "floor_microseconds_per_decision")
    for part in trace["parts"]:
        shown.add_row(part["part"], *("–" if part[name] is None else f"{part[name]:g}" for name in columns))
    shown.add_section()
    sides = trace["worker"], trace["floor"]
    for words, name in CALLERS_MS.items():
        shown.add_row(words, *(cell for side in sides for cell in (f"{side[name]:g}", "–")))
    spent = "caller_cpu_microseconds_per_decision"
    shown.add_row("callers: processor time", *(cell for side in sides for cell in ("–", f"{side[spent]:g}")))
    return shown


def _figures(name: str, level: Level, parts: Parts) -> dict[str, float | None]:
    spent = parts.seconds.get(name)
    if not spent:
        return {"ms": None, "microseconds_per_decision": None}
    return {
        "ms": round(1e3 * spent / parts.batches, 2),
        "microseconds_per_decision": round(1e6 * spent / level.asked, 1),
    }


def _summary(level: Level, parts: Parts) -> dict[str, Any]:
    """The level of a trace, and its callers' side."""
    # Each caller asks again as soon as it is answered.
    mean_ms = 1e3 * level.callers / level.decisions_per_second
    return {
        **msgspec.to_builtins(level),
        "mean_ms": round(mean_ms, 2),
        "else_ms": round(mean_ms - level.acknowledged_ms, 2),
        "decisions_per_batch": round(level.asked / parts.batches, 1),
        "caller_cpu_microseconds_per_decision": round(1e4 * level.caller_cpu_percent / level.decisions_per_second, 1),
    }


def _run_traced(settings: Settings, clock: BatchClock) -> None:
    def traced_lease(session_timeout_seconds: float) -> Lease:
        return TracedLease(session_timeout_seconds, clock)

    TracedOwner.clock = clock
    timed: dict[str, tuple[object, str, Callable[..., Any]]] = {
        ENCODING: (decider, "encode_account", encode_account),
        READING: (PartitionFile, "get_many", PartitionFile.get_many),
        WRITING: (PartitionFile, "write", PartitionFile.write),
    }
    for name, (owner, attribute, work) in timed.items():
        patch.object(owner, attribute, clock.within(name, work)).start()
    with patch.object(app, "Owner", TracedOwner), patch.object(app, "Lease", traced_lease):
        app.run_worker(settings)


if __name__ == "__main__":
    lifeline.watch()
    child_settings = Settings()
    logs.configure(child_settings, child_settings.worker_name)
    _run_traced(child_settings, BatchClock(Path(sys.argv[3])))
