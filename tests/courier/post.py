"""A post office for tests: customers and endpoints on a real broker and worker, and couriers in it or beside it."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.commands import CreateProject, PutEndpoint
from schemas.facts import Fact
from schemas.notices import DeliveryAttempt
from streams.courier.courier import Courier
from streams.courier.outgoing import Senders
from streams.embedded import lifeline
from streams.kafka.codecs import decode_attempt, decode_facts
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topics import topics_of
from streams.settings import PROJECT_ROOT, Settings
from streams.state.accounts_view import AccountsView
from tests.cashier.test_purchases import Worker, at_once, decide, until
from tests.courier.receiver import Receiver

KEY = "k" * 40
# Short pauses, so that a test need not wait; the longest is longer than any test.
PAUSES_MS = (300, 300, 300, 300, 600_000)


# A courier as a process of its own, with the tests' pauses.
COURIER = """
from api.server import run_courier
from streams import logs
from streams.courier import schedule
from streams.settings import Settings

schedule.RETRY_AFTER_MS = {pauses}
settings = Settings()
logs.configure(settings, settings.courier_name)
run_courier(settings)
"""


@dataclass(frozen=True)
class Beside:
    """A courier in a process of its own, with /metrics at a port."""

    process: subprocess.Popen[bytes]
    port: int

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.process.pid, number)

    async def figure(self, name: str) -> float:
        """A figure of the courier's, -1 where it is not there yet."""
        try:
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5)).text
        except httpx.HTTPError:
            return -1.0
        found = [line.split() for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0][1]) if found else -1.0

    async def has(self, partitions: int) -> bool:
        """Whether the courier works on so many partitions."""
        return await self.figure("meterline_courier_partitions") == partitions

    async def is_done(self) -> bool:
        """Whether all that the courier has read has been delivered."""
        waiting = await self.figure("meterline_deliveries_waiting")
        return waiting == 0 == await self.figure("meterline_courier_lag_records")


@dataclass
class Post:
    """A post office: customers of a running Meterline, and a receiver for all of their endpoints."""

    settings: Settings
    publisher: Publisher
    commands: CommandClient
    receiver: Receiver = field(default_factory=Receiver)

    async def decide(self, what: type[Any], project: str, /, **values: Any) -> None:
        await decide(self.commands, what, project, **values)

    async def customer(self, plan: str = "free") -> str:
        """Open a project; returns its id. On the enterprise plan it has no credits."""
        project = f"prj_{secrets.token_hex(5)}"
        await self.decide(CreateProject, project, name="", plan=plan, contract_allowance=0)
        return project

    async def endpoint(self, project: str, **values: Any) -> str:
        """Make an endpoint, whose path at the receiver is its id; returns that."""
        endpoint_id = f"ep_{secrets.token_hex(6)}"
        values = {"event_types": ["*"], "kind": "webhook"} | values
        target = self.receiver.url(f"/{endpoint_id}")
        await self.decide(PutEndpoint, project, endpoint_id=endpoint_id, target=target, **values)
        return endpoint_id

    def got(self, endpoint_id: str) -> list[tuple[str, str]]:
        """The notices that came at an endpoint: each one's id and type, in order."""
        return [(each.notice_id, json.loads(each.body)["type"]) for each in self.receiver.at(f"/{endpoint_id}")]

    async def arrived(self, endpoint_id: str, types: list[str]) -> None:
        def found() -> bool:
            came = [kind for _, kind in self.got(endpoint_id)]
            assert came == types[: len(came)], came
            return came == types

        await until(lambda: at_once(found()))

    async def facts(self) -> list[Fact]:
        """All facts of the journal, each once."""
        found: dict[tuple[int, int, int], Fact] = {}
        for record in await self._all(topics_of(self.settings).journal):
            for fact in decode_facts(record.value):
                found.setdefault((record.partition, fact.offset, fact.index), fact)
        return list(found.values())

    async def attempts(self, endpoint_id: str) -> list[DeliveryAttempt]:
        """The reports of attempts at an endpoint."""
        reports = [decode_attempt(each.value) for each in await self._all(topics_of(self.settings).deliveries)]
        return [each for each in reports if each.endpoint_id == endpoint_id]

    async def billed(self, endpoint_id: str) -> list[tuple[str, int]]:
        """The ids of the attempts at an endpoint that were billed, and the microcredits of each."""
        charges = [each for each in await self.facts() if each.kind == "charge" and endpoint_id in each.event_id]
        return [(each.event_id, -each.amount) for each in charges]

    async def _all(self, topic: str) -> list[Any]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_url, auto_offset_reset="earliest")
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(self.settings.partitions)]
            consumer.assign(places)
            ends, found = await consumer.end_offsets(places), []
            while any([await consumer.position(tp) < ends[tp] for tp in places]):
                for records in (await consumer.getmany(timeout_ms=300)).values():
                    found += records
            return found
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Courier]:
        """A courier that works while its block runs."""
        self.settings.courier_dir.mkdir(parents=True, exist_ok=True)
        accounts = AccountsView(self.settings, self.settings.courier_dir / "accounts")
        senders = Senders(self.settings)
        await accounts.start()
        courier = Courier(self.settings, senders, self.publisher, self.commands, accounts)
        task = asyncio.create_task(courier.run())
        try:
            yield courier
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await accounts.stop()
            await senders.close()

    @contextmanager
    def beside(self, name: str) -> Iterator[Beside]:
        """A courier of this name in a process of its own, which works while its block runs."""
        port = lifeline.free_port()
        settings = self.settings.model_copy(update={"courier_name": name, "courier_metrics_port": port})
        with (self.settings.data_dir / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", COURIER.format(pauses=PAUSES_MS)],
                cwd=PROJECT_ROOT,
                env=settings.as_environment(),
                stderr=log,
            )
        try:
            yield Beside(process, port)
        finally:
            process.kill()
            process.wait()


def run(worker: Worker, scenario: Callable[[Post], Awaitable[None]]) -> None:
    async def running() -> None:
        publisher = Publisher(worker.settings)
        commands = CommandClient(worker.settings, publisher)
        await publisher.start()
        await commands.start()
        post = Post(worker.settings, publisher, commands)
        await post.receiver.start()
        try:
            await scenario(post)
        finally:
            await post.receiver.stop()
            await commands.stop()
            await publisher.stop()

    asyncio.run(running())
