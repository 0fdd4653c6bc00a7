"""`meterline bench chaos` kills, pauses and wipes the parts of a running stack for minutes, under load; then it counts
what became of every request.

One seed gives one plan of faults (faults.py). At which moment of the work a fault comes differs from run to run.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from api.stack import Stack, settings_apart
from streams.clickhouse.client import ClickHouse
from streams.errors import OperatorError
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.reconcile.verify import verify
from streams.settings import Settings
from tests.benchmarks.chaos.check import compare, read_history
from tests.benchmarks.chaos.faults import Saboteur
from tests.benchmarks.chaos.load import Load
from tests.benchmarks.chaos.probe import Prober
from tests.benchmarks.machine import describe

# A run has failed if one of these figures is not 0.
ZERO_FIGURES = (
    "lost",
    "billed_twice",
    "wrong_answers",
    "wrong_microcredits",
    "refused_with_credits",
    "not_asked_for",
    "overspent_microcredits",
    "stranded_microcredits",
    "wrong_balances",
    "repeated_rows",
    "unexpected_answers",
    "drift",
    "use_accepted_but_unbilled",
    "undrained_records",
    "replies_expired",
)
STALLED_SECONDS = 60.0
MORE_SECONDS = 90.0
# Production's default is 10. It is shorter here, so that a killed worker's partitions are taken over within the run.
SESSION_TIMEOUT_SECONDS = 3.0


def passed(result: dict[str, Any]) -> bool:
    """Whether a run has passed: its figures that must be zero are."""
    return all(result[name] == 0 for name in ZERO_FIGURES)


def measure(
    seconds: float,
    seed: int,
    projects: int,
    events_per_second: float,
    tell: Callable[[str], None],
    least_kills: int = 0,
) -> dict[str, Any]:
    """Run the benchmark: `seconds` of faults, the time to drain, the checks. Data and logs are kept only of a failed
    run. The faults go on for longer where fewer than `least_kills` processes were killed by then, at most for
    MORE_SECONDS."""
    directory = Path(tempfile.mkdtemp(prefix="meterline-chaos-"))
    settings = settings_apart(directory, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
    # The load's own client logs at every try that the broker is away, which is meant to happen here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    keep = False
    try:
        with Stack(settings, workers=2, tell=tell) as stack:
            result = asyncio.run(_run(stack, seconds, seed, projects, events_per_second, tell, least_kills))
        keep = not passed(result)
    except Exception:
        keep = True
        tell(f"data and logs: {directory}")
        raise
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    result["data_dir"] = str(directory) if keep else None
    return result


async def _run(
    stack: Stack,
    seconds: float,
    seed: int,
    projects: int,
    events_per_second: float,
    tell: Callable[[str], None],
    least_kills: int,
) -> dict[str, Any]:
    load, prober = Load(stack, projects, events_per_second, seed), Prober(stack)
    probing: asyncio.Task[None] | None = None
    try:
        tell(f"opening {projects} projects")
        await load.open_projects()
        await prober.open_projects()
        load.start()
        probing = asyncio.create_task(prober.run())
        began_at = time.monotonic()
        saboteur = await _break_things(stack, load, seconds, Saboteur(stack, seed, tell), least_kills)
        ended_at = time.monotonic()
        tell("no more faults; waiting for every answer")
        await _settled(stack, load, prober, ended_at)
        drained_in = time.monotonic() - ended_at
        outages = prober.figures(began_at, ended_at, saboteur.inflicted)
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        undrained = await drain(stack.settings, tell)
        tell("comparing with what was acknowledged")
        figures, examples, facts = await checked(stack, load, prober.projects, tell)
    finally:
        await load.close()
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
    book = load.book
    return {
        "seed": seed,
        "minutes": round(seconds / 60, 2),
        "projects": projects,
        **figures,
        "undrained_records": undrained,
        "kills": saboteur.kills,
        "kills_by_part": dict(saboteur.kills_by_part),
        "data_dirs_deleted": saboteur.data_dirs_deleted,
        "rebalances_by_stop": saboteur.rebalances,
        "pauses": saboteur.pauses,
        "restarts": stack.restarts,
        **outages,
        "seconds_until_all_answered": round(drained_in, 2),
        "events_acknowledged": len(book.events),
        "duplicates_sent": book.duplicates_sent,
        "poisoned_records": book.poisoned_records,
        "admissions_by_status": {str(status): count for status, count in sorted(book.statuses.items())},
        "top_ups": len(book.top_ups),
        "replies_expired": len(book.expired_replies),
        "retries": dict(book.retries.most_common()),
        "facts": facts,
        "session_timeout_seconds": SESSION_TIMEOUT_SECONDS,
        "examples": examples,
        "machine": describe(),
    }


async def _break_things(stack: Stack, load: Load, seconds: float, saboteur: Saboteur, least_kills: int) -> Saboteur:
    until = time.monotonic() + seconds
    await asyncio.to_thread(saboteur.__enter__)
    try:
        while saboteur.failure is None:
            left = until - time.monotonic()
            if left <= 0 and (saboteur.kills >= least_kills or left <= -MORE_SECONDS):
                break
            stack.check()
            load.check()
            await asyncio.sleep(min(0.5, max(0.05, left)))
    finally:
        await asyncio.to_thread(saboteur.__exit__, None, None, None)
    if saboteur.failure is not None:
        raise saboteur.failure
    return saboteur


async def _settled(stack: Stack, load: Load, prober: Prober, since: float) -> None:
    """Wait until the load's requests have their answers and all partitions are served. Raises OperatorError where
    nothing moves any more."""
    finishing = asyncio.create_task(load.finish())
    moved_at, last = time.monotonic(), (-1, -1)
    try:
        while not finishing.done() or prober.served_since(since) is None:
            stack.check()
            now = (load.unanswered, len(load.book.admissions))
            if now != last:
                moved_at, last = time.monotonic(), now
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                raise OperatorError(
                    f"The stack does not recover: {load.unanswered} events wait; nothing has moved for a minute"
                )
            await asyncio.sleep(0.2)
        await finishing
    finally:
        finishing.cancel()


async def drain(settings: Settings, tell: Callable[[str], None]) -> int:
    """Wait until the workers have acknowledged all of usage and intake. Returns how many records are left, which is not
    0 where the workers stop moving."""
    topics = topics_of(settings)
    partitions = [
        TopicPartition(topic, number)
        for topic in (topics.usage, topics.intake)
        for number in range(settings.partitions)
    ]
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings))
    await admin.start()
    await consumer.start()
    try:
        last, moved_at = -1, time.monotonic()
        while True:
            # Commits are read before ends: whatever accept adds to intake later comes from usage not committed yet.
            committed = await admin.list_consumer_group_offsets(topics.worker_app)
            ends = await consumer.end_offsets(partitions)
            left = sum(ends[tp] - max(0, committed[tp].offset if tp in committed else 0) for tp in partitions)
            if not left:
                return 0
            if left != last:
                last, moved_at = left, time.monotonic()
                tell(f"{left:,} records to go")
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                return int(left)
            await asyncio.sleep(0.2)
    finally:
        await consumer.stop()
        await admin.close()


async def checked(
    stack: Stack, load: Load, others: Sequence[str], tell: Callable[[str], None]
) -> tuple[dict[str, int], list[str], int]:
    """Compare the history with what the load was told, and with the log; gives the figures that must be zero, examples
    of what is wrong, and how many facts there are. `others` are projects that the load does not know."""
    live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
    available = await load.available_at_the_end()
    clickhouse = await asyncio.to_thread(ClickHouse, live)
    try:
        verdict = await verify(live, clickhouse, tell)
        history = await asyncio.to_thread(read_history, clickhouse, others)
    finally:
        clickhouse.close()
    figures, examples = compare(load.book, history, available)
    examples += [str(difference) for difference in verdict.differences[:10]]
    examples += [f"accepted, and never billed: {entry_id}" for entry_id in verdict.unbilled[:10]]
    figures |= {"drift": verdict.drift_microcredits, "use_accepted_but_unbilled": verdict.use_accepted_but_unbilled}
    return figures, examples, history.facts
