"""Admission: which of several refusals is told, what a request counts and costs, and when one that waits would pass."""

import copy
from itertools import combinations

import msgspec
import pytest

from schemas.accounts import Account, Limits
from schemas.commands import CaptureHold, CloseProject, CountRefused, CountRequest, Envelope, ReleaseHold, SetLimits
from schemas.replies import Reply
from streams.core.booking import available, held
from streams.core.decisions import command_reply
from streams.core.fold import IntakeItem, fold
from streams.core.holds import HOLDS_MAX
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, usage
from tests.core.test_ledger import Bench

MINUTE_MS = 60_000
# The order documented in streams/core/admission.py: of several reasons, the first in this list is the answer.
ORDER = (
    "request window",
    "project_closed",
    "plan_required",
    "unknown_operation",
    "out_of_credits",
    "too_many_holds",
    "over_cost_ceiling",
    "cost ceiling",
)


def limit(bench: Bench, requests: int = 0, burst: int = 0, ceiling: int = 0) -> Bench:
    """Put a project under these limits, the ceiling in credits; 0 leaves that of its plan."""
    limits = Limits(requests, burst, ceiling * CREDIT)
    assert bench.do(SetLimits, limits=limits, is_shadow=False, reason="").status == 200
    return bench


def counted(account: Account) -> int:
    return account.window.requests if account.window else 0


def spent_credits(account: Account) -> int:
    return account.window.cost // CREDIT if account.window else 0


def state(account: Account) -> tuple[int, ...]:
    return available(account, "production"), held(account, "production"), len(account.holds), spent_credits(account)


def ask_where(*reasons: str) -> Reply:
    """The reply to a hold for premium video, where these reasons stand against it."""
    quantity = 1_000 if "out_of_credits" in reasons else 1
    price = 300 * quantity
    bench = Bench("hobby" if "plan_required" in reasons else "build")
    bench.charge("chat.message")
    if "too_many_holds" in reasons:
        bench.hold("read")
        bench.account.holds *= HOLDS_MAX
    if "project_closed" in reasons:
        bench.do(CloseProject, reason="")
    requests = 1 if "request window" in reasons else 0
    ceiling = price - 1 if "over_cost_ceiling" in reasons else price if "cost ceiling" in reasons else 10**6
    limit(bench, requests, requests, ceiling)
    before, counted_before = state(bench.account), counted(bench.account)
    reply = bench.hold("video.premium", quantity, surcharge="no.price" if "unknown_operation" in reasons else "")
    if reasons:
        assert (reply.amount, reply.hold_id) == (0, "")
        assert state(bench.account) == before, "a refused request costs nothing"
        assert [fact.kind for fact in bench.facts if fact.offset == bench.offset] == ["refusal"]
    # A request that the window stops is not counted.
    assert counted(bench.account) == counted_before + ("request window" not in reasons)
    return reply


def reason_told(reply: Reply) -> str:
    if reply.code != "rate_limited":
        return reply.code
    return "cost ceiling" if reply.detail.startswith("Cost ceiling reached") else "request window"


def test_a_job_that_nothing_stands_against_is_held() -> None:
    reply = ask_where()
    assert (reply.status, reply.amount) == (200, 300 * CREDIT)


@pytest.mark.parametrize("reason", ORDER)
def test_each_reason_alone_refuses(reason: str) -> None:
    assert reason_told(ask_where(reason)) == reason


@pytest.mark.parametrize(("first", "other"), list(combinations(ORDER, 2)))
def test_of_two_reasons_the_one_that_comes_first_is_told(first: str, other: str) -> None:
    assert reason_told(ask_where(first, other)) == first


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("request window", 429),
        ("project_closed", 403),
        ("plan_required", 402),
        ("unknown_operation", 422),
        ("out_of_credits", 402),
        ("too_many_holds", 409),
        ("over_cost_ceiling", 403),
        ("cost ceiling", 429),
    ],
)
def test_the_status_says_what_helps(reason: str, status: int) -> None:
    """The status 402 says that credits or a plan are missing, 429 that waiting alone helps."""
    reply = ask_where(reason)
    assert reply.status == status
    assert bool(reply.rate and reply.rate.retry_at_ms) == (status == 429)


def test_a_hold_that_is_too_long_is_no_request() -> None:
    bench = Bench()
    for seconds in (-1, 7 * 86_400 + 1):
        assert bench.hold("image", seconds=seconds).code == "invalid_request"
    assert bench.account.window is None


def test_a_job_is_one_request_when_it_is_queued() -> None:
    bench = Bench("build")
    placed = bench.hold("website", job_id="j")
    bench.do(CaptureHold, hold_id=placed.hold_id, environment="")
    assert (counted(bench.account), spent_credits(bench.account)) == (1, 240)


def test_a_job_that_is_queued_again_is_another_request_and_no_other_charge() -> None:
    bench = Bench("build")
    first = bench.hold("website", job_id="j")
    again = bench.hold("website", job_id="j")
    assert (again.status, again.amount, again.hold_id) == (200, 0, first.hold_id)
    assert (counted(bench.account), spent_credits(bench.account)) == (2, 240)
    assert held(bench.account, "production") == 240 * CREDIT


def test_a_bulk_call_is_one_request() -> None:
    bench = Bench("build")
    assert bench.charge("chat.message", 200).amount == 200 * CREDIT
    assert (counted(bench.account), spent_credits(bench.account)) == (1, 200)


def test_usage_that_happened_already_is_neither_counted_nor_limited() -> None:
    accounts: dict[str, Account] = {}
    set_limits = SetLimits(project="p1", limits=Limits(1, 1, CREDIT), is_shadow=False, reason="", **addressed("limits"))
    used = Envelope([usage(f"e{number}", operation="website") for number in range(3)])
    bodies = [create_project(plan="build"), set_limits, used]
    effects = fold(
        0, [IntakeItem(at, START_MS, body) for at, body in enumerate(bodies)], accounts, {}, Kept(), "intake"
    )
    assert [fact.amount for fact in effects.facts if fact.kind == "charge"] == [-240 * CREDIT] * 3
    assert accounts["p1"].window is None


def spend_60_then_32(bench: Bench) -> None:
    """Spend 60 credits at the start, and 32 credits 10 seconds later."""
    assert bench.charge("blog_post").status == 200
    assert bench.charge("image", at_ms=START_MS + 10_000).status == 200


def passes(bench: Bench, operation: str, at_ms: int) -> bool:
    """Whether an operation would pass, if it were asked for at that time."""
    return copy.deepcopy(bench).charge(operation, at_ms=at_ms).status == 200


def test_who_waits_as_long_as_the_ceiling_says_passes_and_not_a_millisecond_earlier() -> None:
    bench = limit(Bench("build"), ceiling=100)
    spend_60_then_32(bench)
    stopped = bench.charge("content_plan", at_ms=START_MS + 20_001)
    assert (stopped.status, stopped.code) == (429, "rate_limited")
    assert "8 of 100 are left of this minute. Retry after 40 seconds" in stopped.detail
    assert stopped.rate and stopped.rate.retry_at_ms == START_MS + MINUTE_MS
    assert not passes(bench, "content_plan", START_MS + MINUTE_MS - 1)
    assert passes(bench, "content_plan", START_MS + MINUTE_MS)
    # A request that costs more waits for the later charge too; one that costs less passes.
    stopped = bench.charge("video.budget", at_ms=START_MS + 20_002)
    assert stopped.rate and stopped.rate.retry_at_ms == START_MS + MINUTE_MS
    stopped = bench.charge("blog_post", 1, surcharge="social_post.video", at_ms=START_MS + 20_003)
    assert stopped.rate and stopped.rate.retry_at_ms == START_MS + 10_000 + MINUTE_MS
    assert passes(bench, "translation", START_MS + 20_004)
    assert passes(bench, "read", START_MS + 20_004)


def test_retry_after_waits_for_the_request_window_too() -> None:
    """The ceiling has room again when the first request is a minute old, the window when the second one is."""
    bench = limit(Bench("build"), requests=2, burst=3, ceiling=100)
    bench.charge("blog_post")
    bench.charge("read", at_ms=START_MS + 1_000)
    stopped = bench.charge("blog_post", at_ms=START_MS + 2_000)
    assert stopped.detail.startswith("Cost ceiling reached")
    assert stopped.rate and stopped.rate.retry_at_ms == START_MS + 1_000 + MINUTE_MS
    assert not passes(bench, "blog_post", START_MS + 1_000 + MINUTE_MS - 1)
    assert passes(bench, "blog_post", START_MS + 1_000 + MINUTE_MS)


def test_what_costs_more_than_the_ceiling_is_not_told_to_wait() -> None:
    bench = limit(Bench("build"), ceiling=100)
    refused = bench.charge("website")
    assert (refused.status, refused.code) == (403, "over_cost_ceiling")
    assert refused.rate and refused.rate.retry_at_ms == 0
    assert "more than the 100 that may be spent in a minute" in refused.detail


def test_what_is_held_counts_against_the_ceiling_whatever_becomes_of_it() -> None:
    bench = limit(Bench("build"), ceiling=100)
    placed = bench.hold("blog_post")
    assert bench.charge("blog_post").code == "rate_limited"
    bench.do(ReleaseHold, hold_id=placed.hold_id, environment="", reason="failed")
    assert bench.charge("blog_post").code == "rate_limited", "a job that is queued and given up on has run as well"
    assert bench.hold("video.budget").status == 200
    assert spent_credits(bench.account) == 100


def test_a_capture_of_a_held_job_is_not_stopped_by_the_ceiling() -> None:
    bench = limit(Bench("build"), ceiling=100)
    placed = bench.hold("blog_post")
    limit(bench, ceiling=1)
    captured = bench.do(CaptureHold, hold_id=placed.hold_id, environment="")
    assert (captured.status, captured.amount, spent_credits(bench.account)) == (200, 60 * CREDIT, 60)


def test_a_request_of_our_own_is_counted_and_leaves_a_fact_and_no_charge() -> None:
    bench = limit(Bench(), requests=2, burst=2)
    told = [
        bench.do(CountRequest, operation="GET /v1/balance", environment="production", at_ms=START_MS + at)
        for at in (0, 1_000, 2_000)
    ]
    assert [(reply.status, reply.amount, reply.available) for reply in told] == [
        (200, 0, 250 * CREDIT),
        (200, 0, 250 * CREDIT),
        (429, 0, 250 * CREDIT),
    ]
    assert [reply.rate and reply.rate.remaining for reply in told] == [1, 0, 0]
    assert told[2].rate and told[2].rate.retry_at_ms == START_MS + MINUTE_MS
    assert [(fact.kind, fact.operation, fact.quantity, fact.reason) for fact in bench.facts[-3:]] == [
        ("request", "GET /v1/balance", 1, ""),
        ("request", "GET /v1/balance", 1, ""),
        ("refusal", "GET /v1/balance", 1, "rate_limited"),
    ]
    assert bench.charge("read", at_ms=START_MS + 3_000).code == "rate_limited", "it is one window for both"


def test_a_closed_project_goes_on_asking() -> None:
    bench = Bench()
    bench.do(CloseProject, reason="")
    assert bench.do(CountRequest, operation="GET /v1/balance", environment="production").status == 200


def test_no_reply_to_a_counted_request_is_kept() -> None:
    accounts: dict[str, Account] = {}
    request = CountRequest(project="p1", operation="GET /v1/balance", environment="production", **addressed("c"))
    items = [IntakeItem(at, START_MS, body) for at, body in enumerate([create_project(), request])]
    kept = Kept()
    first = fold(0, items, accounts, {}, kept, "intake")
    assert [reply.status for _, reply in first.replies] == [201, 200]
    again = fold(0, items, accounts, {}, kept, "intake")
    assert (again.facts, [reply.status for _, reply in again.replies]) == ([], [201])
    assert len(kept.by_request) == 1
    assert counted(accounts["p1"]) == 1
    fold(0, [IntakeItem(2, START_MS, request)], accounts, {}, kept, "intake")
    assert counted(accounts["p1"]) == 2, "sent again, it is another request"


def refused(bench: Bench, count: int, at_ms: int = START_MS) -> Reply:
    called = {"operation": "POST *", "environment": "production", "first_at_ms": at_ms - 900, "last_at_ms": at_ms}
    return bench.do(CountRefused, count=count, at_ms=at_ms, **called)


def test_what_the_api_refused_by_itself_is_one_fact_that_says_how_many_and_changes_no_window() -> None:
    bench = limit(Bench(), requests=2, burst=2)
    bench.charge("read")
    window = msgspec.to_builtins(bench.account.window)
    before = len(bench.facts)
    assert refused(bench, 1_700).status == 200
    (stated,) = bench.facts[before:]
    assert (stated.kind, stated.reason, stated.operation, stated.quantity, stated.amount) == (
        "refusal",
        "limited_at_edge",
        "POST *",
        1_700,
        0,
    )
    assert msgspec.json.decode(stated.metadata) == {"first_at_ms": START_MS - 900, "last_at_ms": START_MS}
    assert msgspec.to_builtins(bench.account.window) == window
    for wrong in (0, -1):
        assert refused(bench, wrong).code == "invalid_request"


def test_limits_on_trial_are_tried_on_all_that_the_api_refused_by_itself() -> None:
    bench = limit(Bench(), requests=2, burst=2)
    bench.do(SetLimits, limits=Limits(5, 8, 0), is_shadow=True, reason="")
    before = len(bench.facts)
    assert [refused(bench, many).shadow for many in (6, 6, 4)] == ["", "rate_limited", "rate_limited"]
    told = [(fact.kind, fact.reason, fact.quantity) for fact in bench.facts[before:]]
    assert told == [
        ("refusal", "limited_at_edge", 6),
        ("refusal", "limited_at_edge", 6),
        ("shadow", "rate_limited", 4),
        ("refusal", "limited_at_edge", 4),
        ("shadow", "rate_limited", 4),
    ]


def test_no_reply_is_kept_of_what_the_api_refused_and_a_redelivered_count_counts_once() -> None:
    accounts: dict[str, Account] = {}
    called = {"operation": "GET *", "environment": "production", "first_at_ms": 0, "last_at_ms": 1}
    command = CountRefused(project="p1", count=9, **called, **addressed("c"))
    items = [IntakeItem(at, START_MS, body) for at, body in enumerate([create_project(), command])]
    kept = Kept()
    first = fold(0, items, accounts, {}, kept, "intake")
    again = fold(0, items, accounts, {}, kept, "intake")
    assert ([fact.quantity for fact in first.facts if fact.kind == "refusal"], again.facts) == ([9], [])
    assert len(kept.by_request) == 1


def test_a_limited_request_is_decided_anew_under_its_key_once_it_may_pass() -> None:
    bench = limit(Bench(), requests=1, burst=1)
    bench.charge("read")
    asked = admit(usage("later"), key="k")
    assert command_reply(bench.booking(), asked, False).code == "rate_limited"
    assert command_reply(bench.booking(START_MS + MINUTE_MS), asked, False).status == 200
