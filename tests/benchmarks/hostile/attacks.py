"""The attacks of `meterline bench hostile`, one kind a process, with a free project's key and what the network lets
anyone reach.

An attack goes on until its process is told to stop, as fast as it can within a bound that it states; then it writes
what it did and how it was answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from schemas.events import UsageEvent
from streams.client.producer import usage_event
from streams.kafka.publisher import Publisher
from streams.kafka.topics import topics_of
from streams.settings import Settings
from tests.benchmarks.poison import poisons
from tests.benchmarks.rivals.rival import write_note

BEGUN = "begun"
RESULT = "result"
BODY_BYTES = 3_900_000
HALF_OPEN_CONNECTIONS = 400
SLOW_BODIES = 100
# The attacker shares the machine with what it attacks, which it could not in earnest: it yields to all else.
NICENESS = 10


class AttackPlan(msgspec.Struct, frozen=True):
    """A plan is all that an attack knows: the URLs of the API and of the history's front, the key of a free project,
    that project, and the number of partitions."""

    url: str
    clickhouse_url: str
    key: str
    project: str
    partitions: int
    seed: int


class Attacker:
    """An attacker counts what it sent and how it was answered, and goes on until it is cancelled."""

    def __init__(self, settings: Settings, target: AttackPlan) -> None:
        self.settings = settings
        self.target = target
        self.sent = 0
        self.answers: Counter[str] = Counter()
        self.http = httpx.AsyncClient(
            base_url=target.url,
            headers={"authorization": f"Bearer {target.key}"},
            timeout=30.0,
            limits=httpx.Limits(max_connections=64),
        )

    async def ask(self, method: str, path: str, **request: Any) -> None:
        """Send one request, and count its status, or the error that ended it."""
        self.sent += 1
        try:
            response = await self.http.request(method, path, **request)
            self.answers[str(response.status_code)] += 1
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1

    async def write(self, publisher: Publisher, value: bytes) -> None:
        """Write one record to the usage topic, and count it."""
        partition = self.sent % self.target.partitions
        self.sent += 1
        try:
            await (await publisher.send(topics_of(self.settings).usage, partition, value))
            self.answers["written"] += 1
        except Exception as error:
            self.answers[type(error).__name__] += 1


async def poison(attacker: Attacker) -> None:
    """Send records and bodies that are no usage events, some with a good event among the bad: 50 a second each."""
    numbers = iter(range(1_000_000_000))

    def good() -> UsageEvent | None:
        number = next(numbers)
        if number % 2:
            return None
        return usage_event(attacker.target.project, "read", id=f"{attacker.target.seed}-{number}", source="/poison")

    headers = {"content-type": "application/cloudevents-batch+json"}
    async with _publishing(attacker.settings) as publisher:
        for each, _ in poisons(attacker.target.seed, good):
            await attacker.write(publisher, each.value)
            await attacker.ask("POST", "/v1/events", content=each.value, headers=headers)
            await asyncio.sleep(0.02)


async def rubbish(attacker: Attacker) -> None:
    """Send records of a megabyte of empty objects, four a second."""
    value = b"[" + b"{}," * 330_000 + b"{}]"
    async with _publishing(attacker.settings) as publisher:
        while True:
            await attacker.write(publisher, value)
            await asyncio.sleep(0.25)


async def giant_bodies(attacker: Attacker) -> None:
    """Send bodies as large as are taken, four at once: empty objects, deep nesting, long strings."""
    bodies = (
        b"[" + b"{}," * (BODY_BYTES // 3) + b"{}]",
        b"[" * (BODY_BYTES // 2) + b"]" * (BODY_BYTES // 2),
        b'[{"id":"' + b"a" * BODY_BYTES + b'"}]',
        b"[" + b'{"id":"a","data":{"metadata":{"a":"b"}}},' * (BODY_BYTES // 42) + b"{}]",
    )
    headers = {"content-type": "application/cloudevents-batch+json"}

    async def send(body: bytes) -> None:
        while True:
            await attacker.ask("POST", "/v1/events", content=body, headers=headers)

    await asyncio.gather(*map(send, bodies))


async def heavy_queries(attacker: Attacker) -> None:
    """Ask for usage by the key that differs in every event, eight at once, as JSON and as CSV."""

    async def query(number: int) -> None:
        wanted = "csv" if number % 2 else "json"
        while True:
            parameters = {"group_by": "metadata.request,operation,hour", "format": wanted}
            await attacker.ask("GET", "/v1/usage", params=parameters)

    await asyncio.gather(*map(query, range(8)))


async def heavy_sql(attacker: Attacker) -> None:
    """Ask the history's front for sorts and joins of all there is, eight at once: an analyst who means no harm."""
    statements = (
        "SELECT metadata, count() FROM facts GROUP BY metadata ORDER BY count() DESC, metadata LIMIT 10",
        "SELECT count() FROM facts AS a JOIN facts AS b ON a.project = b.project AND a.offset < b.offset",
    )

    async def query(number: int) -> None:
        while True:
            sql = statements[number % len(statements)]
            await attacker.ask(
                "GET", attacker.target.clickhouse_url, params={"query": sql}, headers={"authorization": ""}
            )

    await asyncio.gather(*map(query, range(8)))


async def slow_connections(attacker: Attacker) -> None:
    """Hold connections open with nothing sent, a head that never ends, or a body that comes a byte a second."""
    url = urlsplit(attacker.target.url)
    head = f"POST /v1/events HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {attacker.target.key}\r\n"

    async def hold(number: int) -> None:
        while True:
            attacker.sent += 1
            writer: asyncio.StreamWriter | None = None
            try:
                reader, writer = await asyncio.open_connection(url.hostname, url.port)
                if number < SLOW_BODIES:
                    writer.write((head + "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n").encode())
                elif number % 2:
                    writer.write(head.encode())
                while not reader.at_eof():
                    if number % 2:
                        writer.write(b"X")
                        await writer.drain()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await reader.read(1000)
                attacker.answers["closed"] += 1
            except OSError as error:
                attacker.answers[type(error).__name__] += 1
                await asyncio.sleep(0.5)
            finally:
                if writer is not None:
                    writer.close()

    await asyncio.gather(*map(hold, range(HALF_OPEN_CONNECTIONS)))


async def flood(attacker: Attacker) -> None:
    """Ask for admissions far above the project's limit, sixteen callers at once without a pause."""

    async def ask() -> None:
        while True:
            await attacker.ask("POST", "/v1/admissions", json={"operation": "read"})

    await asyncio.gather(*(ask() for _ in range(16)))


async def keyless_flood(attacker: Attacker) -> None:
    """Call without a valid key, sixteen callers at once without a pause."""

    async def ask() -> None:
        while True:
            await attacker.ask("GET", "/v1/balance", headers={"authorization": "Bearer mtl_live_nobody.wrong"})

    await asyncio.gather(*(ask() for _ in range(16)))


KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    "poison": poison,
    "rubbish_records": rubbish,
    "giant_bodies": giant_bodies,
    "heavy_queries": heavy_queries,
    "heavy_sql": heavy_sql,
    "slow_connections": slow_connections,
    "flood_of_429": flood,
    "keyless_flood": keyless_flood,
}


class _publishing:
    """A publisher that is connected while its block runs."""

    def __init__(self, settings: Settings) -> None:
        self._publisher = Publisher(settings)

    async def __aenter__(self) -> Publisher:
        await self._publisher.start()
        return self._publisher

    async def __aexit__(self, *_: object) -> None:
        await self._publisher.stop()


async def _attack(directory: Path, settings: Settings, kind: str, target: AttackPlan) -> None:
    attacker = Attacker(settings, target)
    attacking = asyncio.ensure_future(KINDS[kind](attacker))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, attacking.cancel)
    write_note(directory, BEGUN, kind)
    try:
        with suppress(asyncio.CancelledError):
            await attacking
    finally:
        result = {"sent": attacker.sent, "answers": dict(attacker.answers.most_common())}
        write_note(directory, RESULT, msgspec.json.encode(result).decode())
        await attacker.http.aclose()


def main(broker_url: str, prefix: str, directory: str, kind: str, target: str) -> None:
    """Run one attack until SIGTERM."""
    os.nice(NICENESS)
    settings = Settings(kafka_url=broker_url, topic_prefix=prefix)
    asyncio.run(_attack(Path(directory), settings, kind, msgspec.json.decode(target, type=AttackPlan)))


if __name__ == "__main__":
    main(*sys.argv[1:])
