"""`meterline bench courier` measures deliveries: how soon the first attempt of a notice reaches its endpoint while
another endpoint is slow, one fails and one is at its cap; how many a second; and what kills of the courier do.

A notice is one that somebody asked for (`endpoint.test`): a command, decided by the owner, a fact, and then a delivery.
Times are from the fact's, which is the broker's clock, to the receiver's, on one machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from api.stack import Stack, settings_apart
from schemas.commands import AnyCommand, CreateProject, PutEndpoint, TestEndpoint
from streams.courier.lanes import RATE_MAX, RATE_MS
from streams.embedded import lifeline
from streams.kafka.codecs import decode_attempt, decode_facts
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from tests.benchmarks.courier.receiver import Receipt
from tests.benchmarks.machine import ProcessUsage, describe

_ASKED_AT_ONCE = 256
_WAIT_SECONDS_MAX = 300.0
# A retry comes 8 to 12 seconds after the first attempt, and kills come between.
_SETTLE_SECONDS_MAX = 120.0
_KILL_SECONDS_MAX = 15.0
_LOOK_SECONDS = 0.05
_TICK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class CourierSizes:
    """The sizes of a run. `rate` is of notices a second, in the phase that measures how soon they are sent; a tenth of
    these go to the endpoint at its cap. `kills` are made while `killed_notices` are delivered, each once
    `requests_a_kill` have come since the one before."""

    endpoints: int
    notices: int
    rate: int
    kills: int
    killed_notices: int
    requests_a_kill: int


FULL = CourierSizes(1_000, 10_000, 1_000, 20, 4_000, 100)
QUICK = CourierSizes(50, 600, 100, 2, 100, 25)


def measure(sizes: CourierSizes, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark, and return its figures. Times are milliseconds."""
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory, _receiver(Path(directory)) as receiver:
        settings = settings_apart(
            Path(directory) / "data", webhook_networks=["127.0.0.0/8"], session_timeout_seconds=3.0
        )
        with Stack(settings, tell=tell) as stack:
            return asyncio.run(_Bench(stack, *receiver, sizes, tell).run()) | {"machine": describe()}


def passed(result: dict[str, Any]) -> bool:
    """Whether no notice was lost or billed twice, and no endpoint got more than the cap allows."""
    kills, mixed = result["kills"], result["mixed"]
    counts = (kills["lost"], kills["billed_twice"], kills["billed_unasked"], mixed["lost"], result["flood"]["lost"])
    return not any(counts) and mixed["capped_most_in_a_second"] <= RATE_MAX


@contextmanager
def _receiver(directory: Path) -> Iterator[tuple[str, int]]:
    """A receiver, its URL and its process's id, while the block runs."""
    port = lifeline.free_port()
    argv = [sys.executable, "-m", "tests.benchmarks.courier.receiver", str(port)]
    child = lifeline.start("receiver", argv, log_path=directory / "receiver.log")
    try:
        yield f"http://127.0.0.1:{port}", child.pid
    finally:
        child.stop()


class _Bench:
    def __init__(
        self, stack: Stack, url: str, receiver_pid: int, sizes: CourierSizes, tell: Callable[[str], None]
    ) -> None:
        self._stack = stack
        self._settings: Settings = stack.settings
        self._url = url
        self._receiver_pid = receiver_pid
        self._sizes = sizes
        self._tell = tell
        self._projects: dict[str, str] = {}
        self._commands: CommandClient
        self._client: httpx.AsyncClient

    async def run(self) -> dict[str, Any]:
        publisher = Publisher(self._settings)
        self._commands = CommandClient(self._settings, publisher)
        async with httpx.AsyncClient(timeout=60) as self._client:
            await publisher.start()
            await self._commands.start()
            try:
                self._tell(f"opening {self._sizes.endpoints:,} endpoints")
                good = await self._open("good", self._sizes.endpoints - 3)
                (capped,), (failing,), (slow,) = [await self._open(kind, 1) for kind in ("capped", "failing", "slow")]
                once = await self._open("once", 10)
                await self._received(self._sizes.endpoints + 10, first_only=True)
                # Who asks and who receives take of the same processors.
                asking = -time.process_time()
                with ProcessUsage(self._stack.pids() | {"receiver": self._receiver_pid}) as usage:
                    mixed = await self._mixed(good, capped, failing, slow)
                asking += time.process_time()
                flood = await self._flood(good)
                kills = await self._kills(once)
            finally:
                await self._commands.stop()
                await publisher.stop()
        return {
            "endpoints": self._sizes.endpoints,
            "mixed": mixed,
            "flood": flood,
            "kills": kills,
            "courier_cpu_us_per_delivery": round(usage.cpu_seconds["courier"] * 1e6 / mixed["attempts"]),
            "cpu_seconds_mixed": {
                name: round(each, 1) for name, each in [*usage.cpu_seconds.items(), ("asking", asking)]
            },
            "targets": {"p99_below_a_second": mixed["notice_to_attempt_ms"]["p99"] < 1000},
        }

    async def _open(self, kind: str, count: int) -> list[str]:
        """Make endpoints, each of a project of its own; returns their ids."""
        made = [f"ep_{kind}_{number}" for number in range(count)]
        for endpoint_id in made:
            self._projects[endpoint_id] = f"prj_{endpoint_id}"
        await self._ask(
            [
                CreateProject(
                    project=self._projects[each], name="", plan="free", contract_allowance=0, **self._addressing()
                )
                for each in made
            ]
        )
        await self._ask(
            [
                PutEndpoint(
                    project=self._projects[each],
                    endpoint_id=each,
                    kind="webhook",
                    target=f"{self._url}/{kind}/{each}",
                    **self._addressing(),
                )
                for each in made
            ]
        )
        return made

    def _addressing(self) -> dict[str, Any]:
        return self._commands.addressing(secrets.token_hex(8))

    def _tests(self, endpoints: Sequence[str]) -> list[AnyCommand]:
        return [
            TestEndpoint(project=self._projects[each], endpoint_id=each, **self._addressing()) for each in endpoints
        ]

    async def _ask(self, commands: Sequence[AnyCommand]) -> None:
        """Have commands decided, many at once. Raises RuntimeError where one is refused."""
        room = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def ask(command: AnyCommand) -> None:
            async with room:
                reply, _ = await self._commands.decide(command, timeout_seconds=60)
                if reply.status >= 300:
                    raise RuntimeError(f"{command} was refused: {reply.code}")

        await asyncio.gather(*map(ask, commands))

    async def _mixed(self, good: list[str], capped: str, failing: str, slow: str) -> dict[str, Any]:
        sizes = self._sizes
        few = max(5, sizes.notices // 100)
        asked = [capped] * (sizes.notices // 10) + [failing] * few + [slow] * few
        asked += [good[number % len(good)] for number in range(sizes.notices - len(asked))]
        random.Random(1).shuffle(asked)
        self._tell(f"{sizes.notices:,} notices, {sizes.rate:,} a second")
        commands = self._tests(asked)
        began_at = time.monotonic()
        tasks = []
        for number, command in enumerate(commands):
            while (early := began_at + number / sizes.rate - time.monotonic()) > 0:
                await asyncio.sleep(max(early, _TICK_SECONDS))
            tasks.append(asyncio.create_task(self._commands.decide(command, timeout_seconds=60)))
        await asyncio.gather(*tasks)
        asked_seconds = time.monotonic() - began_at
        # The slow one takes its time, and the failing one hours.
        wanted = len([each for each in asked if each not in (failing, slow)])
        receipts = await self._received(wanted, lambda path: path.split("/")[1] in ("good", "capped"))
        waits = sorted(at - stated for path, _, at, stated, _ in receipts if path.startswith("/good/"))
        capped_waits = sorted(at - stated for path, _, at, stated, _ in receipts if path.startswith("/capped/"))
        arrivals = sorted(at for path, _, at, _, _ in receipts if path.startswith("/capped/"))
        return {
            "notices": sizes.notices,
            "asked_per_second": round(sizes.notices / asked_seconds),
            "attempts": len(receipts),
            "notice_to_attempt_ms": _spread(waits),
            # More than it may get: these wait for their turn.
            "capped_notice_to_attempt_ms": _spread(capped_waits),
            "deliveries_per_second": _rate([at for _, _, at, _, _ in receipts]),
            "capped_most_in_a_second": most_in_a_second(arrivals),
            "capped_per_second": _rate(arrivals),
            "lost": wanted - len({each for path, each, *_ in receipts if path.split("/")[1] in ("good", "capped")}),
        }

    async def _flood(self, good: list[str]) -> dict[str, Any]:
        count = self._sizes.notices
        self._tell(f"{count:,} notices at once")
        self._stack.hold("courier")
        await self._ask(self._tests([good[number % len(good)] for number in range(count)]))
        self._stack.let_go("courier")
        receipts = await self._received(count, lambda path: path.startswith("/good/"))
        came = [each for each in receipts if each[0].startswith("/good/")]
        return {
            "notices": count,
            "deliveries_per_second": _rate([at for _, _, at, _, _ in came]),
            "lost": count - len({each[1] for each in came}),
        }

    async def _kills(self, once: list[str]) -> dict[str, Any]:
        sizes = self._sizes
        self._tell(f"{sizes.kills} kills while {sizes.killed_notices:,} notices are delivered")
        asking = asyncio.create_task(
            self._ask(self._tests([once[number % len(once)] for number in range(sizes.killed_notices)]))
        )
        # Each is taken in the end: the first attempt at each fails.
        taken: dict[str, int] = defaultdict(int)
        requests, killed, since_kill, last = 0, 0, 0, 0
        deadline = time.monotonic() + sizes.kills * _KILL_SECONDS_MAX + _SETTLE_SECONDS_MAX
        while len(taken) < sizes.killed_notices and time.monotonic() < deadline:
            for path, notice_id, _, _, status in await self._log():
                if path.startswith("/once/"):
                    requests, since_kill = requests + 1, since_kill + 1
                    if status < 300:
                        taken[notice_id] += 1
            pid = self._stack.pids().get("courier", last)
            if killed < sizes.kills and pid != last and since_kill >= sizes.requests_a_kill:
                # In the midst of deliveries: some of them have just come.
                os.kill(pid, signal.SIGKILL)
                killed, since_kill, last = killed + 1, 0, pid
            await asyncio.sleep(_LOOK_SECONDS)
        await asking
        charges = Counter(await self._charges())
        reported = {each.id async for each in self._reports() if each.is_billed}
        return {
            "kills": killed,
            "notices": sizes.killed_notices,
            "lost": sizes.killed_notices - len(taken),
            "requests": requests,
            "taken_more_than_once": sum(1 for count in taken.values() if count > 1),
            "retries_billed": len(charges),
            "billed_twice": sum(1 for count in charges.values() if count > 1),
            # A retry that was made is billed; one that was billed may have been cut off before it was reported.
            "billed_unasked": len(reported - charges.keys()),
        }

    async def _received(
        self, count: int, is_counted: Callable[[str], bool] = lambda _path: True, first_only: bool = False
    ) -> list[Receipt]:
        """Wait until so many different notices have come at paths that count; gives all that came."""
        receipts: list[Receipt] = []
        deadline = time.monotonic() + _WAIT_SECONDS_MAX
        seen: set[str] = set()
        while len(seen) < count and time.monotonic() < deadline:
            some = await self._log()
            receipts += some
            seen |= {notice_id for path, notice_id, *_ in some if is_counted(path)}
            await asyncio.sleep(0.2)
        if first_only and len(seen) < count:
            raise RuntimeError(f"only {len(seen)} of {count} endpoints were reached")
        return receipts

    async def _log(self) -> list[Receipt]:
        answer = await self._client.get(f"{self._url}/log")
        return [tuple(each) for each in answer.json()]

    async def _charges(self) -> list[str]:
        """The attempt of each charge of a retry, once for each fact."""
        facts: dict[tuple[int, int, int], str] = {}
        async for record in self._records(topics_of(self._settings).journal):
            for fact in decode_facts(record.value):
                if fact.kind == "charge" and fact.source == "/webhooks":
                    facts[record.partition, fact.offset, fact.index] = fact.event_id
        return [event_id for event_id in facts.values() if event_id.startswith("ep_once")]

    async def _reports(self) -> Any:
        async for record in self._records(topics_of(self._settings).deliveries):
            report = decode_attempt(record.value)
            if report.endpoint_id.startswith("ep_once"):
                yield report

    async def _records(self, topic: str) -> Any:
        consumer = AIOKafkaConsumer(**kafka_client_settings(self._settings), auto_offset_reset="earliest")
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(self._settings.partitions)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(tp) < ends[tp] for tp in places]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        yield record
        finally:
            await consumer.stop()


def most_in_a_second(arrivals: Sequence[float]) -> int:
    """The most of these times, in milliseconds and in order, within any second."""
    most = first = 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= RATE_MS:
            first += 1
        most = max(most, last - first + 1)
    return most


def _rate(times_ms: Sequence[float]) -> int:
    span = (max(times_ms) - min(times_ms)) / 1000 if times_ms else 0.0
    return round(len(times_ms) / span) if span else 0


def _spread(ordered: Sequence[float]) -> dict[str, float]:
    return {"p50": _percentile(ordered, 50), "p99": _percentile(ordered, 99), "max": _percentile(ordered, 100)}


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1) if ordered else -1.0
