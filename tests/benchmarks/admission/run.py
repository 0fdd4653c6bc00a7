"""`meterline bench admission` measures how many admissions a second there are, and how soon each is answered: by the
client library, by HTTP, by Redis beside them, and by the same hops through Kafka with nothing decided: the floor.

Broker, one worker and API (with the historian and the embedded ClickHouse) run as in `meterline up`; the callers are a
process of their own on the same machine.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from api.callers.keys import hash_key
from api.stack import Stack, settings_apart
from schemas.accounts import Limits
from schemas.commands import AnyCommand, CreateKey, CreateProject, SetLimits
from streams.core.limits import CEILING_MAX
from streams.errors import OperatorError
from streams.kafka.codecs import encode_intake
from streams.kafka.publisher import Publisher
from streams.kafka.topics import partition_of, topics_of
from streams.settings import Settings
from tests.benchmarks.admission.callers import BURST, REQUESTS_A_MINUTE, Level, LoadPlan, key_of, run_callers
from tests.benchmarks.admission.spenders import ZERO_FIGURES, spend
from tests.benchmarks.admission.trace import CALLERS as TRACED_CALLERS
from tests.benchmarks.admission.trace import compare, trace_worker, traced_level
from tests.benchmarks.idle import idle_share
from tests.benchmarks.machine import ProcessUsage, describe
from tests.benchmarks.rivals import floor as floor_rival
from tests.benchmarks.rivals import redis_script
from tests.benchmarks.rivals.batch_clock import Parts
from tests.benchmarks.rivals.rival import BenchChild, BenchKafka
from tests.benchmarks.traffic import HOPS_OF_A_DECISION, Traffic, per_core
from tests.benchmarks.workload import OPENING_BALANCE, Workload

PROJECTS = 1000
_KNOWN_SECONDS_MAX = 60.0
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


def open_projects(settings: Settings, url: str, projects: tuple[str, ...]) -> None:
    """Open projects by contract, each with limits that stop nothing and with a key, and wait until the API at `url`
    knows them. Raises OperatorError where it does not within a minute."""
    asyncio.run(_open_projects(settings, projects))
    # Those of a partition are known in order.
    lasts = {partition_of(project, settings.partitions): project for project in projects}
    deadline = time.monotonic() + _KNOWN_SECONDS_MAX
    for project in lasts.values():
        while not httpx.get(f"{url}/v1/balance", headers={"authorization": f"Bearer {key_of(project)}"}).is_success:
            if time.monotonic() > deadline:
                raise OperatorError(f"the API does not know {project} after {_KNOWN_SECONDS_MAX:g} s")
            time.sleep(0.1)


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


def measure(quick: bool, tell: Callable[[str], None], partitions: int = 1, traced: bool = False) -> dict[str, Any]:
    """Run the benchmark, and return its figures and those that must be zero. `quick` is for a look: its times are worth
    little. `traced` adds where the time of a batch goes.

    One partition is what one worker on one machine needs; more of them divide the same callers into smaller groups.
    """
    sizes = QUICK if quick else FULL
    load_before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory,
        Stack(settings_apart(Path(directory), partitions=partitions), tell=tell) as stack,
    ):
        figures = _measure_stack(stack, sizes, tell, traced)
    return {
        **figures,
        "durability": DURABILITY,
        "projects": PROJECTS,
        "partitions": partitions,
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "machine": describe(),
    }


def _measure_stack(stack: Stack, sizes: Sizes, tell: Callable[[str], None], traced: bool) -> dict[str, Any]:
    live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
    tell(f"opening {PROJECTS:,} projects")
    open_projects(live, stack.url, Workload(0, PROJECTS).project_ids())
    address = stack.url.removeprefix("http://")
    # Until the broker's JIT compiler has done its work, a benchmark would measure that.
    tell("warming up")
    run_callers(live, LoadPlan("client", [256], sizes.warm_up_seconds, PROJECTS, seed=1))
    run_callers(live, LoadPlan("http", [64], sizes.warm_up_seconds / 2, PROJECTS, 2, address))
    tell(f"idle for {sizes.idle_seconds:.0f} s")
    idle = idle_share(stack.pids(), sizes.idle_seconds, sizes.settle_seconds)
    tell(f"the client library, {sizes.seconds:.0f} s a level")
    with Traffic(live) as client_traffic, ProcessUsage(stack.pids()) as client_usage:
        client = run_callers(live, LoadPlan("client", LEVELS, sizes.seconds, PROJECTS, seed=3))
    tell(f"HTTP, {sizes.seconds:.0f} s")
    with Traffic(live) as http_traffic, ProcessUsage(stack.pids()) as http_usage:
        http = run_callers(live, LoadPlan("http", HTTP_LEVELS, sizes.seconds, PROJECTS, 4, address))
    tell("the floor, the same callers")
    floor, floor_trace = asyncio.run(_floor(live, sizes.seconds, traced))
    tell("Redis, the same callers")
    yardsticks = [yardstick(live, sizes.seconds, fsync=fsync) for fsync in (False, True)]
    tell(f"{sizes.spenders:,} spenders of {sizes.credits:,} credits")
    spent = spend(stack, live, sizes.spenders, sizes.credits, tell)
    trace = {}
    if floor_trace is not None:
        tell("tracing the worker")
        trace["trace"] = compare(trace_worker(stack, live, sizes.seconds, PROJECTS), floor_trace)
    cpu = {"client": cpu_microseconds(client_usage, client), "http": cpu_microseconds(http_usage, http)}
    written = {"client": client_traffic.per(_asked(client)), "http": http_traffic.per(_asked(http))}
    compared = ratios(client, http, floor, yardsticks[1]["levels"])
    return {
        "client": [msgspec.to_builtins(level) for level in client],
        "http": [msgspec.to_builtins(level) for level in http],
        "floor": [msgspec.to_builtins(level) for level in floor],
        "redis": yardsticks,
        "ratios": compared,
        "spenders": spent,
        "overspent_microcredits": spent["overspent_microcredits"],
        "unspendable_microcredits": spent["unspendable_microcredits"],
        "idle_percent_of_a_core": idle,
        "idle_worker_and_api_percent": _but_kafka(idle),
        "targets": targets(compared, written["client"]["bytes"], spent["replies_expired"], _but_kafka(idle)),
        "cpu_microseconds_per_decision": cpu,
        "decisions_per_core": {way: per_core(spent_by) for way, spent_by in cpu.items()},
        "hops": HOPS_OF_A_DECISION,
        "written_per_decision": written,
        **trace,
    }


async def _floor(settings: Settings, seconds: float, traced: bool) -> tuple[list[Level], tuple[Level, Parts] | None]:
    """The levels of the floor, under the same callers; and its trace, if that is asked for."""
    url = settings.kafka_url or ""
    async with BenchKafka(url, "floor") as kafka:
        await kafka.create(*(floor_rival.topic(kafka.prefix, name) for name in floor_rival.NAMES))
        with BenchChild(floor_rival.__name__, url, kafka.prefix) as worker:
            plan = LoadPlan("floor", LEVELS, seconds, PROJECTS, 6, kafka.prefix)
            levels = await asyncio.to_thread(run_callers, settings, plan)
            if not traced:
                return levels, None
            plan = LoadPlan("floor", [TRACED_CALLERS], seconds, PROJECTS, 9, kafka.prefix, is_traced=True)
            return levels, await asyncio.to_thread(traced_level, settings, plan, worker)


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


def _asked(levels: list[Level]) -> int:
    return sum(level.asked for level in levels)


def _but_kafka(idle: dict[str, float]) -> float:
    return round(sum(share for name, share in idle.items() if name != "kafka"), 2)


def cpu_microseconds(usage: ProcessUsage, levels: list[Level]) -> dict[str, float]:
    """The processor time of a decision, in microseconds, by process, over all levels. It hardly depends on what else
    runs on the machine."""
    asked = _asked(levels)
    return {name: round(spent / asked * 1e6, 1) for name, spent in usage.cpu_seconds.items()}


def ratios(
    client: list[Level], http: list[Level], floor: list[Level], redis: list[dict[str, Any]]
) -> dict[str, float | None]:
    """The ratios to the floor, and to Redis with fsync, which are None where there is no Redis: of rates, of p50, of
    p99. The floor and Redis are those of the same run, since machines differ."""
    ours, least = ({level.callers: level for level in levels} for levels in (client, floor))
    theirs = {level["callers"]: level for level in redis}
    (by_http,) = http

    def to_redis(of_ours: float, callers: int, figure: str) -> float | None:
        return round(of_ours / theirs[callers][figure], 3) if theirs else None

    return {
        **{
            f"client/floor at {callers}": round(
                ours[callers].decisions_per_second / least[callers].decisions_per_second, 3
            )
            for callers in (64, 256)
        },
        "client/floor at 1: p50": round(ours[1].p50_ms / least[1].p50_ms, 3),
        **{
            f"client/redis at {callers}": to_redis(ours[callers].decisions_per_second, callers, "decisions_per_second")
            for callers in (64, 256)
        },
        "client/redis at 64: p99": to_redis(ours[64].p99_ms, 64, "p99_ms"),
        "http/redis at 64": to_redis(by_http.decisions_per_second, 64, "decisions_per_second"),
    }


def targets(
    ratio: dict[str, float | None], bytes_per_decision: float, replies_expired: int, idle_percent: float
) -> dict[str, bool | None]:
    """The targets of this benchmark, and whether this run reached them; None where there was no Redis."""

    def least(name: str, bound: float) -> bool | None:
        return None if (found := ratio[name]) is None else found >= bound

    def most(name: str, bound: float) -> bool | None:
        return None if (found := ratio[name]) is None else found <= bound

    return {
        "client at 64: 0.45 of the floor": least("client/floor at 64", 0.45),
        "client at 64: 0.7 of Redis with fsync": least("client/redis at 64", 0.7),
        "client at 64: p99 at most 1.5 times that of Redis with fsync": most("client/redis at 64: p99", 1.5),
        "client at 256: 1.2 times Redis with fsync": least("client/redis at 256", 1.2),
        "client at 1: p50 at most 1.5 times the floor's": most("client/floor at 1: p50", 1.5),
        "http at 64: 0.3 of Redis with fsync": least("http/redis at 64", 0.3),
        "at most 1,000 bytes a decision": bytes_per_decision <= 1000,
        "no reply expired": replies_expired == 0,
        "idle: all but Kafka under 3% of a core": idle_percent < 3,
        "moonshot: client at 64: faster than Redis with fsync": least("client/redis at 64", 1.0),
        "moonshot: client at 256: three times Redis with fsync": least("client/redis at 256", 3.0),
    }
