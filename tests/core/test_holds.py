"""Holds keep a job's credits from the moment it is queued, until they are captured, released or expire."""

from collections import Counter

import msgspec
import pytest

from schemas.accounts import Account
from schemas.commands import (
    CaptureHold,
    CloseProject,
    Envelope,
    ExtendHold,
    GrantPromotional,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    Tick,
    TopUp,
)
from schemas.times import DAY_MS, HOUR_MS
from streams.core import holds
from streams.core.booking import FACTS_PER_SLOT, available, balance, held
from streams.core.decisions import command_reply
from streams.core.fold import IntakeItem, fold
from streams.core.replies import Kept
from streams.kafka.publisher import REQUEST_BYTES_MAX
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, untold, usage
from tests.core.test_ledger import Bench

WEEK_SECONDS = 7 * 86_400


def capture(bench: Bench, hold_id: str, amount: int = -1, at_ms: int = START_MS, environment: str = ""):
    return bench.do(CaptureHold, at_ms, hold_id=hold_id, environment=environment, amount=amount)


def release(bench: Bench, hold_id: str, at_ms: int = START_MS, environment: str = ""):
    return bench.do(ReleaseHold, at_ms, hold_id=hold_id, environment=environment, reason="timed out")


def state(account: Account, environment: str = "production") -> tuple[int, int, int]:
    """The credits of one environment's budget, as (balance, held, available)."""
    return (
        balance(account, environment) // CREDIT,
        held(account, environment) // CREDIT,
        available(account, environment) // CREDIT,
    )


def test_a_hold_keeps_its_credits_and_the_balance_is_as_it_was() -> None:
    bench = Bench()
    placed = bench.hold("website")
    assert (placed.status, placed.amount, placed.available) == (200, 240 * CREDIT, 10 * CREDIT)
    assert state(bench.account) == (250, 240, 10)
    assert bench.entries("hold") == [("hold", "", 0, 240 * CREDIT)]
    assert bench.charge("image").code == "out_of_credits", "what is held can't be spent otherwise"


def test_too_little_starts_nothing() -> None:
    bench = Bench()
    refused = bench.hold("website", 2)
    assert (refused.status, refused.code, bench.account.holds) == (402, "out_of_credits", [])
    assert bench.hold("video.premium").code == "plan_required"
    assert state(bench.account) == (250, 0, 250)


def test_a_capture_charges_what_was_held() -> None:
    bench = Bench()
    placed = bench.hold("website", job_id="j1")
    reply = capture(bench, placed.entry_id)
    assert (reply.amount, reply.available) == (240 * CREDIT, 10 * CREDIT)
    assert state(bench.account) == (10, 0, 10)
    charge = bench.facts[-1]
    assert (charge.kind, charge.reason, charge.amount, charge.held) == (
        "charge",
        "captured",
        -240 * CREDIT,
        -240 * CREDIT,
    )
    assert (charge.operation, charge.quantity, charge.job_id, charge.balance) == ("website", 1, "j1", 10 * CREDIT)
    assert capture(bench, placed.entry_id).code == "unknown_hold", "one charge a job"
    assert release(bench, placed.entry_id).code == "unknown_hold"


def test_a_part_is_charged_and_the_rest_released() -> None:
    bench = Bench()
    placed = bench.hold("image", 5)
    reply = capture(bench, placed.entry_id, 70 * CREDIT)
    assert (reply.amount, reply.available) == (70 * CREDIT, 180 * CREDIT)
    assert bench.entries("charge", "release") == [
        ("charge", "captured", -70 * CREDIT, -70 * CREDIT),
        ("release", "captured", 0, -90 * CREDIT),
    ]
    assert bench.facts[-2].quantity == 2, "whole units only"


@pytest.mark.parametrize("amount", [0, 1, 6, 7, 8, 56, 57, 58, 100, 239, 240])
def test_a_part_is_charged_to_the_grants_of_its_hold_in_their_order(amount: int) -> None:
    bench = Bench()
    for size in (7, 50):
        fields = {"environment": "production", "reason": "trial", "expires_at_ms": START_MS + DAY_MS + size}
        bench.do(GrantPromotional, amount=size * CREDIT, **fields)
    allowance, first, second = bench.account.grants
    allowance.remaining = 0
    bench.do(TopUp, environment="production", bundle_usd=20, reference="")
    bundle = bench.account.grants[-1]
    placed = bench.hold("website")
    captured = capture(bench, placed.hold_id, amount * CREDIT)
    assert (captured.status, captured.amount) == (200, amount * CREDIT)
    drawn = {first.id: min(amount, 7), second.id: min(max(0, amount - 7), 50), bundle.id: max(0, amount - 57)}
    charged = {fact.grant_id: -fact.amount // CREDIT for fact in bench.facts if fact.kind == "charge" and fact.amount}
    assert charged == {grant_id: credits for grant_id, credits in drawn.items() if credits}
    had = {first.id: 7, second.id: 50, bundle.id: 4_000}
    left = {grant.id: (grant.remaining // CREDIT, grant.held) for grant in (first, second, bundle)}
    assert left == {grant_id: (credits - drawn[grant_id], 0) for grant_id, credits in had.items()}


def test_more_than_was_held_is_not_charged() -> None:
    bench = Bench()
    placed = bench.hold("image")
    assert capture(bench, placed.entry_id, 33 * CREDIT).code == "invalid_request"
    assert state(bench.account) == (250, 32, 218)


def test_a_release_gives_back_to_the_grants_it_came_from_with_their_expiry() -> None:
    bench = Bench()
    bench.top_up(20)
    before = [(grant.id, grant.remaining, grant.held, grant.expires_at_ms) for grant in bench.account.grants]
    placed = bench.hold("website", 2)
    assert [grant.held // CREDIT for grant in bench.account.grants] == [250, 230]
    assert release(bench, placed.entry_id).amount == 480 * CREDIT
    assert [(grant.id, grant.remaining, grant.held, grant.expires_at_ms) for grant in bench.account.grants] == before
    assert bench.entries("release") == [
        ("release", "released", 0, -250 * CREDIT),
        ("release", "released", 0, -230 * CREDIT),
    ]


@pytest.mark.parametrize("is_captured", [True, False])
def test_held_credits_of_an_allowance_outlive_its_renewal_are_charged_or_expire(is_captured: bool) -> None:
    bench = Bench()
    renews_at_ms = bench.account.renews_at_ms
    placed = bench.hold("image", 5, WEEK_SECONDS, renews_at_ms - HOUR_MS)
    bench.booking(renews_at_ms)
    # Of the old allowance 90 expired and 160 are held; the new allowance is 250.
    assert bench.entries("expiry") == [("expiry", "allowance", -90 * CREDIT, 0)]
    assert state(bench.account) == (410, 160, 250)
    if is_captured:
        assert capture(bench, placed.entry_id, at_ms=renews_at_ms + HOUR_MS).amount == 160 * CREDIT
    else:
        assert release(bench, placed.entry_id, renews_at_ms + HOUR_MS).available == 250 * CREDIT
        assert bench.entries("expiry")[1:] == [("expiry", "allowance", -160 * CREDIT, 0)]
    assert state(bench.account) == (250, 0, 250)
    assert bench.entries_sum() == 250 * CREDIT
    assert len(bench.account.grants) == 1


def test_an_allowance_that_is_only_held_is_no_allowance_of_this_month() -> None:
    bench = Bench()
    renews_at_ms = bench.account.renews_at_ms
    bench.hold("image", 1, WEEK_SECONDS, renews_at_ms - HOUR_MS)
    bench.do(CloseProject, renews_at_ms - 1, reason="")
    reply = bench.do(ReopenProject, renews_at_ms + 1)
    assert (reply.amount, reply.available) == (250 * CREDIT, 250 * CREDIT)


def test_a_hold_that_nobody_resolves_expires_at_its_time_whenever_that_is_noticed() -> None:
    bench = Bench()
    placed = bench.hold("website", seconds=600)
    assert bench.account.holds[0].expires_at_ms == START_MS + 600_000
    bench.booking(START_MS + 599_999)
    assert state(bench.account) == (250, 240, 10)
    bench.booking(START_MS + 9 * HOUR_MS)
    assert state(bench.account) == (250, 0, 250)
    fact = untold(bench.facts)[-1]
    assert (fact.kind, fact.reason, fact.held, fact.occurred_at_ms) == (
        "release",
        "expired",
        -240 * CREDIT,
        START_MS + 600_000,
    )
    assert capture(bench, placed.entry_id).code == "unknown_hold"


def test_a_hold_can_be_extended_from_now() -> None:
    bench = Bench()
    placed = bench.hold("website", seconds=600)
    later = START_MS + 500_000
    assert bench.do(ExtendHold, later, hold_id=placed.entry_id, environment="", seconds=3_600).status == 200
    assert bench.account.holds[0].expires_at_ms == later + HOUR_MS
    too_long = bench.do(ExtendHold, later, hold_id=placed.entry_id, environment="", seconds=WEEK_SECONDS + 1)
    assert too_long.code == "invalid_request"
    bench.booking(later + HOUR_MS - 1)
    assert len(bench.account.holds) == 1


def test_a_hold_lasts_a_week_at_most() -> None:
    bench = Bench()
    assert bench.hold("image", seconds=WEEK_SECONDS).status == 200
    assert bench.hold("image", seconds=WEEK_SECONDS + 1).code == "invalid_request"
    assert bench.hold("image", seconds=-1).code == "invalid_request"


def test_another_environments_key_does_not_see_a_hold() -> None:
    bench = Bench()
    placed = bench.hold("image")
    assert capture(bench, placed.entry_id, environment="preview").code == "unknown_hold"
    assert release(bench, placed.entry_id, environment="preview").code == "unknown_hold"
    assert capture(bench, placed.entry_id, environment="production").status == 200


def test_what_was_held_costs_what_it_did_then_line_by_line() -> None:
    bench = Bench()
    placed = bench.hold("social_post.text", surcharge="social_post.image")
    assert placed.amount == 37 * CREDIT
    capture(bench, placed.entry_id)
    charged = [(fact.operation, fact.amount) for fact in bench.facts if fact.kind == "charge"]
    assert charged == [("social_post.text", -5 * CREDIT), ("social_post.image", -32 * CREDIT)]


def test_a_free_job_holds_nothing_and_is_recorded() -> None:
    bench = Bench()
    placed = bench.hold("read")
    assert (placed.status, placed.amount) == (200, 0)
    assert capture(bench, placed.entry_id).status == 200
    assert bench.entries("hold", "charge", "release") == [("hold", "", 0, 0), ("charge", "captured", 0, 0)]


def test_a_job_of_a_project_that_was_closed_meanwhile_is_resolved_as_ever() -> None:
    bench = Bench()
    placed = bench.hold("image")
    bench.do(CloseProject, reason="")
    assert capture(bench, placed.entry_id).amount == 32 * CREDIT


def test_a_bundle_is_not_refunded_while_a_part_of_it_is_held() -> None:
    bench = Bench()
    bench.top_up(20, environment="preview")
    grant_id = bench.grant("top_up").id
    placed = bench.hold("image", environment="preview")
    assert bench.do(RefundTopUp, grant_id=grant_id, reason="").code == "not_refundable"
    release(bench, placed.entry_id)
    assert bench.do(RefundTopUp, grant_id=grant_id, reason="").amount == 4_000 * CREDIT


def test_open_holds_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "HOLDS_MAX", 2)
    bench = Bench()
    first = bench.hold("chat.message")
    bench.hold("chat.message")
    refused = bench.hold("chat.message")
    assert (refused.status, refused.code) == (409, "too_many_holds")
    assert bench.facts[-1].kind == "refusal"
    release(bench, first.entry_id)
    assert bench.hold("chat.message").status == 200


def test_holds_that_span_many_grants_and_heavy_ones_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "PARTS_MAX", 3)
    monkeypatch.setattr(holds, "METADATA_CHARS_MAX", 10)
    bench = Bench()
    bench.top_up(20)
    assert bench.hold("read", metadata='{"a":"123"}').code == "too_many_holds"
    assert bench.hold("website", metadata='{"a":"12"}').status == 200
    assert bench.hold("image", metadata="1").code == "too_many_holds"
    assert bench.hold("image").status == 200, "10 of the allowance, 22 of the bundle: three parts in all"
    assert bench.hold("image").code == "too_many_holds"


def test_all_holds_that_expire_at_once_fit_into_one_events_facts() -> None:
    """The holds are placed in the last second of the allowance, so that each release is followed by an expiry."""
    bench = Bench("scale")
    at_ms = bench.account.renews_at_ms - 1_000
    for _ in range(holds.HOLDS_MAX):
        bench.account.window = None
        assert bench.hold("image", seconds=600, at_ms=at_ms).status == 200
    accounts = {"p1": bench.account}
    fold(0, [IntakeItem(10_000, at_ms, create_project("p2", correlation="c2"))], accounts, {}, Kept(), "intake")
    tick = IntakeItem(10_001, at_ms + 40 * DAY_MS, Tick(["p1", "p2"]))
    facts = fold(0, [tick], accounts, {}, Kept(), "intake").facts
    assert Counter(fact.reason for fact in facts if fact.project == "p1")["expired"] == holds.HOLDS_MAX
    names = [(fact.offset, fact.index) for fact in facts]
    assert names == sorted(set(names)), "no fact has another's name, nor a later one's place"
    assert holds.PARTS_MAX * 2 < FACTS_PER_SLOT * 3 // 4


def test_an_account_full_of_holds_fits_into_a_record() -> None:
    bench = Bench()
    wide = "\U0001f600"
    for number in range(holds.HOLDS_MAX):
        bench.account.window = None
        texts = {"source": 256 * wide, "job_id": f"{number}{120 * wide}", "metadata": f'{{"a":"{490 * wide}"}}'}
        used = usage(f"{number}{250 * wide}", operation="read", **texts)
        assert command_reply(bench.booking(), admit(used, hold_seconds=600), False).status == 200
    assert len(msgspec.msgpack.encode(bench.account)) < REQUEST_BYTES_MAX * 3 // 4


def test_one_charge_a_job_however_often_it_is_queued_or_reported() -> None:
    """A job is queued again under another event id, reported by its usage event, and both come again."""
    accounts: dict[str, Account] = {}
    seen: dict[bytes, int] = {}
    records = [
        create_project(),
        admit(usage("e1", operation="image", job_id="j1"), "c1", hold_seconds=600),
        admit(usage("e2", operation="image", job_id="j1"), "c2", hold_seconds=600),
        Envelope([usage("e1", operation="image", job_id="j1")]),
        admit(usage("e3", operation="image", job_id="j2"), "c3", hold_seconds=600),
    ]
    items = [IntakeItem(offset, START_MS, body) for offset, body in enumerate(records)]
    effects = fold(0, items, accounts, seen, Kept(), "intake")
    replies = {command.correlation: reply for command, reply in effects.replies}
    assert (replies["c1"].hold_id, replies["c2"].hold_id) == ("0-1-0", "0-1-0"), "a retry is told of the open hold"
    assert (replies["c2"].status, replies["c2"].amount) == (200, 0)
    assert [fact.kind for fact in effects.facts[2:]] == ["hold", "duplicate", "charge", "hold"]
    assert state(accounts["p1"]) == (218, 32, 186)


def test_a_released_job_can_be_queued_again_and_is_then_charged() -> None:
    bench = Bench()
    accounts, seen = {"p1": bench.account}, {}
    records = [
        admit(usage("e1", operation="image", job_id="j1"), "c1", hold_seconds=600),
        ReleaseHold(project="p1", hold_id="0-1-0", environment="", reason="timeout", **addressed("r1")),
        admit(usage("e1", operation="image", job_id="j1"), "c2", hold_seconds=600),
        CaptureHold(project="p1", hold_id="0-3-0", environment="", **addressed("r2")),
        admit(usage("e2", operation="image", job_id="j1"), "c3", hold_seconds=600),
        Envelope([usage("e1", operation="image", job_id="j1")]),
    ]
    items = [IntakeItem(offset, START_MS, body) for offset, body in enumerate(records, start=1)]
    effects = fold(0, items, accounts, seen, Kept(), "intake")
    replies = {command.correlation: reply for command, reply in effects.replies}
    assert (replies["c2"].hold_id, replies["c2"].amount) == ("0-3-0", 32 * CREDIT)
    assert replies["r2"].amount == 32 * CREDIT
    assert (replies["c3"].hold_id, replies["c3"].amount) == ("", 0), "captured: it is charged once"
    assert [fact.kind for fact in effects.facts] == ["hold", "release", "hold", "charge", "duplicate", "duplicate"]


def test_the_event_of_a_job_that_is_still_held_is_not_billed_beside_it() -> None:
    bench = Bench()
    accounts, seen = {"p1": bench.account}, {}
    records = [
        admit(usage("e1", operation="image", job_id="j1"), "c1", hold_seconds=600),
        Envelope([usage("e1", operation="image", job_id="j1")]),
        CaptureHold(project="p1", hold_id="0-1-0", environment="", **addressed("r2")),
        Envelope([usage("e1", operation="image", job_id="j1")]),
    ]
    items = [IntakeItem(offset, START_MS, body) for offset, body in enumerate(records, start=1)]
    effects = fold(0, items, accounts, seen, Kept(), "intake")
    assert [fact.kind for fact in effects.facts] == ["hold", "charge", "duplicate"]
    (_, captured) = effects.replies
    assert (captured[1].status, captured[1].amount, captured[1].already_decided) == (200, 32 * CREDIT, True)
    assert state(bench.account) == (218, 0, 218)
