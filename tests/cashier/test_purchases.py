"""The cashier, on the real broker and with a real worker, makes one purchase for one request, whatever is killed."""

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.commands import Admit, CreateProject, SetAutoRecharge, SettleRecharge
from schemas.facts import Fact
from schemas.problems import Rejection
from streams.cashier import purchases as cashier_module
from streams.cashier.payments import Failed, LocalPayments, Paid, Payment, PaymentUnknownError
from streams.cashier.purchases import Cashier
from streams.embedded import lifeline
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.codecs import decode_facts
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import partition_of, topics_of
from streams.settings import PROJECT_ROOT, Settings
from tests.conftest import SESSION_TIMEOUT_SECONDS
from tests.core.builders import CREDIT, usage


class Worker:
    """A worker process that a test can stop and start."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._child: lifeline.Child | None = None
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "api.cli", "worker"]
        log_path = self.settings.data_dir / "worker.log"
        self._child = lifeline.start("worker", argv, log_path=log_path, env=self.settings.as_environment())

    def stop(self) -> None:
        assert self._child is not None
        self._child.stop()


@pytest.fixture(scope="module")
def worker(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix=f"t{secrets.token_hex(4)}",
        data_dir=tmp_path_factory.mktemp("shop"),
        partitions=2,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
        reply_timeout_seconds=2,
    )
    asyncio.run(create_topics(settings))
    running = Worker(settings)
    yield running
    running.stop()


@dataclass
class Till(LocalPayments):
    """A till pretends to take money, notes what it was asked, and fails as a test wants for a payment method: "before"
    it takes the money, or "after" that; or it takes the money, and "waits" with its answer until `go`."""

    path: Path
    go: threading.Event = field(default_factory=threading.Event)
    asked: list[Payment] = field(default_factory=list)
    troubles: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.path)

    def buy(self, payment: Payment) -> Paid | Failed:
        self.asked.append(payment)
        troubles = self.troubles.get(payment.payment_method, [])
        trouble = troubles.pop(0) if troubles else ""
        if trouble == "before":
            raise PaymentUnknownError("nobody answers")
        outcome = super().buy(payment)
        if trouble == "waits":
            self.go.wait(60)
        if trouble == "after":
            raise PaymentUnknownError("nobody answers")
        return outcome


@dataclass
class Shop:
    """A shop has customers of a running Meterline, and a till."""

    settings: Settings
    publisher: Publisher
    commands: CommandClient
    till: Till

    async def decide(self, kind: type[Any], project: str, **values: Any) -> None:
        await decide(self.commands, kind, project, **values)

    async def customer(self, method: str = "card_1") -> str:
        """Open a free project with 250 credits, whose auto-recharge buys below 100; returns its id."""
        project = f"prj_{secrets.token_hex(5)}"
        await self.decide(CreateProject, project, name="", plan="free", contract_allowance=0)
        terms = {"threshold": 100 * CREDIT, "bundle_usd": 20, "cap_cents": 100_00, "payment_method": method}
        await self.decide(SetAutoRecharge, project, is_on=True, **terms)
        return project

    async def spend(self, project: str, operation: str = "website") -> None:
        event = usage(secrets.token_hex(8), project, operation, occurred_at_ms=int(time.time() * 1000))
        await self.decide(Admit, project, usage=event)

    async def low_customer(self, method: str = "card_1") -> str:
        project = await self.customer(method)
        await self.spend(project)
        return project

    async def journal(self, project: str) -> list[tuple[int, bytes, Fact]]:
        """The facts of a project, each with the offset and value of its journal record."""
        tp = TopicPartition(topics_of(self.settings).journal, partition_of(project, self.settings.partitions))
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_url, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
            # A worker that was stopped between the journal and the accounts states the same facts again.
            found: dict[tuple[int, int], Any] = {}
            while await consumer.position(tp) < end:
                for record in (await consumer.getmany(tp, timeout_ms=500)).get(tp, []):
                    for each in decode_facts(record.value):
                        found.setdefault((each.offset, each.index), (record.offset, record.value, each))
            return [each for each in found.values() if each[2].project == project]
        finally:
            await consumer.stop()

    async def trail(self, project: str) -> list[str]:
        """The steps of a project's purchases, in order: facts about auto-recharge, and granted bundles."""
        facts = [fact for _, _, fact in await self.journal(project)]
        return [each.reason for each in facts if each.kind == "recharge" or each.reason == "top_up"]

    async def settled(self, project: str, trail: list[str]) -> None:
        async def done() -> bool:
            found = await self.trail(project)
            assert found == trail[: len(found)]
            return found == trail

        await until(done)

    def bought(self, project: str) -> list[int]:
        """The cents of each purchase of a project that was paid."""
        return [cents for _, owner, cents, is_paid in self.till.purchases() if owner == project and is_paid]

    async def offsets(self, move_to: int | None = None) -> dict[int, int]:
        """The cashier's committed offsets by partition; with `move_to`, they are all set to that first."""
        topics = topics_of(self.settings)
        partitions = [TopicPartition(topics.journal, number) for number in range(self.settings.partitions)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_url, group_id=topics.cashier_group, enable_auto_commit=False
        )
        consumer.assign(partitions)
        await consumer.start()
        try:
            if move_to is not None:
                await consumer.commit(dict.fromkeys(partitions, move_to))
            return {tp.partition: await consumer.committed(tp) or 0 for tp in partitions}
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Cashier]:
        """A cashier that works at the till while its block runs."""
        cashier = Cashier(self.settings, self.till, self.publisher, self.commands)
        task = asyncio.create_task(cashier.run())
        try:
            yield cashier
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def decide(commands: CommandClient, kind: type[Any], project: str, /, **values: Any) -> None:
    """Have a command decided well, as soon as there is a worker."""
    command = kind(project=project, **values, **commands.addressing(secrets.token_hex(8)))

    async def decided() -> bool:
        try:
            reply, _ = await commands.decide(command)
        except Rejection:
            return False  # the worker is not there yet
        assert reply.status < 300, reply
        return True

    await until(decided)


async def until(check: Callable[[], Awaitable[object]], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.05)


def run(worker: Worker, scenario: Callable[[Shop], Awaitable[None]]) -> None:
    async def running() -> None:
        publisher = Publisher(worker.settings)
        commands = CommandClient(worker.settings, publisher)
        await publisher.start()
        await commands.start()
        try:
            await scenario(Shop(worker.settings, publisher, commands, Till(worker.settings.payments_path)))
        finally:
            await commands.stop()
            await publisher.stop()

    asyncio.run(running())


def test_below_the_threshold_one_bundle_is_bought_and_granted(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        async with shop.open() as cashier:
            project = await shop.customer()
            await shop.spend(project, "chat.message")
            assert await shop.trail(project) == ["on"]
            await shop.spend(project)
            await shop.settled(project, ["on", "requested", "top_up"])
            await until(lambda: at_once(cashier.paid == 1))
        (payment,) = shop.till.asked
        facts = [fact for _, _, fact in await shop.journal(project)]
        requested = next(each for each in facts if each.reason == "requested")
        assert (payment.project, payment.amount_cents, payment.currency) == (project, 2_000, "usd")
        assert (payment.payment_method, payment.requested_at_ms) == ("card_1", requested.booked_at_ms)
        assert f":recharge-{partition_of(project, 2)}-{requested.offset}-" in payment.key
        grant = next(each for each in facts if each.reason == "top_up")
        assert (grant.kind, grant.amount, grant.cents) == ("grant", 4_000 * CREDIT, 2_000)
        assert (cashier.paid, cashier.failed, cashier.unknown, cashier.waiting) == (1, 0, 0, 0)

    run(worker, scenario)


async def at_once(found: object) -> object:
    return found


def test_a_declined_purchase_is_stated_and_not_tried_again_before_its_pause(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        async with shop.open() as cashier:
            project = await shop.low_customer("declined_1")
            await shop.settled(project, ["on", "requested", "failed"])
            await shop.spend(project, "chat.message")
            other = await shop.low_customer()
            await shop.settled(other, ["on", "requested", "top_up"])
            await until(lambda: at_once(cashier.failed == 1))
        assert await shop.trail(project) == ["on", "requested", "failed"]
        assert [each.project for each in shop.till.asked] == [project, other]
        assert shop.bought(project) == []
        failed = next(fact for _, _, fact in await shop.journal(project) if fact.reason == "failed")
        assert '"detail":"card_declined"' in failed.metadata

    run(worker, scenario)


DYING = """
import os, signal, sys
from api.server import run_cashier
from streams.cashier.purchases import Cashier
from streams.cashier.payments import LocalPayments
from streams.settings import Settings

buy, tell = LocalPayments.buy, Cashier._tell

def buy_and_die(self, payment):
    buy(self, payment)
    os.kill(os.getpid(), signal.SIGKILL)

async def tell_and_die(self, request, outcome):
    await tell(self, request, outcome)
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "bought":
    LocalPayments.buy = buy_and_die
else:
    Cashier._tell = tell_and_die
run_cashier(Settings())
"""


@pytest.mark.parametrize("moment", ["bought", "told"])
def test_a_cashier_that_is_killed_leaves_one_purchase_and_one_grant(worker: Worker, moment: str) -> None:
    async def scenario(shop: Shop) -> None:
        project = await shop.low_customer()
        dying = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", DYING, moment],
            cwd=PROJECT_ROOT,
            env=shop.settings.as_environment(),
            timeout=60,
        )
        assert dying.returncode == -signal.SIGKILL
        assert shop.bought(project) == [2_000]
        trail = await shop.trail(project)
        assert trail == (["on", "requested"] if moment == "bought" else ["on", "requested", "top_up"])
        async with shop.open():
            await shop.settled(project, ["on", "requested", "top_up"])
            # A later cashier has nothing left to do for this purchase.
            other = await shop.low_customer()
            await shop.settled(other, ["on", "requested", "top_up"])
        assert await shop.trail(project) == ["on", "requested", "top_up"]
        assert shop.bought(project) == [2_000]
        # The payment provider is not even asked for a purchase that has ended by the journal.
        assert [each.project for each in shop.till.asked] == ([project] if moment == "bought" else []) + [other]

    run(worker, scenario)


def test_an_unknown_outcome_is_asked_for_under_its_key_and_holds_nobody_up(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cashier_module, "FIRST_PAUSE_SECONDS", 0.2)

    async def scenario(shop: Shop) -> None:
        shop.till.troubles["slow_1"] = ["before", "after"] + ["before"] * 1_000
        slow = await shop.low_customer("slow_1")
        wanted_at = next(offset for offset, _, fact in await shop.journal(slow) if fact.reason == "requested")
        async with shop.open() as cashier:
            others = [await shop.low_customer() for _ in range(4)]
            for other in others:
                await shop.settled(other, ["on", "requested", "top_up"])
            await until(lambda: at_once(cashier.unknown >= 3))
            await asyncio.sleep(1.5)
            assert (await shop.offsets())[partition_of(slow, 2)] <= wanted_at
            assert cashier.waiting == 1
            assert await shop.trail(slow) == ["on", "requested"]
            shop.till.troubles.clear()
            await shop.settled(slow, ["on", "requested", "top_up"])
            await until(lambda: at_once(cashier.waiting == 0))

            async def committed() -> bool:
                return (await shop.offsets())[partition_of(slow, 2)] > wanted_at

            await until(committed)
        assert shop.bought(slow) == [2_000]
        assert len({each.key for each in shop.till.asked if each.project == slow}) == 1

    run(worker, scenario)


async def fail_by_hand(shop: Shop, project: str) -> None:
    requested = next(fact for _, _, fact in await shop.journal(project) if fact.reason == "requested")
    recharge_id = json.loads(requested.metadata)["id"]
    await shop.decide(SettleRecharge, project, recharge_id=recharge_id, is_paid=False, reference="", detail="by hand")
    await shop.settled(project, ["on", "requested", "failed"])


def test_what_was_ended_by_hand_is_asked_for_no_more(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cashier_module, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(cashier_module, "PAUSE_SECONDS_MAX", 0.1)

    async def scenario(shop: Shop) -> None:
        shop.till.troubles["never_1"] = ["before"] * 1_000
        async with shop.open() as cashier:
            project = await shop.low_customer("never_1")
            await until(lambda: at_once(cashier.unknown >= 2))
            await fail_by_hand(shop, project)
            await until(lambda: at_once(cashier.waiting == 0))
            await asyncio.sleep(0.3)
            asked = len(shop.till.asked)
            await asyncio.sleep(0.5)
            assert len(shop.till.asked) == asked

    run(worker, scenario)


def test_money_that_was_taken_for_what_had_ended_is_reported(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(shop: Shop) -> None:
        shop.till.troubles["waits_1"] = ["waits"]
        async with shop.open() as cashier:
            project = await shop.low_customer("waits_1")
            await until(lambda: at_once(shop.bought(project)))
            await fail_by_hand(shop, project)
            await until(lambda: at_once(cashier.waiting == 0))
            shop.till.go.set()
            await until(lambda: at_once("recharge_settled" in caplog.text))
        assert await shop.trail(project) == ["on", "requested", "failed"]
        (told,) = [each.getMessage() for each in caplog.records if "recharge_settled" in each.getMessage()]
        assert project in told and "was paid (local-" in told and "refund it" in told

    run(worker, scenario)


def test_a_decision_that_does_not_come_is_waited_for_without_buying_again(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        project = await shop.low_customer()
        await asyncio.to_thread(worker.stop)
        async with shop.open():
            try:
                await until(lambda: at_once(shop.till.asked))
                await asyncio.sleep(shop.settings.reply_timeout_seconds + 1)
            finally:
                worker.start()
            await shop.settled(project, ["on", "requested", "top_up"])
        assert [each.project for each in shop.till.asked] == [project]

    run(worker, scenario)


def test_a_batch_that_the_owner_repeats_buys_nothing_more(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        async with shop.open():
            project = await shop.low_customer()
            await shop.settled(project, ["on", "requested", "top_up"])
            value = next(value for _, value, fact in await shop.journal(project) if fact.reason == "requested")
            partition = partition_of(project, 2)
            await shop.publisher.send_all(topics_of(shop.settings).journal, partition, [(None, value)])
            while True:
                other = await shop.low_customer()
                await shop.settled(other, ["on", "requested", "top_up"])
                if partition_of(other, 2) == partition:
                    break
        assert [each.project for each in shop.till.asked].count(project) == 1

    run(worker, scenario)


def test_a_cashier_that_forgot_its_place_asks_for_nothing_that_has_ended(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This cashier reads slowly, and never a request together with its end.
    monkeypatch.setattr(cashier_module, "_RECORDS_MAX", 1)
    step = Cashier._step

    async def slow_step(self: Cashier, consumer: AIOKafkaConsumer) -> None:
        await step(self, consumer)
        await asyncio.sleep(0.02)

    monkeypatch.setattr(Cashier, "_step", slow_step)

    async def scenario(shop: Shop) -> None:
        async with shop.open():
            paid, declined = await shop.low_customer(), await shop.low_customer("declined_2")
            await shop.settled(paid, ["on", "requested", "top_up"])
            await shop.settled(declined, ["on", "requested", "failed"])
        assert set((await shop.offsets(move_to=0)).values()) == {0}
        shop.till.asked.clear()
        async with shop.open():
            fresh = await shop.low_customer()
            await shop.settled(fresh, ["on", "requested", "top_up"])
        assert [each.project for each in shop.till.asked] == [fresh]

    run(worker, scenario)


def test_two_cashiers_share_the_work_and_buy_once(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        async with shop.open() as one:
            customers = [await shop.low_customer() for _ in range(3)]
            async with shop.open() as other:
                customers += [await shop.low_customer() for _ in range(6)]
                for project in customers:
                    await shop.settled(project, ["on", "requested", "top_up"])
            customers += [await shop.low_customer() for _ in range(3)]
            for project in customers:
                await shop.settled(project, ["on", "requested", "top_up"])
        assert [shop.bought(project) for project in customers] == [[2_000]] * 12
        assert one.paid > 0 and one.paid + other.paid <= 12

    run(worker, scenario)


def test_one_that_stops_while_it_joins_does_not_hold_up_the_others(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        async with shop.open():
            first = await shop.low_customer()
            await shop.settled(first, ["on", "requested", "top_up"])
            for steps in range(10):
                async with shop.open():
                    await asyncio.sleep(0.03 * steps)
            second = await shop.low_customer()
            await asyncio.wait_for(shop.settled(second, ["on", "requested", "top_up"]), 20)
            # Not by its own count: a change of the group may cut off the reply to it, not the purchase.
            assert [shop.bought(each) for each in (first, second)] == [[2_000]] * 2

    run(worker, scenario)


def test_it_ends_once_no_command_can_be_sent(worker: Worker) -> None:
    async def scenario(shop: Shop) -> None:
        cashier = Cashier(shop.settings, shop.till, shop.publisher, shop.commands)
        running = asyncio.create_task(cashier.run())
        await asyncio.sleep(0.5)
        assert not running.done()
        await shop.publisher.stop()
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(running, 20)

    run(worker, scenario)
