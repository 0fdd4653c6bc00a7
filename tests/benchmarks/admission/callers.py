"""Callers in a closed loop: each asks, waits for its answer, asks again. This module, run, is the child process that
they are in.

They ask for the events of a Workload: 1,000 projects with skew, mostly cheap operations and a few dear ones.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import uvloop
from aiokafka import AIOKafkaProducer

from api.callers.keys import PREFIXES
from schemas.events import UsageEvent
from streams.client.admissions import MeterlineAway
from streams.client.kafka_admissions import KafkaAdmissions
from streams.collector import tune_collector
from streams.embedded import lifeline
from streams.settings import Settings
from tests.benchmarks.admission.lean_http import LeanConnection
from tests.benchmarks.rivals.floor import floor_way
from tests.benchmarks.rivals.redis_script import redis_way
from tests.benchmarks.rivals.rival import BenchChild, write_note
from tests.benchmarks.workload import Workload

WARM_UP_SHARE = 0.25
# The limits of the projects' contract: so high that nothing is stopped, though everything is counted.
REQUESTS_A_MINUTE = 1_000_000
BURST = 2_000_000

_RESULT = "result"
_EVENTS = 1_000_000_000

Ask = Callable[[int, UsageEvent], Awaitable[int]]


class LoadPlan(msgspec.Struct, frozen=True):
    """A plan of measurements: for each of `levels`, so many callers ask at once for `seconds`. `way` is client, http,
    balance, redis or floor; `address` is where it asks, if not by Kafka, or the floor's topics' prefix. Two plans of
    one `seed` ask for the same events. With `is_traced` the callers' own records are timed. Balances are looked up with
    `key`, or, without one, each with its project's own."""

    way: str
    levels: list[int]
    seconds: float
    projects: int
    seed: int
    address: str = ""
    is_traced: bool = False
    key: str = ""


class SentRecords(msgspec.Struct):
    """The records that callers sent: how many in all, and the milliseconds until all were acknowledged, added up."""

    records: int = 0
    acknowledged_ms: float = 0.0


class Level(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of one level: how so many callers at once were served. `answers` counts the HTTP statuses of the
    `decisions` that were timed; `asked` counts the requests of the warm-up too. The last three are of a traced one: how
    many requests shared a record, and how long it took until such a record was acknowledged."""

    callers: int
    decisions_per_second: float
    p50_ms: float
    p99_ms: float
    decisions: int
    seconds: float
    asked: int
    caller_cpu_percent: float
    answers: dict[str, int]
    records_sent: int = 0
    asked_per_record: float = 0.0
    acknowledged_ms: float = 0.0


_decode_event = msgspec.json.Decoder(UsageEvent).decode


def key_of(project: str) -> str:
    """The API key that a project has in these benchmarks."""
    return f"{PREFIXES['production']}{project}.bench"


def run_callers(settings: Settings, plan: LoadPlan) -> list[Level]:
    """Run a plan in a process of its own. Raises BaselineError where that fails."""
    seconds_max = 60.0 + 3 * plan.seconds * len(plan.levels)
    with BenchChild(
        __name__,
        settings.kafka_url or "",
        settings.topic_prefix,
        msgspec.json.encode(plan).decode(),
        str(settings.partitions),
    ) as child:
        return msgspec.json.decode(child.result(_RESULT, seconds_max), type=list[Level])


async def _run_plan(settings: Settings, plan: LoadPlan) -> list[Level]:
    ways = {"client": _client_way, "http": _http_way, "balance": _balance_way, "redis": _redis_way, "floor": _floor_way}
    levels = []
    for callers in plan.levels:
        with _timed_sends() if plan.is_traced else nullcontext() as sent:
            async with ways[plan.way](settings, plan, callers) as ask:
                level = await _closed_loop(ask, plan, callers)
        levels.append(level if sent is None else _with_sent(level, sent))
    return levels


@contextmanager
def _timed_sends() -> Iterator[SentRecords]:
    """Time the records of every producer in this process, whichever way they are sent."""
    sent = SentRecords()

    def timed(send: Callable[..., Awaitable[asyncio.Future[object]]]) -> Callable[..., Any]:
        async def send_timed(*args: Any, **kwargs: Any) -> asyncio.Future[object]:
            began_at = time.perf_counter()
            acknowledged = await send(*args, **kwargs)

            def note(_acknowledged: object) -> None:
                sent.records += 1
                sent.acknowledged_ms += (time.perf_counter() - began_at) * 1000

            acknowledged.add_done_callback(note)
            return acknowledged

        return send_timed

    with (
        patch.object(AIOKafkaProducer, "send", timed(AIOKafkaProducer.send)),
        patch.object(AIOKafkaProducer, "send_batch", timed(AIOKafkaProducer.send_batch)),
    ):
        yield sent


def _with_sent(level: Level, sent: SentRecords) -> Level:
    records = max(1, sent.records)
    return msgspec.structs.replace(
        level,
        records_sent=sent.records,
        asked_per_record=round(level.asked / records, 1),
        acknowledged_ms=round(sent.acknowledged_ms / records, 2),
    )


async def _closed_loop(ask: Ask, plan: LoadPlan, callers: int) -> Level:
    # Each level has another seed, so that no event is asked for twice.
    events = iter(Workload(_EVENTS, plan.projects, seed=1000 * plan.seed + callers))
    latencies_ms = array("d")
    answers: Counter[str] = Counter()
    began_at = time.perf_counter() + WARM_UP_SHARE * plan.seconds
    ends_at = began_at + plan.seconds
    asked, spent_before = 0, 0.0

    async def call(caller: int) -> None:
        nonlocal asked
        timed = 0
        while True:
            _, text = next(events)
            event = _decode_event(text)
            asked_at = time.perf_counter()
            if asked_at >= ends_at and timed:
                return
            asked += 1
            status = await ask(caller, event)
            answered_at = time.perf_counter()
            if asked_at >= began_at:
                latencies_ms.append((answered_at - asked_at) * 1000)
                answers[str(status)] += 1
                timed += 1

    async def note_processor_time() -> None:
        nonlocal spent_before
        await asyncio.sleep(began_at - time.perf_counter())
        spent_before = time.process_time()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(note_processor_time())
        for caller in range(callers):
            tasks.create_task(call(caller))
    seconds = time.perf_counter() - began_at
    ordered = sorted(latencies_ms)
    return Level(
        callers,
        round(len(ordered) / seconds, 1),
        round(_percentile(ordered, 50), 2),
        round(_percentile(ordered, 99), 2),
        len(ordered),
        round(seconds, 2),
        asked,
        round(100 * (time.process_time() - spent_before) / seconds, 1),
        dict(answers),
    )


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


@asynccontextmanager
async def _client_way(settings: Settings, _plan: LoadPlan, _callers: int) -> AsyncIterator[Ask]:
    async with KafkaAdmissions(settings) as admissions:

        async def ask(_caller: int, event: UsageEvent) -> int:
            data = event.data
            try:
                decision = await admissions.admit(
                    event.subject,
                    data.operation,
                    id=event.id,
                    source=event.source,
                    quantity=data.quantity,
                    metadata=data.metadata,
                    idempotency_key=event.id,
                )
            except MeterlineAway:
                return 503
            return decision.status

        yield ask


@asynccontextmanager
async def _http_way(_settings: Settings, plan: LoadPlan, callers: int) -> AsyncIterator[Ask]:
    heads = {
        project: f"POST /v1/admissions HTTP/1.1\r\nhost: {plan.address}\r\nauthorization: Bearer {key_of(project)}\r\n"
        "content-type: application/json\r\nidempotency-key: "
        for project in Workload(0, plan.projects).project_ids()
    }
    encode = msgspec.json.Encoder().encode
    async with _connected(plan.address, callers) as connections:

        async def ask(caller: int, event: UsageEvent) -> int:
            data = event.data
            body = encode({"operation": data.operation, "quantity": data.quantity or 1, "metadata": data.metadata})
            request = f"{heads[event.subject]}{event.id}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            return await connections[caller].ask(request)

        yield ask


@asynccontextmanager
async def _balance_way(_settings: Settings, plan: LoadPlan, callers: int) -> AsyncIterator[Ask]:
    requests = {
        project: f"GET /v1/balance{f'?project={project}' if plan.key else ''} HTTP/1.1\r\nhost: {plan.address}\r\n"
        f"authorization: Bearer {plan.key or key_of(project)}\r\n\r\n".encode()
        for project in Workload(0, plan.projects).project_ids()
    }
    async with _connected(plan.address, callers) as connections:

        async def ask(caller: int, event: UsageEvent) -> int:
            return await connections[caller].ask(requests[event.subject])

        yield ask


@asynccontextmanager
async def _connected(address: str, callers: int) -> AsyncIterator[list[LeanConnection]]:
    """A connection for each caller."""
    host, _, port = address.rpartition(":")
    connections = [await LeanConnection.open(host, int(port)) for _ in range(callers)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _redis_way(_settings: Settings, plan: LoadPlan, callers: int) -> AbstractAsyncContextManager[Ask, bool | None]:
    return redis_way(plan.address, callers, REQUESTS_A_MINUTE, BURST)


def _floor_way(settings: Settings, plan: LoadPlan, _callers: int) -> AbstractAsyncContextManager[Ask, bool | None]:
    return floor_way(settings, plan.address)


def _run_child(broker_url: str, prefix: str, directory: Path, plan: LoadPlan, partitions: int) -> None:
    tune_collector()
    settings = Settings(kafka_url=broker_url, topic_prefix=prefix, partitions=partitions)
    levels = uvloop.run(_run_plan(settings, plan))
    write_note(directory, _RESULT, msgspec.json.encode(levels).decode())


if __name__ == "__main__":
    lifeline.watch()
    _run_child(
        sys.argv[1], sys.argv[2], Path(sys.argv[3]), msgspec.json.decode(sys.argv[4], type=LoadPlan), int(sys.argv[5])
    )
