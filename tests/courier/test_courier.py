"""The courier, on the real broker, with a real worker and a real receiver: every notice arrives, whatever fails."""

import asyncio
import json
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from standardwebhooks import Webhook

from schemas.commands import ChangePlan, CreateProject, DeleteEndpoint, PutEndpoint, ReplayNotices, TestEndpoint
from schemas.facts import Fact
from schemas.notices import DeliveryAttempt
from schemas.problems import Rejection
from streams.core.endpoints import PLATFORM_ID
from streams.courier import schedule
from streams.courier.courier import Courier
from streams.courier.deliverer import LOOK_SECONDS
from streams.courier.outgoing import Senders
from streams.courier.signatures import secret_of
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.clock import now_ms
from streams.kafka.codecs import decode_attempt, decode_facts
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import PROJECT_ROOT, Settings
from streams.state.accounts_view import AccountsView
from tests.cashier.test_purchases import Worker, at_once, until
from tests.conftest import SESSION_TIMEOUT_SECONDS
from tests.core.builders import CREDIT
from tests.courier.receiver import Receiver

KEY = "k" * 40
# Short pauses, so that a test need not wait; the longest is longer than any test.
PAUSES_MS = (300, 300, 300, 300, 600_000)


@pytest.fixture(scope="module")
def worker(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix=f"t{secrets.token_hex(4)}",
        data_dir=tmp_path_factory.mktemp("post"),
        partitions=2,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
        reply_timeout_seconds=5,
        webhook_key=KEY,
        webhook_networks=["127.0.0.0/8"],
    )
    asyncio.run(create_topics(settings))
    running = Worker(settings)
    yield running
    running.stop()


@dataclass
class Post:
    """A post office: customers of a running Meterline, and a receiver for all of their endpoints."""

    settings: Settings
    publisher: Publisher
    commands: CommandClient
    receiver: Receiver = field(default_factory=Receiver)

    async def decide(self, what: type[Any], project: str, /, **values: Any) -> None:
        command = what(project=project, **values, **self.commands.addressing(secrets.token_hex(8)))

        async def decided() -> bool:
            try:
                reply, _ = await self.commands.decide(command)
            except Rejection:
                return False  # the worker is not there yet
            assert reply.status < 300, reply
            return True

        await until(decided)

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


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RETRY_AFTER_MS", PAUSES_MS)


def test_a_notice_goes_once_to_those_who_ask_for_it_signed_whoever_delivers(worker: Worker) -> None:
    async def scenario(post: Post) -> None:
        project, other = await post.customer(), await post.customer()
        async with post.open() as courier:
            all_of_it = await post.endpoint(project)
            plans = await post.endpoint(project, event_types=["plan.*"])
            holds = await post.endpoint(project, event_types=["hold.expired"])
            platform = await post.endpoint(PLATFORM_ID, event_types=["plan.changed"])
            for each in (all_of_it, plans, holds, platform):
                await post.arrived(each, ["webhook.test"])
            await post.decide(ChangePlan, project, plan="hobby", contract_allowance=0)
            await post.decide(ChangePlan, other, plan="hobby", contract_allowance=0)
            await post.arrived(all_of_it, ["webhook.test", "plan.changed"])
            await post.arrived(plans, ["webhook.test", "plan.changed"])
            await post.arrived(platform, ["webhook.test", "plan.changed", "plan.changed"])
            await until(lambda: at_once(not courier.deliverer.waiting and not courier.behind))
            await post.decide(DeleteEndpoint, PLATFORM_ID, endpoint_id=platform)
            assert courier.deliverer.attempts == {"delivered": 8}
        receipt = post.receiver.at(f"/{all_of_it}")[-1]
        told = Webhook(secret_of(KEY, all_of_it, 1)).verify(receipt.body.decode(), receipt.headers)
        assert (told["type"], told["data"]["project"]) == ("plan.changed", project)
        # Another courier, on a machine that has nothing, repeats none, and goes on.
        shutil.rmtree(post.settings.courier_dir)
        async with post.open():
            await post.decide(ChangePlan, project, plan="build", contract_allowance=0)
            await post.arrived(plans, ["webhook.test", "plan.changed", "plan.changed"])
            assert len(post.got(all_of_it)) == 3
        assert post.got(holds) == post.got(holds)[:1]
        (first, *_) = await post.attempts(plans)
        assert (first.number, first.status, first.answer, first.is_billed) == (1, 200, b"taken", False)

    run(worker, scenario)


def test_a_failure_is_tried_again_billed_once_an_attempt_and_replayed_when_all_are_used_up(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(post: Post) -> None:
        project, poor = await post.customer(), await post.customer("enterprise")
        async with post.open() as courier:
            failing = await post.endpoint(project)
            unpaid = await post.endpoint(poor)
            await post.arrived(unpaid, ["webhook.test"])
            post.receiver.plans[f"/{unpaid}"] = [500]
            await post.decide(TestEndpoint, poor, endpoint_id=unpaid)
            ordered = await post.endpoint(project, is_ordered=True)
            for each in (failing, ordered):
                await post.arrived(each, ["webhook.test"])
            post.receiver.plans[f"/{failing}"] = [500, 302, 503]
            post.receiver.plans[f"/{ordered}"] = [500, 500]
            for plan in ("hobby", "build"):
                await post.decide(ChangePlan, project, plan=plan, contract_allowance=0)
            await until(lambda: at_once(len(post.got(failing)) == 6 and len(post.got(ordered)) == 5))
            await until(lambda: at_once(len(post.got(unpaid)) == 3))
            await until(lambda: at_once(not courier.deliverer.waiting))
        in_order = [name for name, _ in post.got(ordered)][1:]
        assert in_order[0] == in_order[1] == in_order[2] != in_order[3]
        attempts = await post.attempts(failing)
        retries = sorted(each.id for each in attempts if each.number > 1)
        assert len(retries) == 3 and sorted(await post.billed(failing)) == [(each, CREDIT // 50) for each in retries]
        assert await post.billed(unpaid) == [(f"{unpaid}.{post.got(unpaid)[-1][0]}.2", 0)]
        assert {each.id for each in attempts if each.is_billed} == set(retries)
        assert len({each.id for each in attempts}) == 6 == len(attempts)
        assert [bool(each.next_at_ms) for each in attempts] == [not each.is_delivered for each in attempts]
        # Once it has failed for good it goes when somebody asks for it, and what arrived does not go again.
        async with post.open() as courier:
            post.receiver.always[f"/{failing}"] = 500
            monkeypatch.setattr(schedule, "RETRY_AFTER_MS", (1, 1, 1, 1, 1))
            await post.decide(ChangePlan, project, plan="scale", contract_allowance=0)
            await until(lambda: at_once(courier.deliverer.attempts["failed"] == 1))
            del post.receiver.always[f"/{failing}"]
            await post.decide(ReplayNotices, project, endpoint_id=failing, since_ms=now_ms() - 60_000, only_failed=True)
            await until(lambda: at_once(courier.deliverer.attempts["delivered"] == 2))
            lost = post.got(failing)[-1]
            assert [name for name, _ in post.got(failing)].count(lost[0]) == 7
            assert (await post.attempts(failing))[-1].number == 7
            await post.decide(ReplayNotices, project, endpoint_id=failing, notice_id=lost[0])
            await until(lambda: at_once([name for name, _ in post.got(failing)].count(lost[0]) == 8))

    run(worker, scenario)


def test_an_endpoint_that_is_gone_is_disabled_a_paused_one_waits_and_a_slow_one_holds_up_nobody(worker: Worker) -> None:
    async def scenario(post: Post) -> None:
        project = await post.customer()
        async with post.open() as courier:
            gone, paused, slow, hears = [await post.endpoint(project) for _ in range(4)]
            await post.arrived(hears, ["webhook.test"])
            await until(lambda: at_once(not courier.deliverer.waiting))
            await post.decide(PutEndpoint, project, is_change=True, endpoint_id=paused, state="paused")
            post.receiver.always[f"/{gone}"] = 410
            post.receiver.seconds[f"/{slow}"] = 30.0
            await post.decide(TestEndpoint, project, endpoint_id=slow)
            await post.decide(TestEndpoint, project, endpoint_id=gone)
            # The notice that it is disabled reaches the others, though one of them does not answer.
            await post.arrived(hears, ["webhook.test", "endpoint.disabled"])
            assert len(post.got(gone)) == 2 and len(post.got(paused)) == 1
            await post.decide(PutEndpoint, project, is_change=True, endpoint_id=paused, state="active")
            began_at = time.monotonic()
            await post.arrived(paused, ["webhook.test", "endpoint.disabled"])
            # It did not come because somebody looked again after a minute.
            assert time.monotonic() - began_at < LOOK_SECONDS / 2
            await post.decide(ChangePlan, project, plan="hobby", contract_allowance=0)
            await post.arrived(hears, ["webhook.test", "endpoint.disabled", "plan.changed"])
            assert len(post.got(gone)) == 2
            post.receiver.seconds.clear()
        (disabled,) = [each for each in await post.facts() if each.reason == "disabled" and each.project == project]
        assert gone in disabled.metadata and disabled.key_id == "courier"

    run(worker, scenario)


DYING = """
import os, signal, sys
from api.server import run_courier
from streams.courier import schedule
from streams.courier.deliverer import Deliverer
from streams.settings import Settings

schedule.RETRY_AFTER_MS = (300, 300, 300, 300, 600_000)
note, bill = Deliverer._note, Deliverer._bill

async def note_and_die(self, desk, there, delivery, *others):
    if delivery.endpoint_id != sys.argv[2] or (delivery.attempts == 0 and sys.argv[1] == "billed"):
        return await note(self, desk, there, delivery, *others)
    os.kill(os.getpid(), signal.SIGKILL)

async def bill_and_die(self, delivery):
    await bill(self, delivery)
    if delivery.endpoint_id == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

Deliverer._note = note_and_die
if sys.argv[1] == "billed":
    Deliverer._bill = bill_and_die
run_courier(Settings())
"""


@pytest.mark.parametrize("moment", ["sent", "billed"])
def test_a_courier_that_is_killed_makes_the_same_attempt_again_and_bills_it_once(worker: Worker, moment: str) -> None:
    async def scenario(post: Post) -> None:
        project = await post.customer()
        async with post.open():
            endpoint_id = await post.endpoint(project)
            await post.arrived(endpoint_id, ["webhook.test"])
        post.receiver.plans[f"/{endpoint_id}"] = [500]
        await post.decide(ChangePlan, project, plan="hobby", contract_allowance=0)
        dying = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", DYING, moment, endpoint_id],
            cwd=PROJECT_ROOT,
            env=post.settings.as_environment(),
            timeout=60,
        )
        assert dying.returncode == -signal.SIGKILL
        sent = post.got(endpoint_id)
        assert [kind for _, kind in sent] == ["webhook.test", "plan.changed"]
        async with post.open() as courier:
            await until(lambda: at_once(courier.deliverer.attempts["delivered"] == 1))
        assert [name for name, _ in post.got(endpoint_id)][2:] == [sent[1][0]]
        (*_, last) = await post.attempts(endpoint_id)
        expected = [(f"{endpoint_id}.{sent[1][0]}.2", CREDIT // 50)] if moment == "billed" else []
        assert await post.billed(endpoint_id) == expected, await post.attempts(endpoint_id)
        assert (last.number, last.is_delivered) == (2 if moment == "billed" else 1, True)

    run(worker, scenario)
