"""Couriers that share partitions: what one leaves another takes over, and one that was paused does not disturb it. And
slow endpoints, however many, hold up no others."""

import asyncio
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from schemas.commands import ChangePlan, TestEndpoint
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from streams.core.endpoints import PLATFORM_ID
from streams.courier.courier import Courier
from streams.courier.deliverer import FLYING_MAX
from streams.kafka.clock import now_ms
from streams.kafka.topics import partition_of
from streams.state.accounts_view import AccountsView
from streams.state.price_broadcast import PriceBroadcast
from tests.cashier.test_purchases import Worker, at_once, until
from tests.core.builders import CREDIT
from tests.courier.post import Post, run

pytestmark = pytest.mark.usefixtures("short_pauses")


async def in_each_partition(post: Post, count: int, **values: Any) -> dict[str, str]:
    """So many projects of each partition, each with an endpoint of these values: its id by its project's."""
    made: dict[str, str] = {}
    counts: Counter[int] = Counter()
    while min(counts[number] for number in range(post.settings.partitions)) < count:
        project = await post.customer()
        number = partition_of(project, post.settings.partitions)
        if counts[number] < count:
            counts[number] += 1
            made[project] = await post.endpoint(project, **values)
    return made


async def change(post: Post, projects: dict[str, str], plan: str) -> None:
    await asyncio.gather(*(post.decide(ChangePlan, each, plan=plan, contract_allowance=0) for each in projects))


def taken(post: Post, endpoint_id: str) -> dict[str, str]:
    """The notices that came at an endpoint, each once, in order: its type by its id."""
    return dict(post.got(endpoint_id))


def test_a_courier_that_is_killed_leaves_its_partitions_to_the_other(worker: Worker) -> None:
    async def scenario(post: Post) -> None:
        with post.beside("one") as one, post.beside("two") as two:
            await until(lambda: one.has(1))
            await until(lambda: two.has(1))
            made = await in_each_partition(post, 3)
            await until(lambda: at_once(all(len(post.got(each)) == 1 for each in made.values())))
            for each in made.values():
                post.receiver.seconds[f"/{each}"] = 0.2
                post.receiver.plans[f"/{each}"] = [500, 500]
            before = len(post.receiver.receipts)
            for plan in ("hobby", "build"):
                await change(post, made, plan)
            # In the midst of deliveries.
            await until(lambda: at_once(len(post.receiver.receipts) > before + 3))
            one.signal(signal.SIGKILL)
            await until(lambda: two.has(2))
            await until(lambda: at_once(all(len(taken(post, each)) == 3 for each in made.values())))
            await until(two.is_done)
            attempts = [await post.attempts(each) for each in made.values()]
            for reports, endpoint_id in zip(attempts, made.values(), strict=True):
                delivered = Counter(each.notice_id for each in reports if each.is_delivered)
                assert sorted(delivered) == sorted(taken(post, endpoint_id))
                billed = [name for name, _ in await post.billed(endpoint_id)]
                assert len(billed) == len(set(billed))
                assert {each.id for each in reports if each.is_billed} == set(billed)
            # One that comes back gets some of them, and what was delivered is known to whoever has it.
            with post.beside("one") as again:
                await until(lambda: again.has(1))
                await until(lambda: two.has(1))
                before = len(post.receiver.receipts)
                await change(post, made, "scale")
                await until(lambda: at_once(all(len(taken(post, each)) == 4 for each in made.values())))
                await until(again.is_done)
                await until(two.is_done)
                known = {each.notice_id for each in post.receiver.receipts[:before]}
                assert not known & {each.notice_id for each in post.receiver.receipts[before:]}

    run(worker, scenario)


def test_a_courier_that_was_paused_past_its_session_sends_and_writes_nothing_of_what_another_has_done(
    worker: Worker,
) -> None:
    async def scenario(post: Post) -> None:
        with post.beside("one") as one:
            await until(lambda: one.has(2))
            made = await in_each_partition(post, 2)
            await until(lambda: at_once(all(len(post.got(each)) == 1 for each in made.values())))
            await until(one.is_done)
            for each in made.values():
                # Its answer comes while the courier is paused.
                post.receiver.seconds[f"/{each}"] = 1.0
                post.receiver.plans[f"/{each}"] = [500, 500]
            await change(post, made, "hobby")
            await until(lambda: at_once(all(len(post.got(each)) == 2 for each in made.values())))
            one.signal(signal.SIGSTOP)
            with post.beside("two") as two:
                await until(lambda: two.has(2))
                # The attempt is made again, as nobody noted it; it fails, and then succeeds.
                await until(lambda: at_once(all(len(post.got(each)) == 4 for each in made.values())))
                await until(two.is_done)
                post.receiver.seconds.clear()
                one.signal(signal.SIGCONT)
                await until(lambda: one.has(1))
                await until(lambda: two.has(1))
                await change(post, made, "build")
                await until(lambda: at_once(all(len(post.got(each)) == 5 for each in made.values())))
                await until(one.is_done)
                await until(two.is_done)
        for endpoint_id in made.values():
            _, first, again, retry, last = [name for name, _ in post.got(endpoint_id)]
            assert first == again == retry != last
            reports = [each for each in await post.attempts(endpoint_id) if each.notice_id == first]
            assert [(each.number, each.status) for each in reports] == [(1, 500), (2, 200)]
            assert await post.billed(endpoint_id) == [(f"{endpoint_id}.{first}.2", CREDIT // 50)]
        # Whoever reads their state anew has nothing to send.
        shutil.rmtree(post.settings.courier_dir, ignore_errors=True)
        async with post.open() as courier:
            await until(lambda: at_once(len(courier.partitions) == 2 and not courier.behind))
            assert courier.deliverer.waiting == 0
        assert all(len(post.got(each)) == 5 for each in made.values())

    run(worker, scenario)


def test_a_price_book_is_told_once_to_each_endpoint_that_asks_for_it(worker: Worker) -> None:
    async def scenario(post: Post) -> None:
        accounts = AccountsView(post.settings, post.settings.data_dir / "prices")
        await accounts.start()
        try:
            with post.beside("one") as one, post.beside("two") as two:
                await until(lambda: one.has(1))
                await until(lambda: two.has(1))
                # In order: what came before the last one has come.
                made = await in_each_partition(post, 2, is_ordered=True)
                deaf = await post.endpoint(next(iter(made)), event_types=["plan.*"], is_ordered=True)
                platform = await post.endpoint(PLATFORM_ID, event_types=["price.announced"])
                hears = [*made.values(), platform]
                await until(lambda: at_once(all(post.got(each) for each in [*hears, deaf])))
                await until(lambda: at_once(accounts.is_ready))
                rates, required = FIRST_PRICE_BOOK.rates | {"op.new": CREDIT}, FIRST_PRICE_BOOK.plan_required
                book = PriceBook("2027-01", now_ms() + 1, rates, required, {}, now_ms())
                await PriceBroadcast(post.commands, accounts, post.settings.partitions).announce(book, "")
                await until(lambda: at_once(all(len(taken(post, each)) == 2 for each in hears)))
                await change(post, made, "hobby")
                told = ["webhook.test", "price.announced", "plan.changed"]
                await until(lambda: at_once(all(len(taken(post, each)) == 3 for each in made.values())))
                await until(lambda: at_once(len(taken(post, deaf)) == 2))
            for each in made.values():
                assert list(taken(post, each).values()) == told
            assert list(taken(post, platform).values()) == told[:2]
            assert list(taken(post, deaf).values()) == [told[0], told[2]]
        finally:
            await accounts.stop()

    run(worker, scenario)


def waiting_for(courier: Courier, endpoints: Iterable[str]) -> int:
    """How many deliveries to these endpoints wait."""
    deliverer = courier.deliverer
    return sum(deliverer.waiting_for(desk, each) for desk in deliverer.desks.values() for each in endpoints)


def test_a_hundred_endpoints_that_do_not_answer_hold_up_no_other(worker: Worker) -> None:
    async def scenario(post: Post) -> None:
        projects = await asyncio.gather(*(post.customer() for _ in range(13)))
        async with post.open() as courier:
            good_project = await post.customer()
            good = await post.endpoint(good_project)
            slow = [each for project in projects for each in [project] * 8]
            endpoints = await asyncio.gather(*map(post.endpoint, slow))
            await until(lambda: at_once(all(post.got(each) for each in [*endpoints, good])))
            # Endpoints of the tests before, whose receivers are gone, have some that wait for long.
            await until(lambda: at_once(not waiting_for(courier, endpoints)))
            for each in endpoints:
                post.receiver.seconds[f"/{each}"] = 60.0
            # More notices than a courier has places for.
            for _ in range(12):
                owned = zip(slow, endpoints, strict=True)
                await asyncio.gather(*(post.decide(TestEndpoint, one, endpoint_id=each) for one, each in owned))
            await until(lambda: at_once(waiting_for(courier, endpoints) > FLYING_MAX))
            waits = []
            for number in range(10):
                began_at = time.monotonic()
                await post.decide(TestEndpoint, good_project, endpoint_id=good)
                await until(lambda count=number + 2: at_once(len(post.got(good)) == count))  # type: ignore[misc]
                waits.append(time.monotonic() - began_at)
            # A slow one's attempt takes 15 seconds.
            assert sorted(waits)[5] < 1.0 and max(waits) < 5.0, waits
            assert waiting_for(courier, endpoints) > FLYING_MAX

    run(worker, scenario)
