"""`meterline bench balance` measures how many balances a second are looked up by HTTP, and how soon each is there: with
a project's key, which counts the call and waits until the answer holds all that came before it, and with an admin key,
which does neither. A bare route with a constant answer is measured beside them in the same run. Then, where that is
asked for, both once more while live ledgers are open and usage events flow.
"""

from __future__ import annotations

import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from api.stack import Stack, settings_apart
from streams.settings import Settings
from tests.benchmarks.admission.callers import Level, LoadPlan, key_of, run_callers
from tests.benchmarks.admission.run import PROJECTS, cpu_microseconds, open_projects
from tests.benchmarks.balance import bare_route
from tests.benchmarks.flow import UsageFlow
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.rivals.rival import BenchChild
from tests.benchmarks.streams import OpenStreams
from tests.benchmarks.workload import Workload

CONNECTIONS = 32
BARE_SHARE_MIN, RATE_MIN, P99_MS_MAX = 0.5, 3_000, 20.0
BESIDE_SHARE_MIN, BESIDE_P99_MS_MAX = 0.7, 30.0


def measure(quick: bool, tell: Callable[[str], None], streams: int = 0, events: int = 0) -> dict[str, Any]:
    """Run the benchmark, and return its figures. `quick` is for a look: its times are worth little. With `streams`, so
    many live ledgers are open in a second part, and so many `events` flow a second."""
    seconds, warm_up_seconds = (0.8, 0.5) if quick else (10.0, 8.0)
    load_before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory,
        Stack(settings_apart(Path(directory), partitions=1), tell=tell) as stack,
    ):
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        tell(f"opening {PROJECTS:,} projects")
        open_projects(live, stack.url, Workload(0, PROJECTS).project_ids())
        address = stack.url.removeprefix("http://")
        plans = {
            "counted": LoadPlan("balance", [CONNECTIONS], seconds, PROJECTS, 2, address),
            "uncounted": LoadPlan("balance", [CONNECTIONS], seconds, PROJECTS, 3, address, key=stack.admin_key),
        }
        tell("warming up")
        run_callers(live, msgspec.structs.replace(plans["counted"], seconds=warm_up_seconds, seed=1))
        found, spent = {}, {}
        for name, plan in plans.items():
            tell(f"{name} look-ups, {seconds:.0f} s")
            with ProcessUsage(stack.pids()) as usage:
                found[name] = run_callers(live, plan)
            spent[name] = cpu_microseconds(usage, found[name])
        tell("a bare route, the same callers")
        found["bare route"] = _bare(live, _answer(stack.url), seconds)
        beside = _beside(stack, live, plans, seconds, streams, events, tell) if streams else None
    compared = ratios(*(found[name][0] for name in ("counted", "uncounted", "bare route")))
    return {
        "connections": CONNECTIONS,
        "levels": {name: msgspec.to_builtins(levels[0]) for name, levels in found.items()},
        "ratios": compared,
        "targets": targets(found["counted"][0], compared) | (targets_beside(beside) if beside else {}),
        "beside_streams_and_events": beside,
        "cpu_microseconds_per_look_up": spent,
        "projects": PROJECTS,
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "machine": describe(),
    }


def ratios(counted: Level, uncounted: Level, bare: Level) -> dict[str, float]:
    """The rates of look-ups over that of the bare route."""
    return {
        "counted/bare route": round(counted.decisions_per_second / bare.decisions_per_second, 3),
        "uncounted/bare route": round(uncounted.decisions_per_second / bare.decisions_per_second, 3),
    }


def targets(counted: Level, compared: dict[str, float]) -> dict[str, bool]:
    """The target of this benchmark, and whether this run reached it."""
    is_half = compared["counted/bare route"] >= BARE_SHARE_MIN
    is_enough = counted.decisions_per_second >= RATE_MIN and counted.p99_ms < P99_MS_MAX
    what = f"counted: {BARE_SHARE_MIN:g} of the bare route, or {RATE_MIN:,}/s with p99 under {P99_MS_MAX:g} ms"
    return {what: is_half or is_enough}


def _beside(
    stack: Stack,
    live: Settings,
    plans: dict[str, LoadPlan],
    seconds: float,
    streams: int,
    events: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The same look-ups beside open live ledgers and events that flow, and once more alone, right before: a stack that
    has just booked what flowed is not the one of the run's beginning."""
    address = stack.url.removeprefix("http://")
    alone, found, spent = {}, {}, {}
    for name, plan in plans.items():
        tell(f"{name} look-ups alone again, {seconds:.0f} s")
        (alone[name],) = run_callers(live, msgspec.structs.replace(plan, seed=plan.seed + 10))
    tell(f"{streams} live ledgers, {events:,} events a second")
    with OpenStreams(live, address, streams, PROJECTS) as opened, UsageFlow(live, events, PROJECTS, seed=9) as flow:
        for name, plan in plans.items():
            tell(f"{name} look-ups beside them, {seconds:.0f} s")
            with ProcessUsage(stack.pids()) as usage:
                levels = run_callers(live, msgspec.structs.replace(plan, seed=plan.seed + 20))
            found[name], spent[name] = levels[0], cpu_microseconds(usage, levels)
        sent, told = flow.counts(), opened.counts()
    return {
        "streams": streams,
        "told": msgspec.to_builtins(told),
        "events_per_second_wanted": events,
        "events_per_second_sent": sent.per_second,
        "sender_behind_ms_max": sent.behind_ms_max,
        "levels": {
            f"{name}, {how}": msgspec.to_builtins(each[name])
            for name in plans
            for how, each in (("alone", alone), ("beside", found))
        },
        "ratios": {
            f"{name}: beside/alone": round(found[name].decisions_per_second / alone[name].decisions_per_second, 3)
            for name in plans
        },
        "cpu_microseconds_per_look_up": spent,
    }


def targets_beside(beside: dict[str, Any]) -> dict[str, bool]:
    """The target of look-ups beside streams and events, for each way, and whether this run reached it."""
    return {
        f"{name} beside {beside['streams']} streams and {beside['events_per_second_wanted']:,} events/s: "
        f"{BESIDE_SHARE_MIN:g} of its rate alone, p99 under {BESIDE_P99_MS_MAX:g} ms": (
            beside["ratios"][f"{name}: beside/alone"] >= BESIDE_SHARE_MIN
            and beside["levels"][f"{name}, beside"]["p99_ms"] < BESIDE_P99_MS_MAX
        )
        for name in ("counted", "uncounted")
    }


def _answer(url: str) -> str:
    """A balance, as our API gives it: the bare route's answer is as long."""
    project = Workload(0, PROJECTS).project_ids()[0]
    request = urllib.request.Request(f"{url}/v1/balance", headers={"authorization": f"Bearer {key_of(project)}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def _bare(settings: Settings, answer: str, seconds: float) -> list[Level]:
    url = settings.kafka_url or ""
    with BenchChild(bare_route.__name__, url, settings.topic_prefix, answer) as child:
        address = child.result(bare_route.ADDRESS, 30.0)
        return run_callers(settings, LoadPlan("balance", [CONNECTIONS], seconds, PROJECTS, 4, address))
