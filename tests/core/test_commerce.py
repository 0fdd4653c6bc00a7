"""Refunds and changes of plan: the conformance cases, and the rules that those leave open."""

import json
from pathlib import Path

import pytest

from schemas.commands import ChangePlan, CloseProject, RefundTopUp, ReopenProject, SetStanding, TopUp
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.booking import available
from streams.core.decisions import command_reply
from streams.core.ledger import settle
from streams.core.plans import refund_cents
from tests.core.builders import CREDIT, START_MS, addressed, untold
from tests.core.test_ledger import Bench

REFUNDS = json.loads((Path(__file__).parent.parent / "conformance" / "refund.json").read_text())


def refund(bench: Bench, grant_id: str, at_ms: int = START_MS):
    command = RefundTopUp(project="p1", grant_id=grant_id, reason="asked for", **addressed())
    return command_reply(bench.booking(at_ms), command, False)


def change_plan(bench: Bench, plan: str, contract: int = 0, at_ms: int = START_MS):
    command = ChangePlan(project="p1", plan=plan, contract_allowance=contract, **addressed())
    return command_reply(bench.booking(at_ms), command, False)


def bundle(bench: Bench) -> str:
    return next(grant.id for grant in bench.account.grants if grant.kind == "top_up")


@pytest.mark.parametrize("case", REFUNDS["cases"], ids=lambda case: case["name"])
def test_conformance_refunds(case: dict) -> None:
    bench = Bench("free")
    # The bundle is for preview, which has no allowance: in production the allowance would be used up first.
    bench.top_up(20, environment="preview")
    used = int(case["used"])
    if used:
        assert bench.charge("chat.message", used, environment="preview").status == 200
    if not case.get("good_standing", True):
        command = SetStanding(project="p1", is_good=False, reason="unpaid", **addressed())
        assert command_reply(bench.booking(), command, False).status == 200
    reply = refund(bench, bundle(bench), START_MS + case["days"] * DAY_MS)
    assert (reply.code == "") == case["refundable"], reply
    left = 0 if case["refundable"] else (4_000 - used) * CREDIT
    assert available(bench.account, "preview") == bench.entries_sum("preview") == left
    if case["refundable"]:
        assert reply.amount == (4_000 - used) * CREDIT
        refund_fact = untold(bench.facts)[-1]
        assert refund_fact.kind == "refund"
        assert json.loads(refund_fact.metadata) == {"refund_cents": 1_500, "reason": "asked for"}


def test_a_bundle_is_refunded_once_and_only_a_bundle() -> None:
    bench = Bench()
    bench.top_up(100)
    grant_id = bundle(bench)
    assert refund(bench, grant_id).amount == 20_000 * CREDIT
    for unknown in (grant_id, bench.account.grants[0].id, "nothing"):
        assert refund(bench, unknown).code == "unknown_grant"


def test_a_fraction_of_a_cent_stays_with_us() -> None:
    assert [refund_cents(amount) for amount in (0, 1_999_999, 2_000_000, 4_000 * CREDIT)] == [0, 0, 1, 2_000]


def test_an_upgrade_counts_at_once_with_what_its_allowance_has_more() -> None:
    bench = Bench("hobby")
    bench.charge("website")
    reply = change_plan(bench, "build", at_ms=START_MS + 10 * DAY_MS)
    assert (reply.status, reply.amount) == (200, 20_000 * CREDIT)
    assert bench.account.plan == "build"
    assert reply.available == (25_000 - 240) * CREDIT == bench.entries_sum()
    later_ms = START_MS + 10 * DAY_MS
    assert bench.charge("video.premium", at_ms=later_ms, occurred_at_ms=later_ms).status == 200
    settle(bench.booking(bench.account.renews_at_ms))
    assert available(bench.account, "production") == 25_000 * CREDIT == bench.entries_sum()


def test_a_downgrade_waits_for_the_renewal_and_can_be_taken_back() -> None:
    bench = Bench("build")
    assert change_plan(bench, "free").amount == 0
    assert (bench.account.plan, bench.account.next_plan) == ("build", "free")
    assert bench.charge("video.premium").status == 200
    renews_at_ms = bench.account.renews_at_ms
    settle(bench.booking(renews_at_ms))
    assert (bench.account.plan, bench.account.next_plan) == ("free", "")
    assert available(bench.account, "production") == 250 * CREDIT == bench.entries_sum()
    kinds = [(fact.kind, fact.reason, fact.occurred_at_ms) for fact in bench.facts[-3:]]
    assert kinds == [
        ("expiry", "allowance", renews_at_ms),
        ("plan", "free", renews_at_ms),
        ("grant", "allowance", renews_at_ms),
    ]
    change_plan(bench, "scale", at_ms=renews_at_ms)
    change_plan(bench, "hobby", at_ms=renews_at_ms)
    change_plan(bench, "scale", at_ms=renews_at_ms)
    assert bench.account.next_plan == ""
    settle(bench.booking(bench.account.renews_at_ms))
    assert bench.account.plan == "scale"


def test_going_back_and_forth_gains_nothing() -> None:
    bench = Bench("hobby")
    for plan in ("build", "hobby", "build", "free", "build"):
        change_plan(bench, plan)
    assert available(bench.account, "production") == 25_000 * CREDIT


def test_a_contract_is_raised_at_once_and_lowered_at_the_renewal() -> None:
    bench = Bench("scale")
    assert change_plan(bench, "enterprise", 500_000 * CREDIT).amount == 400_000 * CREDIT
    assert change_plan(bench, "enterprise", 300_000 * CREDIT).amount == 0
    assert available(bench.account, "production") == 500_000 * CREDIT
    settle(bench.booking(bench.account.renews_at_ms))
    assert available(bench.account, "production") == 300_000 * CREDIT
    assert change_plan(bench, "gold").code == "invalid_request"


def close(bench: Bench, at_ms: int = START_MS):
    return command_reply(bench.booking(at_ms), CloseProject(project="p1", reason="", **addressed()), False)


def reopen(bench: Bench, at_ms: int = START_MS):
    return command_reply(bench.booking(at_ms), ReopenProject(project="p1", **addressed()), False)


def test_a_closed_project_spends_nothing_and_keeps_its_bundles() -> None:
    bench = Bench("hobby")
    bench.top_up(20)
    assert close(bench, START_MS + 5).status == 200
    refused = bench.charge("read", at_ms=START_MS + 6)
    # The builders' events were used at START_MS, before the project was closed.
    assert refused.status == 200
    for command in (close, lambda b, at: b.top_up(20, at_ms=at), lambda b, at: change_plan(b, "build", at_ms=at)):
        assert command(bench, START_MS + 7).code == "project_closed"
    month = bench.account.renews_at_ms
    settle(bench.booking(month + 1))
    assert available(bench.account, "production") == 4_000 * CREDIT == bench.entries_sum()
    reply = reopen(bench, month + 2)
    assert (reply.amount, reply.available) == (5_000 * CREDIT, 9_000 * CREDIT)
    assert reopen(bench, month + 3).code == "project_open"
    settle(bench.booking(bench.account.renews_at_ms))
    assert available(bench.account, "production") == 9_000 * CREDIT == bench.entries_sum()


def test_what_is_used_while_it_is_closed_is_refused() -> None:
    bench = Bench()
    close(bench)
    reply = bench.charge("chat.message")
    assert (reply.status, reply.code, reply.amount) == (403, "project_closed", 0)
    assert bench.facts[-1].kind == "refusal"


def test_an_allowance_is_granted_once_a_month_however_often_it_is_reopened() -> None:
    bench = Bench()
    bench.charge("website")
    for _ in range(3):
        close(bench)
        assert reopen(bench).amount == 0
    bench.charge("content_plan")
    close(bench)
    assert reopen(bench).amount == 0, "used up is not the same as not granted"
    assert available(bench.account, "production") == 0


def buy_by_contract(bench: Bench, amount: int, cents: int, reference: str = "") -> Reply:
    terms = {"bundle_usd": 0, "amount": amount, "cents": cents, "reference": reference}
    command = TopUp(project="p1", environment="preview", **terms, **addressed())
    return command_reply(bench.booking(), command, False)


@pytest.mark.parametrize(
    ("amount", "cents", "used", "back"),
    [
        (250_000 * CREDIT, 900_00, 0, 900_00),
        (250_000 * CREDIT, 900_00, 62_500, 675_00),
        (3 * CREDIT, 1, 0, 1),
        (8 * CREDIT, 10, 1, 8),  # 8.75 cents, rounded down
        (10**15, 10**9, 0, 10**9),
    ],
)
def test_credits_by_contract_are_refunded_at_their_price(amount: int, cents: int, used: int, back: int) -> None:
    bench = Bench("free")
    bought = buy_by_contract(bench, amount, cents)
    assert (bought.status, bought.amount, bought.cents) == (200, amount, cents)
    assert bench.facts[-1].cents == cents and json.loads(bench.facts[-1].metadata) == {"by_contract": True}
    if used:
        assert bench.charge("chat.message", used, environment="preview").status == 200
    reply = refund(bench, bundle(bench))
    assert (reply.amount, reply.cents) == (amount - used * CREDIT, -back)
    assert untold(bench.facts)[-1].cents == -back
    said = {"refund_cents": back, "reason": "asked for", "by_contract": True}
    assert json.loads(untold(bench.facts)[-1].metadata) == said


@pytest.mark.parametrize(
    ("amount", "cents", "field"),
    [(0, 1, "credits"), (-1, 1, "credits"), (10**15 + 1, 1, "credits")]
    + [(1, 0, "price_cents"), (1, -1, "price_cents"), (1, 10**9 + 1, "price_cents")],
)
def test_what_no_contract_can_be_is_refused(amount: int, cents: int, field: str) -> None:
    bench = Bench("free")
    refused = buy_by_contract(bench, amount, cents)
    assert (refused.status, refused.code, refused.field) == (422, "invalid_request", field)
    assert [grant.kind for grant in bench.account.grants] == ["allowance"]
