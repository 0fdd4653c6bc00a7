"""Auto-recharge makes one purchase at a time, within the month's cap, and none unless it was turned on."""

import json

import pytest

from schemas.accounts import AutoRecharge
from schemas.commands import ChangePlan, CloseProject, SetAutoRecharge, SettleRecharge
from schemas.times import DAY_MS, HOUR_MS
from streams.core import recharge
from streams.core.booking import available
from streams.core.plans import BUNDLES
from streams.kafka.codecs import encode_account
from tests.core.builders import CREDIT, START_MS, untold
from tests.core.test_ledger import Bench


def turn_on(bench: Bench, threshold: int = 100, cap_usd: int = 100, usd: int = 20, at_ms: int = START_MS):
    fields = {"threshold": threshold * CREDIT, "bundle_usd": usd, "cap_cents": cap_usd * 100}
    return bench.do(SetAutoRecharge, at_ms, is_on=True, payment_method="card", **fields)


def turn_off(bench: Bench):
    fields = {"threshold": 0, "bundle_usd": 0, "cap_cents": 0, "payment_method": ""}
    return bench.do(SetAutoRecharge, is_on=False, **fields)


def settle_purchase(bench: Bench, recharge_id: str, is_paid: bool = True, at_ms: int = START_MS):
    return bench.do(SettleRecharge, at_ms, recharge_id=recharge_id, is_paid=is_paid, reference="ref", detail="declined")


def stated(bench: Bench) -> list[str]:
    return [fact.reason for fact in bench.facts if fact.kind == "recharge"]


def requested(bench: Bench) -> str:
    """The id of the newest purchase, read from its fact as the cashier does."""
    fact = [fact for fact in bench.facts if fact.reason == "requested"][-1]
    told = json.loads(fact.metadata)
    assert told["id"] == f"recharge-0-{fact.offset}-{fact.index}"
    return told["id"]


def test_a_bundle_that_is_not_sold_any_more_is_not_bought() -> None:
    bench = Bench()
    turn_on(bench)
    assert bench.account.auto_recharge is not None
    bench.account.auto_recharge.bundle_usd = 33
    for grant in bench.account.grants:
        grant.remaining = 0
    assert bench.charge("read").status == 200
    assert stated(bench) == ["on"]


def test_nothing_of_a_purchase_is_left_behind_once_it_is_paid() -> None:
    bench = Bench()
    turn_on(bench)
    bench.charge("image", 5)
    settle_purchase(bench, requested(bench))
    left = bench.account.auto_recharge
    assert left is not None
    assert (left.pending_id, left.pending_cents, left.failures, left.blocked_until_ms) == ("", 0, 0, 0)
    assert left.spent_cents == 2_000


def test_a_bundle_is_wanted_once_when_the_balance_falls_below_the_threshold() -> None:
    bench = Bench()
    turn_on(bench)
    bench.charge("image", 4)
    assert stated(bench) == ["on"]
    bench.charge("image")  # 90 are left
    assert stated(bench) == ["on", "requested"]
    told = json.loads(bench.facts[-1].metadata)
    assert (told["bundle_usd"], told["payment_method"], told["spent_cents"]) == (20, "card", 2_000)
    bench.charge("image")
    bench.charge("website")
    assert stated(bench) == ["on", "requested"], "one purchase at a time"


def test_a_purchase_is_granted_once() -> None:
    bench = Bench()
    turn_on(bench)
    bench.charge("website")
    recharge_id = requested(bench)
    reply = settle_purchase(bench, recharge_id)
    assert (reply.amount, reply.available) == (4_000 * CREDIT, 4_010 * CREDIT)
    grant = untold(bench.facts)[-1]
    assert (grant.kind, grant.reason, grant.cents) == ("grant", "top_up", 2_000)
    for is_paid in (True, False):
        assert settle_purchase(bench, recharge_id, is_paid).code == "recharge_settled"
    assert settle_purchase(bench, "").code == "recharge_settled"
    assert available(bench.account, "production") == 4_010 * CREDIT == bench.entries_sum()


def test_whoever_is_off_or_closed_buys_nothing() -> None:
    bench = Bench()
    turn_on(bench)
    turn_off(bench)
    bench.charge("website")
    assert stated(bench) == ["on", "off"]
    turn_on(bench)
    recharge_id = requested(bench)
    bench.do(CloseProject, reason="")
    # Money that was taken gives its credits, even to a project that was closed meanwhile; no more is bought then.
    assert settle_purchase(bench, recharge_id).amount == 4_000 * CREDIT
    assert stated(bench) == ["on", "off", "on", "requested"]


def test_turning_it_off_and_on_does_not_buy_twice() -> None:
    bench = Bench()
    turn_on(bench, threshold=300)
    for _ in range(3):
        turn_off(bench)
        turn_on(bench, threshold=300)
    assert stated(bench).count("requested") == 1


def test_the_cap_holds_for_a_calendar_month_and_is_told_once() -> None:
    bench = Bench()
    turn_on(bench, threshold=4_000, cap_usd=40)
    settle_purchase(bench, requested(bench))
    bench.charge("chat.message", 251)
    assert stated(bench) == ["on", "requested", "requested"]
    settle_purchase(bench, requested(bench))
    bench.charge("chat.message", 4_000)
    bench.charge("chat.message")
    assert stated(bench) == ["on", "requested", "requested", "cap_reached"]
    # START_MS is in May.
    bench.charge("chat.message", at_ms=START_MS + 10 * DAY_MS)
    assert stated(bench)[-1] == "requested"
    assert bench.account.auto_recharge is not None
    assert (bench.account.auto_recharge.month, bench.account.auto_recharge.spent_cents) == (202606, 2_000)


def test_a_failed_purchase_is_not_counted_and_pauses_twice_as_long_each_time() -> None:
    bench = Bench()
    turn_on(bench, threshold=300, cap_usd=20)
    at_ms = START_MS
    for pause_hours in (1, 2, 4, 8):
        failed = settle_purchase(bench, requested(bench), False, at_ms)
        assert failed.status == 200
        recharge = bench.account.auto_recharge
        assert recharge is not None and recharge.spent_cents == 0
        count = stated(bench).count("requested")
        at_ms += pause_hours * HOUR_MS
        bench.charge("chat.message", at_ms=at_ms - 1)
        assert stated(bench).count("requested") == count
        bench.charge("chat.message", at_ms=at_ms)
        assert stated(bench).count("requested") == count + 1, "the cap is one bundle, and none was bought"
    settle_purchase(bench, requested(bench), False, at_ms)
    assert stated(bench)[-2:] == ["failed", "off"]
    assert bench.account.auto_recharge is not None and not bench.account.auto_recharge.is_on


def test_a_hold_and_a_refusal_show_that_the_balance_is_low_too() -> None:
    bench = Bench()
    turn_on(bench)
    bench.hold("website")
    assert stated(bench) == ["on", "requested"]
    bench = Bench()
    turn_on(bench, threshold=250)
    bench.charge("website", 2)
    assert stated(bench) == ["on"], "250 are not less than 250"
    bench = Bench()
    turn_on(bench, threshold=1)
    bench.charge("chat.message", 250)
    settle_purchase(bench, requested(bench), False)
    bench.charge("website", at_ms=START_MS + HOUR_MS)
    assert stated(bench) == ["on", "requested", "failed", "requested"], "nothing was charged, and yet it is needed"


def test_an_allowance_that_expires_and_is_followed_by_a_smaller_one_brings_the_balance_down_too() -> None:
    bench = Bench("hobby")
    turn_on(bench, threshold=1_000)
    bench.do(ChangePlan, plan="free", contract_allowance=0)
    bench.booking(bench.account.renews_at_ms)
    assert stated(bench) == ["on", "requested"], "before anybody is refused for it"


def test_preview_is_not_recharged() -> None:
    bench = Bench()
    turn_on(bench)
    bench.top_up(20, "preview")
    bench.charge("website", 16, environment="preview")
    assert available(bench.account, "preview") == 160 * CREDIT
    bench.charge("website", environment="preview")
    assert stated(bench) == ["on"]


@pytest.mark.parametrize(
    "terms",
    [
        {"usd": 7},
        {"threshold": 0},
        {"threshold": 100_001},
        {"threshold": 4_001},
        {"threshold": 50_000},
        {"threshold": 20_001, "usd": 100},
        {"threshold": 100_001, "usd": 500, "cap_usd": 500},
        {"cap_usd": 19},
        {"cap_usd": 100_001},
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, int]) -> None:
    bench = Bench()
    assert turn_on(bench, **terms).code == "invalid_request"
    assert bench.account.auto_recharge is None


@pytest.mark.parametrize("usd", BUNDLES)
def test_a_threshold_that_a_bundle_reaches_is_taken_and_buys_one_at_a_time(usd: int) -> None:
    brings = BUNDLES[usd] // CREDIT
    refused = turn_on(Bench(), threshold=brings + 1, usd=usd, cap_usd=100_000)
    assert (refused.status, refused.field) == (422, "threshold")
    assert f"at most the {brings} credits that a bundle of ${usd} brings; lower it, or take a larger" in refused.detail
    bench = Bench()
    assert turn_on(bench, threshold=brings, usd=usd, cap_usd=100_000).status == 200
    for _ in range(5):
        settle_purchase(bench, requested(bench))
        bought = stated(bench).count("requested")
        # Each purchase lasts for as much use as there is above the threshold after it.
        bench.charge("chat.message", available(bench.account, "production") // CREDIT - brings)
        assert stated(bench).count("requested") == bought
        bench.charge("chat.message")
        assert stated(bench).count("requested") == bought + 1


def test_the_same_terms_again_change_nothing() -> None:
    """Not even the pause after a card was declined, the count of its failures, or the month that was capped."""
    bench = Bench()
    assert turn_off(bench).already_decided and bench.account.auto_recharge is None, "it is off from the beginning"
    turn_on(bench, threshold=300, cap_usd=20)
    settle_purchase(bench, requested(bench), False)
    for at_ms in (START_MS, START_MS + HOUR_MS - 1, START_MS + 2 * HOUR_MS, START_MS + 50 * DAY_MS):
        bench.booking(at_ms)
        before, facts = encode_account(bench.account), len(bench.facts)
        again = turn_on(bench, threshold=300, cap_usd=20, at_ms=at_ms)
        assert (again.status, again.already_decided, again.entry_id) == (200, True, "")
        assert (encode_account(bench.account), len(bench.facts)) == (before, facts)
    turn_off(bench)
    before, facts = encode_account(bench.account), len(bench.facts)
    assert turn_off(bench).already_decided
    assert (encode_account(bench.account), len(bench.facts)) == (before, facts)


@pytest.mark.parametrize(
    "other", [{"threshold": 299}, {"cap_usd": 21}, {"usd": 100, "cap_usd": 100}], ids=lambda other: next(iter(other))
)
def test_other_terms_are_tried_at_once(other: dict[str, int]) -> None:
    bench = Bench()
    turn_on(bench, threshold=300, cap_usd=20)
    settle_purchase(bench, requested(bench), False)
    assert stated(bench) == ["on", "requested", "failed"]
    turn_on(bench, **{"threshold": 300, "cap_usd": 20} | other)
    assert stated(bench) == ["on", "requested", "failed", "on", "requested"]


def test_what_was_turned_off_by_failures_is_turned_on_by_the_same_terms() -> None:
    bench = Bench()
    turn_on(bench, threshold=300)
    at_ms = START_MS
    while stated(bench)[-1] != "off":
        settle_purchase(bench, requested(bench), False, at_ms)
        at_ms += DAY_MS
        bench.charge("read", at_ms=at_ms)
    turn_on(bench, threshold=300, at_ms=at_ms)
    assert stated(bench)[-2:] == ["on", "requested"]


def test_terms_from_before_the_rule_buy_no_more_than_keeps_a_bundle_there(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.account.auto_recharge = AutoRecharge(True, 50_000 * CREDIT, 20, 100_000_00, "card")
    for _ in range(5):
        bench.charge("chat.message")
        if bench.account.auto_recharge.pending_id:
            settle_purchase(bench, requested(bench))
    assert stated(bench) == ["requested"]
    monkeypatch.setattr(recharge, "BUNDLES", {100: 1})
    bench.charge("chat.message", 4_000)
    assert stated(bench) == ["requested"], "its bundle is not sold any more"
