"""The courier, on the real broker, with a real worker and a real receiver: every notice arrives, whatever fails."""

import asyncio
import shutil
import signal
import subprocess
import sys
import time

import pytest
from standardwebhooks import Webhook

from schemas.commands import ChangePlan, DeleteEndpoint, PutEndpoint, ReplayNotices, TestEndpoint
from streams.core.endpoints import PLATFORM_ID
from streams.courier import kept, schedule
from streams.courier.deliverer import LOOK_SECONDS
from streams.courier.signatures import secret_of
from streams.kafka.clock import now_ms
from streams.settings import PROJECT_ROOT
from tests.cashier.test_purchases import Worker, at_once, until
from tests.core.builders import CREDIT
from tests.courier.post import KEY, Post, run
from tests.courier.receiver import HANGS_UP

pytestmark = pytest.mark.usefixtures("short_pauses")


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
            for each in (all_of_it, plans):
                await post.arrived(each, ["webhook.test", "plan.changed", "plan.changed"])
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


def test_who_hangs_up_as_a_notice_comes_gets_it_again_at_once_and_is_billed_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as a busy machine may take for the next notice.
    monkeypatch.setattr(kept, "IDLE_SECONDS_MAX", 60.0)

    async def scenario(post: Post) -> None:
        project = await post.customer()
        async with post.open() as courier:
            endpoint_id = await post.endpoint(project, is_ordered=True)
            await post.arrived(endpoint_id, ["webhook.test"])
            await until(lambda: at_once(not courier.deliverer.waiting))
            post.receiver.plans[f"/{endpoint_id}"] = [HANGS_UP]
            await post.decide(ChangePlan, project, plan="hobby", contract_allowance=0)
            await post.arrived(endpoint_id, ["webhook.test", "plan.changed", "plan.changed"])
            await until(lambda: at_once(not courier.deliverer.waiting))
            assert courier.deliverer.attempts == {"delivered": 2}
        _, first, again = [name for name, _ in post.got(endpoint_id)]
        assert first == again
        assert [(each.number, each.status) for each in await post.attempts(endpoint_id)] == [(1, 200), (1, 200)]
        assert await post.billed(endpoint_id) == []

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
