"""`meterline bench hostile` puts one hostile client after another beside good callers, and measures what the good ones
notice of it: how soon they are answered, and that nothing of theirs is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from api.stack import Stack, settings_apart
from streams.client.kafka_producer import KafkaProducer
from streams.client.producer import usage_event
from tests.benchmarks.chaos.load import Load
from tests.benchmarks.chaos.run import ZERO_FIGURES, checked, drain
from tests.benchmarks.hostile import attacks
from tests.benchmarks.hostile.attacks import KINDS, RESULT, AttackPlan
from tests.benchmarks.machine import describe
from tests.benchmarks.rivals.rival import BenchChild

GOOD_CALLERS = 64
PROJECTS = 60
EVENTS_PER_SECOND = 100.0
# How long an attack runs before its figures count, and how long the stack rests after it.
BEGIN_SECONDS = 1.0
ATTACK_START_SECONDS_MAX = 60.0
REST_SECONDS = 1.0
ANSWER_SECONDS_MAX = 120.0
HOSTILE_PROJECT = "hostile"


def passed(result: dict[str, Any]) -> bool:
    """Whether a run has passed: nothing was lost, made or billed twice, and no part had to be started again."""
    return all(result[name] == 0 for name in (*ZERO_FIGURES, "restarts"))


class HostileSizes(NamedTuple):
    """The sizes of a run: how long an attack lasts, in seconds, and how many groups the history has."""

    seconds: float
    groups: int


FULL, QUICK = HostileSizes(20.0, 150_000), HostileSizes(4.0, 20_000)


def measure(
    sizes: HostileSizes, seed: int, tell: Callable[[str], None], kinds: Sequence[str] = tuple(KINDS)
) -> dict[str, Any]:
    """Run the benchmark with attacks of these kinds, one after the other."""
    directory = Path(tempfile.mkdtemp(prefix="meterline-hostile-"))
    try:
        with Stack(settings_apart(directory), tell=tell) as stack:
            result = asyncio.run(_run(stack, sizes, seed, tell, kinds))
            result["restarts"] = stack.restarts
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return result


async def _run(
    stack: Stack, sizes: HostileSizes, seed: int, tell: Callable[[str], None], attacked: Sequence[str]
) -> dict[str, Any]:
    load = Load(stack, PROJECTS, EVENTS_PER_SECOND, seed, spenders=GOOD_CALLERS, impatient=0.0)
    try:
        await load.open_projects()
        tell("writing a history of many groups")
        target = await _open_hostile_project(stack, seed)
        await _write_groups(stack, sizes.groups)
        load.start(poisoned=False)
        await asyncio.sleep(2 * BEGIN_SECONDS)
        kinds = [await _phase(stack, load, kind, target, sizes.seconds, tell) for kind in attacked]
        tell("no more attacks; waiting for every answer")
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            await load.finish()
        undrained = await drain(stack.settings, tell)
        figures, examples, facts = await checked(stack, load, [HOSTILE_PROJECT], tell)
    finally:
        await load.close()
    return {
        "good_callers": GOOD_CALLERS,
        "seconds_a_kind": sizes.seconds,
        "groups": sizes.groups,
        "kinds": kinds,
        **figures,
        "undrained_records": undrained,
        "events_acknowledged": len(load.book.events),
        "admissions_by_status": {str(status): count for status, count in sorted(load.book.statuses.items())},
        "replies_expired": len(load.book.expired_replies),
        "retries": dict(load.book.retries.most_common()),
        "facts": facts,
        "examples": examples,
        "machine": describe(),
    }


async def _phase(
    stack: Stack, load: Load, kind: str, target: AttackPlan, seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the good callers without an attack, and then with it."""
    tell(f"{kind}: without")
    without = await _window(load, seconds / 2)
    tell(f"{kind}: with")
    broker_url, prefix = stack.settings.kafka_url or "", stack.settings.topic_prefix
    with BenchChild(attacks.__name__, broker_url, prefix, kind, msgspec.json.encode(target).decode()) as child:
        await asyncio.to_thread(child.result, attacks.BEGUN, ATTACK_START_SECONDS_MAX)
        await asyncio.sleep(BEGIN_SECONDS)
        child.check("ended before it was told to")
        during = await _window(load, seconds)
        await asyncio.to_thread(child.stop)
        attack = json.loads(child.note(RESULT) or "{}")
    stack.check()
    await asyncio.sleep(REST_SECONDS)
    return {
        "kind": kind,
        "without": without,
        "with": during,
        "p99_ratio": round(during["p99_ms"] / without["p99_ms"], 2) if without["p99_ms"] and during["p99_ms"] else None,
        "attack": attack,
    }


async def _window(load: Load, seconds: float) -> dict[str, Any]:
    """How soon the good callers were answered who asked within the next `seconds`."""
    began_at = time.monotonic()
    await asyncio.sleep(seconds)
    ended_at = time.monotonic()
    # Who asked last has not been answered yet, and must not be left out for being slow; least of all where that is all.
    await asyncio.sleep(0.5)
    while (
        not (took := sorted(took for asked_at, took in load.book.timings if began_at <= asked_at < ended_at))
        and time.monotonic() < ended_at + ANSWER_SECONDS_MAX
    ):
        await asyncio.sleep(0.1)

    def share(part: float) -> float | None:
        return round(1000 * took[min(len(took) - 1, int(part * len(took)))], 1) if took else None

    return {
        "answers_per_second": round(len(took) / seconds, 1),
        "p50_ms": share(0.5),
        "p99_ms": share(0.99),
        "max_ms": share(1.0),
    }


async def _open_hostile_project(stack: Stack, seed: int) -> AttackPlan:
    headers = {"authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=30.0) as http:
        (await http.post("/v1/admin/projects", json={"project": HOSTILE_PROJECT})).raise_for_status()
        made = await http.post(f"/v1/admin/projects/{HOSTILE_PROJECT}/keys", json={})
        key = made.raise_for_status().json()["key"]
    return AttackPlan(stack.url, stack.clickhouse_url, key, HOSTILE_PROJECT, stack.settings.partitions, seed)


async def _write_groups(stack: Stack, groups: int) -> None:
    """Write free events of the hostile project, each with a metadata value of its own."""
    async with KafkaProducer(stack.settings) as producer:
        for number in range(groups):
            metadata: dict[str, str | int | float | bool | None] = {"request": f"request-{number:08d}"}
            await producer.send(
                usage_event(HOSTILE_PROJECT, "read", id=f"{number}", source="/groups", metadata=metadata)
            )
