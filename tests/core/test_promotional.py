"""Promotional grants: an operator gives credits with a reason and an end; they burn down by their end, and end by
themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.commands import (
    CaptureHold,
    CloseProject,
    GrantPromotional,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    SetItem,
)
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.times import DAY_MS
from streams.core.booking import available
from streams.core.grants import PROMOTIONAL_DAYS_MAX, PROMOTIONAL_GRANTS_MAX
from streams.core.ledger import reschedule
from streams.core.price_list import Prices
from tests.core.builders import CREDIT, START_MS, untold
from tests.core.test_ledger import Bench

DAYS_MAX_MS = PROMOTIONAL_DAYS_MAX * DAY_MS


def give(bench: Bench, credits: int = 100, lasts_ms: int = DAY_MS, at_ms: int = START_MS, **changes: Any):
    terms = {"environment": "production", "amount": credits * CREDIT, "reason": "sorry"}
    return bench.do(GrantPromotional, at_ms, **terms | {"expires_at_ms": at_ms + lasts_ms} | changes)


def left(bench: Bench) -> list[tuple[str, int]]:
    return [(grant.kind, grant.remaining // CREDIT) for grant in bench.account.grants]


def test_it_is_granted_with_its_reason_and_its_end_and_costs_nothing() -> None:
    bench = Bench()
    reply = give(bench, 100)
    assert (reply.status, reply.amount, reply.available) == (200, 100 * CREDIT, 350 * CREDIT)
    fact = bench.facts[-1]
    assert (fact.kind, fact.reason, fact.amount, fact.cents) == ("grant", "promotional", 100 * CREDIT, 0)
    assert json.loads(fact.metadata) == {"reason": "sorry", "expires_at_ms": START_MS + DAY_MS}
    assert fact.grant_id == f"promotional-{bench.offset}-0" == bench.grant("promotional").id
    assert bench.entries_sum() == available(bench.account, "production")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": -1}, "amount"),
        ({"amount": 10_000_000 * CREDIT + 1}, "amount"),
        ({"reason": ""}, "reason"),
        ({"reason": " \t\xa0"}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"expires_at_ms": START_MS}, "expires_at"),
        ({"expires_at_ms": START_MS - 1}, "expires_at"),
        ({"expires_at_ms": 0}, "expires_at"),
        ({"expires_at_ms": START_MS + DAYS_MAX_MS + 1}, "expires_at"),
    ],
)
def test_what_is_out_of_its_bounds_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    bench = Bench()
    before = len(bench.facts)
    reply = give(bench, **changes)
    assert (reply.code, reply.field, len(bench.facts)) == ("invalid_request", field, before)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 1},
        {"amount": 10_000_000 * CREDIT},
        {"reason": "x" * 200},
        {"expires_at_ms": START_MS + 1},
        {"expires_at_ms": START_MS + DAYS_MAX_MS},
    ],
)
def test_what_is_at_its_bounds_is_given(changes: dict[str, Any]) -> None:
    assert give(Bench(), **changes).status == 200


def test_a_closed_project_is_given_nothing() -> None:
    bench = Bench()
    bench.do(CloseProject, reason="")
    assert give(bench).code == "project_closed"
    bench.do(ReopenProject)
    assert give(bench).status == 200


def test_a_project_has_so_many_at_once_and_room_again_once_some_have_ended() -> None:
    bench = Bench()
    for _ in range(PROMOTIONAL_GRANTS_MAX):
        assert give(bench, 1).status == 200
    assert give(bench, 1).code == "invalid_request"
    assert give(bench, 1, at_ms=START_MS + DAY_MS).status == 200


def test_burn_down_is_allowance_then_promotional_by_their_end_then_bundles() -> None:
    bench = Bench()
    bench.top_up(20)
    give(bench, 30, 20 * DAY_MS)
    give(bench, 20, 5 * DAY_MS)
    give(bench, 10, 9 * DAY_MS)
    order = [(grant.kind, grant.granted // CREDIT) for grant in bench.account.grants]
    assert order == [
        ("allowance", 250),
        ("promotional", 20),
        ("promotional", 10),
        ("promotional", 30),
        ("top_up", 4_000),
    ]
    bench.charge("chat.message", 250 + 20 + 10 + 5)
    drawn = [(grant.kind, grant.remaining // CREDIT) for grant in bench.account.grants if grant.remaining]
    assert drawn == [("promotional", 25), ("top_up", 4_000)]


def test_an_environment_spends_its_own() -> None:
    bench = Bench()
    give(bench, 40, environment="preview")
    assert (available(bench.account, "preview"), available(bench.account, "production")) == (40 * CREDIT, 250 * CREDIT)
    assert bench.charge("image", environment="preview").status == 200
    assert bench.charge("image", environment="preview").code == "out_of_credits"


def test_what_is_left_at_the_end_expires_at_that_very_time() -> None:
    bench = Bench()
    give(bench, 100, DAY_MS)
    bench.charge("chat.message", 290)
    bench.booking(START_MS + DAY_MS - 1)
    assert available(bench.account, "production") == 60 * CREDIT
    bench.booking(START_MS + 3 * DAY_MS)
    fact = untold(bench.facts)[-1]
    assert (fact.kind, fact.reason, fact.amount) == ("expiry", "promotional", -60 * CREDIT)
    assert (fact.occurred_at_ms, fact.booked_at_ms) == (START_MS + DAY_MS, START_MS + 3 * DAY_MS)
    assert available(bench.account, "production") == bench.entries_sum() == 0


def test_an_account_is_due_when_the_next_grant_ends() -> None:
    bench = Bench()
    for lasts_ms in (9 * DAY_MS, 2 * DAY_MS, 400 * DAY_MS):
        give(bench, 1, lasts_ms)
    for due_at_ms in (START_MS + 2 * DAY_MS, START_MS + 9 * DAY_MS, bench.account.renews_at_ms):
        reschedule(bench.account)
        assert bench.account.due_at_ms == due_at_ms
        bench.booking(due_at_ms)
    reschedule(bench.account)
    assert bench.account.due_at_ms == bench.account.renews_at_ms


def test_a_grant_outlives_the_months_that_it_spans() -> None:
    bench = Bench()
    give(bench, 100, 70 * DAY_MS)
    for _ in range(2):
        bench.booking(bench.account.renews_at_ms)
    assert left(bench) == [("allowance", 250), ("promotional", 100)]
    bench.booking(START_MS + 70 * DAY_MS)
    assert left(bench) == [("allowance", 250)]


def test_at_the_same_instant_it_pays_the_old_month_and_then_ends() -> None:
    hourly = PriceBook("items", 0, FIRST_PRICE_BOOK.rates, FIRST_PRICE_BOOK.plan_required, {"domain": CREDIT})
    bench = Bench(prices=Prices([hourly]))
    bench.charge("chat.message", 250)
    bench.do(SetItem, operation="domain", quantity=1)
    month_ends_at_ms = bench.account.month_ends_at_ms
    give(bench, 10_000, month_ends_at_ms - START_MS)
    bench.booking(month_ends_at_ms)
    billed = sum(amount for _, _, amount, _ in bench.entries("charge")) + 250 * CREDIT
    assert billed < 0
    assert bench.entries("expiry") == [("expiry", "promotional", -10_000 * CREDIT - billed, 0)]


def test_what_a_job_holds_outlives_the_end_and_is_gone_when_it_is_given_back() -> None:
    bench = Bench()
    bench.charge("chat.message", 250)
    give(bench, 100, 1_000)
    held = [bench.hold("image", seconds=600).entry_id for _ in range(2)]
    bench.booking(START_MS + 1_000)
    assert bench.entries("expiry") == [("expiry", "promotional", -36 * CREDIT, 0)]
    assert left(bench)[-1] == ("promotional", 64)
    assert available(bench.account, "production") == 0
    bench.do(CaptureHold, START_MS + 2_000, hold_id=held[0], environment="")
    bench.do(ReleaseHold, START_MS + 2_000, hold_id=held[1], environment="", reason="")
    assert bench.entries("expiry")[-1] == ("expiry", "promotional", -32 * CREDIT, 0)
    assert left(bench) == [("allowance", 0)]
    assert bench.entries_sum() == 0


def test_it_is_no_bundle_and_not_refunded() -> None:
    bench = Bench()
    give(bench)
    assert bench.do(RefundTopUp, grant_id=bench.grant("promotional").id, reason="").code == "unknown_grant"
