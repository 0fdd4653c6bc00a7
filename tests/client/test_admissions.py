"""The admission clients on the whole stack: both ways give the same decisions, and no decision is an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal

import pytest

from api.stack import Stack
from schemas.prices import FIRST_PRICE_BOOK
from streams.client.admissions import Admissions, MeterlineAway
from streams.client.http_admissions import HttpAdmissions
from streams.client.kafka_admissions import KafkaAdmissions
from streams.kafka.topic_creation import create_topics
from streams.settings import Settings
from tests.calls import Operator, event, eventually

Connect = Callable[[], AbstractAsyncContextManager[Admissions]]


@pytest.fixture(params=["kafka", "http"])
def connect(request: pytest.FixtureRequest, stack: Stack) -> Connect:
    """A function that makes an admission client: by Kafka in one run, by HTTP in the other."""
    if request.param == "kafka":
        return lambda: KafkaAdmissions(stack.settings, api_url=stack.url)
    return lambda: HttpAdmissions(stack.url, stack.admin_key)


def available(operator: Operator, project: str, min_offset: int = 0) -> str:
    asked = {"project": project, "min_offset": min_offset}
    return operator.http.get("/v1/balance", params=asked).json()["available"]


def test_a_request_is_charged_refused_and_says_how_the_window_stands(operator: Operator, connect: Connect) -> None:
    project = operator.project()

    async def scenario() -> int:
        async with connect() as admissions:
            charged = await admissions.admit(project, "website", id="1", source="/t", metadata={"customer_id": "c"})
            assert (charged.allowed, charged.status, charged.code) == (True, 200, "")
            assert (charged.project, charged.operation) == (project, "website")
            assert (charged.credits, charged.available) == (Decimal(240), Decimal(10))
            headers = charged.headers()
            assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("30", "29")
            assert "Retry-After" not in headers
            refused = await admissions.admit(project, "image", id="2", source="/t")
            assert (refused.allowed, refused.status, refused.code) == (False, 402, "out_of_credits")
            assert refused.detail == "image costs 32 credits; 10 are available"
            assert refused.available == Decimal(10)
            gated = await admissions.admit(project, "video", id="3", source="/t", tier="premium")
            assert (gated.status, gated.code) == (402, "plan_required")
            return charged.offset

    offset = asyncio.run(scenario())
    assert available(operator, project, offset) == "10"


def test_the_event_of_an_admission_is_not_billed_again(operator: Operator, connect: Connect) -> None:
    project = operator.project()

    async def scenario() -> None:
        async with connect() as admissions:
            await admissions.admit(project, "image", id="e1", source="/tests")
            again = await admissions.admit(project, "image", id="e1", source="/tests")
            assert (again.allowed, again.already_decided, again.credits) == (True, True, 0)

    asyncio.run(scenario())
    operator.http.post("/v1/events", json=event(project, "e1", "image"))
    operator.http.post("/v1/events", json=event(project, "e2", "image"))
    eventually(lambda: available(operator, project) == "186")


def test_a_hold_is_captured_in_part_or_released_and_a_repeat_gets_the_same_answer(
    operator: Operator, connect: Connect
) -> None:
    project = operator.project()

    async def scenario() -> None:
        async with connect() as admissions:
            held = await admissions.admit(project, "website", id="j1", source="/t", hold=True, hold_seconds=60)
            assert held.hold_id
            assert held.available == Decimal(10)
            extended = await admissions.extend(project, held.hold_id, 120)
            assert extended.allowed
            captured = await admissions.capture(project, held.hold_id, Decimal(100))
            assert (captured.credits, captured.available) == (Decimal(100), Decimal(150))
            assert await admissions.capture(project, held.hold_id, Decimal(100)) == captured
            gone = await admissions.release(project, held.hold_id)
            assert (gone.status, gone.code) == (404, "unknown_hold")
            held = await admissions.admit(project, "image", id="j2", source="/t", hold=True)
            released = await admissions.release(project, held.hold_id, "upstream timed out")
            assert released.available == Decimal(150)

    asyncio.run(scenario())


def test_an_idempotency_key_gets_the_first_answer(operator: Operator, connect: Connect) -> None:
    project = operator.project()

    async def scenario() -> None:
        async with connect() as admissions:
            first = await admissions.admit(project, "image", id="k", source="/t", idempotency_key="k1")
            again = await admissions.admit(project, "image", id="k", source="/t", idempotency_key="k1")
            assert (again.entry_id, again.offset, again.credits) == (first.entry_id, first.offset, first.credits)
            assert not again.already_decided
            other = await admissions.admit(project, "website", id="k", source="/t", idempotency_key="k1")
            assert (other.status, other.code) == (409, "idempotency_key_reused")

    asyncio.run(scenario())


def test_a_full_window_is_a_429_with_retry_after(operator: Operator, connect: Connect) -> None:
    project = operator.project()

    async def scenario() -> None:
        async with connect() as admissions:
            decisions = await asyncio.gather(
                *(admissions.admit(project, "read", id=f"r{number}", source="/t") for number in range(70))
            )
            limited = [each for each in decisions if not each.allowed]
            assert (len(decisions) - len(limited), {each.status for each in limited}) == (60, {429})
            headers = limited[0].headers()
            assert headers["X-RateLimit-Remaining"] == "0"
            assert 0 < int(headers["Retry-After"]) <= 60

    asyncio.run(scenario())


def test_a_repeat_under_a_key_is_a_request_with_the_answer_of_the_first(operator: Operator, connect: Connect) -> None:
    project = operator.project()

    async def scenario() -> int:
        async with connect() as admissions:
            decisions = [
                await admissions.admit(project, "image", id="1", source="/t", idempotency_key="k") for _ in range(62)
            ]
            assert [each.status for each in decisions] == [200] * 60 + [429] * 2
            assert len({each.entry_id for each in decisions[:60]}) == 1
            assert [each.rate.remaining for each in decisions[:31] if each.rate] == [*range(29, -1, -1), 0]
            assert decisions[61].headers()["Retry-After"] in [str(seconds) for seconds in range(1, 61)]
            return max(each.offset for each in decisions)

    offset = asyncio.run(scenario())
    assert available(operator, project, offset) == "218"


def test_what_only_meterline_can_tell_to_be_wrong_is_a_decision(operator: Operator, connect: Connect) -> None:
    project = operator.project()

    async def scenario() -> None:
        async with connect() as admissions:
            unknown = await admissions.admit(project, "hologram", id="h", source="/t")
            assert (unknown.status, unknown.code) == (422, "unknown_operation")
            nobody = await admissions.admit("nobody", "image", id="n", source="/t")
            assert (nobody.status, nobody.code) == (404, "unknown_project")

    asyncio.run(scenario())


def test_the_prices_are_those_in_force(stack: Stack, connect: Connect) -> None:
    async def scenario() -> None:
        async with connect() as admissions:
            prices = await admissions.prices()
            assert prices.keys() >= FIRST_PRICE_BOOK.rates.keys()
            assert (prices["image"], prices["webhook.delivery"]) == (Decimal(32), Decimal("0.02"))
            book = await admissions._price_book()
            assert book.plan_required["video.premium"] == "build"
            assert await admissions._price_book() is book

    asyncio.run(scenario())


def test_whoever_is_not_there_is_away(stack: Stack, settings_for: Callable[..., Settings]) -> None:
    nowhere = settings_for(kafka_url="127.0.0.1:1")
    nobody_decides = settings_for(kafka_url=stack.settings.kafka_url, reply_timeout_seconds=0.5)

    async def scenario() -> None:
        await create_topics(nobody_decides)
        for away in (
            KafkaAdmissions(nowhere),
            KafkaAdmissions(nobody_decides),
            HttpAdmissions("http://127.0.0.1:1", "k"),
            HttpAdmissions(stack.url, "mtl_live_ghost.secret"),
        ):
            async with away as admissions:
                with pytest.raises(MeterlineAway) as away:
                    await admissions.admit("p", "image", id="1", source="/t")
                assert (away.value.source, away.value.id, away.value.hold_id) == ("/t", "1", "")
                assert str(away.value).endswith(" (event '1' of source '/t')")
                with pytest.raises(MeterlineAway, match=r" \(hold 0-1-0\)$") as away:
                    await admissions.capture("p", "0-1-0")
                assert away.value.hold_id == "0-1-0"

    asyncio.run(scenario())
