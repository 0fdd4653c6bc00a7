"""The lease: valid while heartbeats are answered; a worker that was paused past it exits and writes nothing."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.stack import Stack
from schemas.ledger import Reply
from streams.agents import Decided, Decider, Owner
from streams.clickhouse import ClickHouse
from streams.core.projects import new_project
from streams.lease import Lease, LeaseLostError
from streams.settings import Settings
from streams.topics import topics_of
from streams.verify import verify
from tests.client import Operator, eventually
from tests.core.builders import create_project


def test_a_new_lease_is_not_valid() -> None:
    with pytest.raises(LeaseLostError):
        Lease(10).check()


def test_it_counts_from_when_the_heartbeat_was_sent() -> None:
    lease = Lease(9)
    lease.renew(lease.now() - 5)
    lease.check()
    lease.renew(lease.now() - 100)  # a late answer to an older one takes nothing back
    lease.check()
    old = Lease(9)
    old.renew(old.now() - 7)
    with pytest.raises(LeaseLostError, match=r"7\.0 s ago, 6\.0 s are allowed"):
        old.check()


@pytest.mark.asyncio
async def test_a_pause_between_the_facts_and_the_accounts_is_noticed() -> None:
    """Found by the simulation: accounts of a worker that woke late took the place of its successor's."""
    lease = Lease(0.3)
    topics = topics_of(Settings())
    written = []

    class Paused:
        async def send_all(self, topic: str, partition: int, records: Iterable[object]) -> int:
            if list(records):
                written.append(topic)
                await asyncio.sleep(0.4)
            return 7

    opening = create_project()
    decided = Decided(
        journal=[(None, b"facts")],
        seen={b"e" * 16: 0},
        accounts={"p1": new_project(opening, 0, 1000)},
        replies=[(opening, Reply(201, "", "", 0, 0, ""))],
    )
    parts: Any = (Paused(), None, None, lease, lambda _partition: None)
    owner = Owner(Settings(), topics, *parts)
    forgotten = []
    owner.decider = cast(
        Decider, SimpleNamespace(decide=lambda *_: decided, forget=lambda: forgotten.append("what was decided"))
    )
    lease.renew(lease.now())
    lease.check()
    with pytest.raises(LeaseLostError):
        await owner._apply_day([SimpleNamespace(partition=0, timestamp=1.0, offset=0)])
    assert sorted(written) == sorted([topics.journal, topics.seen_changelog])
    assert forgotten


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
