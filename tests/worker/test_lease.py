"""The lease is valid while heartbeats are answered; a worker that was paused past it exits and writes nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.stack import Stack
from schemas.replies import Reply
from streams.clickhouse.client import ClickHouse
from streams.core.marks import Claim
from streams.core.projects import new_project
from streams.kafka.codecs import encode_account
from streams.kafka.topics import topics_of
from streams.reconcile.verify import verify
from streams.settings import Settings
from streams.worker.agents import Owner
from streams.worker.batches import work
from streams.worker.decider import Decided, Decider, KeptRows
from streams.worker.lease import AssignmentEndedError, Lease, LeaseLostError
from tests.calls import Operator, eventually
from tests.core.builders import create_project


class ClockedLease(Lease):
    """A lease by a clock that is set by hand."""

    at = 1000.0

    def now(self) -> float:  # type: ignore[override]
        return self.at


def test_a_new_lease_is_not_valid() -> None:
    with pytest.raises(AssignmentEndedError):
        Lease(10).check(1)


def test_it_counts_from_when_the_heartbeat_was_sent() -> None:
    lease = ClockedLease(9)
    lease.assign(1)
    lease.at += 6
    lease.check(1)
    lease.renew(lease.at - 5)
    lease.at += 1
    lease.check(1)
    lease.renew(lease.at - 100)  # a late answer to an older one takes nothing back
    lease.check(1)
    lease.at += 1
    with pytest.raises(LeaseLostError, match=r"7\.0 s ago, 6\.0 s are allowed"):
        lease.check(1)


def test_it_holds_for_one_assignment() -> None:
    lease = Lease(9)
    lease.assign(3)
    lease.check(3)
    lease.revoke()
    lease.renew(lease.now())
    with pytest.raises(AssignmentEndedError, match="generation 3"):
        lease.check(3)
    lease.assign(4)
    lease.check(4)
    with pytest.raises(AssignmentEndedError, match="generation 3"):
        lease.check(3)


class Log:
    """A log in place of the brokers: it notes the topics that are written to, and runs `meanwhile` during a write."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self.written: list[str] = []
        self._meanwhile = meanwhile

    async def send_all(self, topic: str, partition: int, records: Iterable[object]) -> int:
        if list(records):
            self.written.append(topic)
            await self._meanwhile()
        return 7


def owner_with(lease: Lease, log: Log) -> tuple[Owner, list[str]]:
    """An owner that has decided something already, and a list of what it forgets."""
    opening = create_project()
    decided = Decided(
        journal=[(None, b"facts")],
        seen={b"e" * 16: Claim(0)},
        values=[(b"p1", encode_account(new_project(opening, 0, 1000)))],
        kept_rows=KeptRows([(b"k" * 16, b"reply")], [(b"r" * 16, b"reply")]),
        replies=[(opening, Reply(201, "", "", 0, 0, ""))],
    )
    parts: Any = (log, None, lease, lambda _partition: None)
    owner = Owner(Settings(), topics_of(Settings()), *parts)
    forgotten: list[str] = []
    owner.decider = cast(
        Decider, SimpleNamespace(decide=lambda *_: decided, forget=lambda: forgotten.append("what was decided"))
    )
    return owner, forgotten


TOPICS = topics_of(Settings())
FACTS = sorted([TOPICS.journal, TOPICS.seen_changelog, TOPICS.replies_changelog, TOPICS.recent_replies_changelog])


def message(generation: int = 1, offset: int = 0) -> Any:
    return SimpleNamespace(partition=0, timestamp=1.0, offset=offset, generation_id=generation)


@pytest.mark.asyncio
async def test_a_pause_between_the_facts_and_the_accounts_is_noticed() -> None:
    """A regression that the simulation found: a worker that woke late overwrote its successor's accounts."""
    lease, log = Lease(0.3), Log(lambda: asyncio.sleep(0.4))
    owner, forgotten = owner_with(lease, log)
    lease.assign(1)
    with pytest.raises(LeaseLostError):
        await owner._apply_day([message()])
    assert sorted(log.written) == FACTS
    assert forgotten


@pytest.mark.asyncio
async def test_a_rebalance_between_the_facts_and_the_accounts_is_noticed() -> None:
    """A regression that the simulation found: a partition moved to another worker in the middle of a batch, and its old
    owner wrote accounts that were older than the new owner's."""
    lease = Lease(60)

    async def rebalance() -> None:
        lease.revoke()
        lease.assign(2)

    log = Log(rebalance)
    owner, forgotten = owner_with(lease, log)
    lease.assign(1)
    with pytest.raises(AssignmentEndedError):
        await owner.apply([SimpleNamespace(message=message())])
    assert sorted(log.written) == FACTS
    assert forgotten


@pytest.mark.asyncio
async def test_what_is_let_go_is_not_acknowledged_and_work_goes_on() -> None:
    acknowledged: list[int] = []

    class Event:
        def __init__(self, number: int, generation: int) -> None:
            self.number, self.message = number, message(generation, number)

        def ack(self) -> None:
            acknowledged.append(self.number)

    class Stream:
        def noack(self) -> "Stream":
            return self

        async def events(self) -> AsyncIterator[Event]:
            for event in (Event(0, 1), Event(1, 1), Event(2, 2)):
                yield event

    async def apply(events: list[Any]) -> None:
        if events[0].message.generation_id == 1:
            raise AssignmentEndedError("it has")

    await work(Stream(), 1, lambda _event: True, apply)
    assert acknowledged == [2]


def test_a_worker_that_was_paused_past_its_session_exits_and_its_successor_decides(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(api_port=0, clickhouse_front_port=0)
    with Stack(settings, workers=2) as stack:
        operator = Operator(stack)
        customers = [operator.customer("hobby") for _ in range(6)]
        for _, client in customers:
            assert client.post("/v1/admissions", json={"operation": "image"}).status_code == 200
        paused = stack.pids()["worker-1"]

        def all_charged(key: str) -> bool:
            headers = {"idempotency-key": key}
            answers = [c.post("/v1/admissions", json={"operation": "image"}, headers=headers) for _, c in customers]
            return all(answer.status_code == 200 for answer in answers)

        os.kill(paused, signal.SIGSTOP)
        eventually(lambda: all_charged("while it is paused"), 60)
        os.kill(paused, signal.SIGCONT)
        eventually(lambda: all_charged("after it woke"), 60)
        for _, client in customers:
            balance = client.get("/v1/balance").json()
            assert balance["available"] == str(5_000 - 3 * 32)
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        clickhouse = ClickHouse(live)
        assert asyncio.run(verify(live, clickhouse)).ok
        clickhouse.close()
