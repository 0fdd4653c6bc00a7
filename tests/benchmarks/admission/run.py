"""`meterline bench admission` measures how many admissions a second there are, and how soon each is answered: by the
client library, by HTTP, and by Redis beside them.

Broker, one worker and API (with the historian and the embedded ClickHouse) run as in `meterline up`; the callers are a
process of their own on the same machine.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from api.callers.keys import hash_key
from api.stack import Stack, settings_apart
from schemas.accounts import Limits
from schemas.commands import AnyCommand, CreateKey, CreateProject, SetLimits
from streams.core.limits import CEILING_MAX
from streams.kafka.codecs import encode_intake
from streams.kafka.publisher import Publisher
from streams.kafka.topics import partition_of, topics_of
from streams.settings import Settings
from tests.benchmarks.admission.callers import BURST, REQUESTS_A_MINUTE, Level, LoadPlan, key_of, run_callers
from tests.benchmarks.admission.spenders import ZERO_FIGURES, spend
from tests.benchmarks.idle import idle_share
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.rivals import redis_script
from tests.benchmarks.workload import OPENING_BALANCE, Workload

PROJECTS = 1000
LEVELS = [1, 8, 64, 256]
HTTP_LEVELS = [64]
DURABILITY = (
    "Kafka acknowledges what is in its page cache: one node does not fsync each record, so an answer survives the end "
    "of any process, not of the machine; in production acks=all means the in-sync replicas. Redis without appendonly "
    "survives nothing; with appendfsync always it survives the machine's end."
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a run: how long its parts take, and how many spenders and credits it has."""

    seconds: float
    warm_up_seconds: float
    settle_seconds: float
    idle_seconds: float
    spenders: int
    credits: int


FULL = Sizes(10.0, 15.0, 10.0, 20.0, 1000, 10_000)
QUICK = Sizes(0.8, 1.0, 1.0, 3.0, 100, 1000)

_NOBODY: dict[str, Any] = {"idempotency_key": "", "reply_instance": "", "reply_partition": 0}


def open_projects(settings: Settings, projects: tuple[str, ...]) -> None:
    """Open projects by contract, each with limits that stop nothing and with a key."""
    asyncio.run(_open_projects(settings, projects))


async def _open_projects(settings: Settings, projects: tuple[str, ...]) -> None:
    publisher = Publisher(settings)
    await publisher.start()
    by_partition: dict[int, list[tuple[bytes | None, bytes]]] = {}
    for project in projects:
        records = by_partition.setdefault(partition_of(project, settings.partitions), [])
        records += [(None, encode_intake(command)) for command in _opening(project)]
    try:
        for partition, records in by_partition.items():
            await publisher.send_all(topics_of(settings).intake, partition, records)
    finally:
        await publisher.stop()


def _opening(project: str) -> list[AnyCommand]:
    limits = Limits(REQUESTS_A_MINUTE, BURST, CEILING_MAX)
    return [
        CreateProject(
            project=project,
            name="",
            plan="enterprise",
            contract_allowance=OPENING_BALANCE,
            correlation=f"{project}-1",
            **_NOBODY,
        ),
        SetLimits(
            project=project, limits=limits, is_shadow=False, reason="bench", correlation=f"{project}-2", **_NOBODY
        ),
        CreateKey(
            project=project,
            key_id=f"key-{project}",
            key_hash=hash_key(key_of(project)),
            environment="production",
            scopes=["*"],
            correlation=f"{project}-3",
            **_NOBODY,
        ),
    ]


def measure(quick: bool, tell: Callable[[str], None], partitions: int = 1) -> dict[str, Any]:
    """Run the benchmark, and return its figures and those that must be zero. `quick` is for a look: its times are worth
    little.

    One partition is what one worker on one machine needs; more of them divide the same callers into smaller groups.
    """
    sizes = QUICK if quick else FULL
    load_before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory,
        Stack(settings_apart(Path(directory), partitions=partitions), tell=tell) as stack,
    ):
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        tell(f"opening {PROJECTS:,} projects")
        open_projects(live, Workload(0, PROJECTS).project_ids())
        address = stack.url.removeprefix("http://")
        # Until the broker's JIT compiler has done its work, a benchmark would measure that.
        tell("warming up")
        run_callers(live, LoadPlan("client", [256], sizes.warm_up_seconds, PROJECTS, seed=1))
        run_callers(live, LoadPlan("http", [64], sizes.warm_up_seconds / 2, PROJECTS, 2, address))
        tell(f"idle for {sizes.idle_seconds:.0f} s")
        idle = idle_share(stack.pids(), sizes.idle_seconds, sizes.settle_seconds)
        tell(f"the client library, {sizes.seconds:.0f} s a level")
        with ProcessUsage(stack.pids()) as client_usage:
            client = run_callers(live, LoadPlan("client", LEVELS, sizes.seconds, PROJECTS, seed=3))
        tell(f"HTTP, {sizes.seconds:.0f} s")
        with ProcessUsage(stack.pids()) as http_usage:
            http = run_callers(live, LoadPlan("http", HTTP_LEVELS, sizes.seconds, PROJECTS, 4, address))
        tell("Redis, the same callers")
        yardsticks = [yardstick(live, sizes.seconds, fsync=fsync) for fsync in (False, True)]
        tell(f"{sizes.spenders:,} spenders of {sizes.credits:,} credits")
        spent = spend(stack, live, sizes.spenders, sizes.credits, tell)
    return {
        "client": [msgspec.to_builtins(level) for level in client],
        "http": [msgspec.to_builtins(level) for level in http],
        "redis": yardsticks,
        "spenders": spent,
        "overspent_microcredits": spent["overspent_microcredits"],
        "unspendable_microcredits": spent["unspendable_microcredits"],
        "idle_percent_of_a_core": idle,
        "idle_worker_and_api_percent": round(sum(share for name, share in idle.items() if name != "kafka"), 2),
        "targets": _targets(client, http, idle),
        "durability": DURABILITY,
        "projects": PROJECTS,
        "partitions": partitions,
        "cpu_microseconds_per_decision": {
            "client": _cpu_microseconds(client_usage, client),
            "http": _cpu_microseconds(http_usage, http),
        },
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "machine": describe(),
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether a run has passed: its figures that must be zero are. Its times are for people to judge."""
    return all(result["spenders"][name] == 0 for name in ZERO_FIGURES)


def yardstick(settings: Settings, seconds: float, *, fsync: bool) -> dict[str, Any]:
    """Redis under the same callers; or what is not installed."""
    name = "redis, appendonly yes, appendfsync always" if fsync else "redis, appendonly no"
    if (skipped := redis_script.missing()) is not None:
        return {"name": name, "skipped": skipped, "levels": []}
    with redis_script.server(fsync=fsync) as address:
        redis_script.prepare(address, PROJECTS)
        levels = run_callers(settings, LoadPlan("redis", LEVELS, seconds, PROJECTS, 5, address))
    return {
        "name": name,
        "skipped": None,
        "levels": [msgspec.to_builtins(level) for level in levels],
        "durable": "an answer's write is on disk" if fsync else "nothing survives the end of the process",
        "does_not_give": redis_script.DOES_NOT_GIVE,
    }


def _cpu_microseconds(usage: ProcessUsage, levels: list[Level]) -> dict[str, float]:
    """The processor time of a decision, in microseconds, by process, over all levels. It hardly depends on what else
    runs on the machine."""
    asked = sum(level.asked for level in levels)
    return {name: round(spent / asked * 1e6, 1) for name, spent in usage.cpu_seconds.items()}


def _targets(client: list[Level], http: list[Level], idle: dict[str, float]) -> dict[str, bool]:
    """The targets of this benchmark, and whether this run reached them."""
    at = {level.callers: level for level in client}
    (by_http,) = http
    return {
        "client at 64: 5,000/s or more": at[64].decisions_per_second >= 5000,
        "client at 64: p99 under 25 ms": at[64].p99_ms < 25,
        "client at 1: p50 under 5 ms": at[1].p50_ms < 5,
        "client at 1: p99 under 15 ms": at[1].p99_ms < 15,
        "http at 64: 1,000/s or more": by_http.decisions_per_second >= 1000,
        "http at 64: p99 under 60 ms": by_http.p99_ms < 60,
        "idle worker and API: under 5% of a core": sum(share for name, share in idle.items() if name != "kafka") < 5,
    }
