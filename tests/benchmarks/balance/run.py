"""`meterline bench balance` measures how many balances a second are looked up by HTTP, and how soon each is there: with
a project's key, which counts the call and waits until the answer holds all that came before it, and with an admin key,
which does neither. A bare route with a constant answer is measured beside them in the same run.
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
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.rivals.rival import BenchChild
from tests.benchmarks.workload import Workload

CONNECTIONS = 32
BARE_SHARE_MIN, RATE_MIN, P99_MS_MAX = 0.5, 3_000, 20.0


def measure(quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark, and return its figures. `quick` is for a look: its times are worth little."""
    seconds, warm_up_seconds = (0.8, 0.5) if quick else (10.0, 8.0)
    load_before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory,
        Stack(settings_apart(Path(directory), partitions=1), tell=tell) as stack,
    ):
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        tell(f"opening {PROJECTS:,} projects")
        open_projects(live, Workload(0, PROJECTS).project_ids())
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
    compared = ratios(*(found[name][0] for name in ("counted", "uncounted", "bare route")))
    return {
        "connections": CONNECTIONS,
        "levels": {name: msgspec.to_builtins(levels[0]) for name, levels in found.items()},
        "ratios": compared,
        "targets": targets(found["counted"][0], compared),
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
