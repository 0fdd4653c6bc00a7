"""Limits of a project: its plan's, its contract's, raises for a while, and limits on trial."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.accounts import Account, Limits
from schemas.commands import ChangePlan, CountRequest, EndRaise, RaiseLimits, SetLimits, Tick
from schemas.problems import CODES
from schemas.replies import Reply
from schemas.times import DAY_MS, HOUR_MS
from streams.core.fold import IntakeItem, fold
from streams.core.limits import RAISE_DAYS_MAX, RAISES_MAX, limits_of
from streams.core.plans import PLANS
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, create_project, usage
from tests.core.builders import admit as admit_command
from tests.core.test_ledger import Bench

MINUTE_MS = 60_000


def new(plan: str = "free") -> Bench:
    """A project with its plan's limits, and no others."""
    bench = Bench(plan)
    bench.account.limits = None
    return bench


def set_limits(bench: Bench, requests: int = 0, burst: int = 0, ceiling: int = 0, at_ms: int = START_MS) -> Reply:
    return bench.do(SetLimits, at_ms, limits=Limits(requests, burst, ceiling * CREDIT), is_shadow=False, reason="")


def try_limits(bench: Bench, requests: int = 0, burst: int = 0, ceiling: int = 0, at_ms: int = START_MS) -> Reply:
    return bench.do(SetLimits, at_ms, limits=Limits(requests, burst, ceiling * CREDIT), is_shadow=True, reason="")


def raise_to(
    bench: Bench,
    requests: int = 0,
    burst: int = 0,
    ceiling: int = 0,
    starts_at_ms: int = 0,
    ends_at_ms: int = START_MS + HOUR_MS,
    at_ms: int = START_MS,
) -> Reply:
    limits = Limits(requests, burst, ceiling * CREDIT)
    return bench.do(
        RaiseLimits, at_ms, limits=limits, starts_at_ms=starts_at_ms, ends_at_ms=ends_at_ms, reason="launch"
    )


def passed(bench: Bench, times: int, at_ms: int = START_MS) -> int:
    """The number of requests that pass, of `times` at once."""
    replies = [
        bench.do(CountRequest, at_ms, operation="GET /v1/balance", environment="production") for _ in range(times)
    ]
    return sum(reply.status == 200 for reply in replies)


def stated(bench: Bench) -> list[tuple[str, int]]:
    """The facts about limits, each as (reason, ms after START_MS at which it occurred)."""
    return [(fact.reason, fact.occurred_at_ms - START_MS) for fact in bench.facts if fact.kind == "limits"]


def test_a_contracts_limits_hold_over_the_plans_where_they_say_something() -> None:
    bench = new()
    assert limits_of(bench.account) == Limits(30, 60, 300 * CREDIT)
    set_limits(bench, requests=100)
    assert limits_of(bench.account) == Limits(100, 100, 300 * CREDIT), "the burst is at least the limit"
    set_limits(bench, burst=40, ceiling=7)
    assert limits_of(bench.account) == Limits(30, 40, 7 * CREDIT)
    set_limits(bench)
    assert bench.account.limits is None
    assert limits_of(bench.account) == PLANS["free"].limits


def test_a_contracts_limits_are_stated_with_what_they_say() -> None:
    bench = new()
    bench.do(SetLimits, limits=Limits(0, 90, 5 * CREDIT // 2), is_shadow=False, reason="as agreed")
    assert bench.facts[-1].reason == "set"
    assert json.loads(bench.facts[-1].metadata) == {"burst": 90, "cost_ceiling": "2.5", "reason": "as agreed"}


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (Limits(-1, 0, 0), "requests_per_minute"),
        (Limits(1_000_001, 0, 0), "requests_per_minute"),
        (Limits(0, -1, 0), "burst"),
        (Limits(0, 2_000_001, 0), "burst"),
        (Limits(0, 0, -1), "cost_ceiling"),
        (Limits(0, 0, 1_000_000_000 * CREDIT + 1), "cost_ceiling"),
    ],
)
def test_limits_out_of_range_are_refused_and_change_nothing(limits: Limits, field: str) -> None:
    bench = new()
    for refused in (
        bench.do(SetLimits, limits=limits, is_shadow=False, reason=""),
        bench.do(SetLimits, limits=limits, is_shadow=True, reason=""),
        bench.do(RaiseLimits, limits=limits, starts_at_ms=0, ends_at_ms=START_MS + 1, reason=""),
    ):
        assert (refused.code, refused.field) == ("invalid_request", field)
    assert (bench.account.limits, bench.account.shadow, bench.account.raises) == (None, None, [])
    assert stated(bench) == []


def test_a_change_of_plan_keeps_the_burst_tokens_that_are_spent() -> None:
    bench = new()
    assert passed(bench, 61) == 60
    bench.do(ChangePlan, plan="hobby", contract_allowance=0)
    # Hobby has 60 tokens, of which 30 are spent; its 60 requests a minute are all used.
    assert passed(bench, 100) == 30


def test_a_lower_contract_owes_no_more_tokens_than_it_has() -> None:
    bench = new("build")
    assert passed(bench, 481) == 480
    set_limits(bench, requests=2, burst=4)
    assert passed(bench, 1, START_MS + MINUTE_MS - 1) == 0
    # All tokens are spent at once, and half a minute later one is back.
    assert passed(bench, 4, START_MS + MINUTE_MS + 30_000) == 3


def test_a_raise_begins_now_and_ends_by_its_time() -> None:
    bench = new()
    planned = raise_to(bench, requests=50, burst=70, ends_at_ms=START_MS + HOUR_MS)
    assert planned.status == 200
    assert passed(bench, 100) == 70
    assert limits_of(bench.account).cost_ceiling == 300 * CREDIT
    assert passed(bench, 100, START_MS + HOUR_MS - 1) == 70
    assert passed(bench, 100, START_MS + 2 * HOUR_MS) == 60
    assert stated(bench) == [("raise_planned", 0), ("raise_begun", 0), ("raise_ended", HOUR_MS)]
    begun = [fact for fact in bench.facts if fact.reason in ("raise_begun", "raise_ended")]
    assert all(json.loads(fact.metadata)["raise_id"] == planned.entry_id for fact in begun)


def test_a_raise_begins_later() -> None:
    bench = new()
    raise_to(bench, requests=100, starts_at_ms=START_MS + HOUR_MS, ends_at_ms=START_MS + 2 * HOUR_MS)
    assert [each.is_on for each in bench.account.raises] == [False]
    assert passed(bench, 200, START_MS + HOUR_MS - 2 * MINUTE_MS) == 60
    assert passed(bench, 200, START_MS + HOUR_MS) == 100
    assert passed(bench, 200, START_MS + 2 * HOUR_MS) == 60
    assert stated(bench) == [("raise_planned", 0), ("raise_begun", HOUR_MS), ("raise_ended", 2 * HOUR_MS)]


def test_a_raise_that_nobody_saw_begins_and_ends_all_the_same() -> None:
    bench = new()
    raise_to(bench, requests=100, starts_at_ms=START_MS + HOUR_MS, ends_at_ms=START_MS + 2 * HOUR_MS)
    assert passed(bench, 100, START_MS + 3 * HOUR_MS) == 60
    assert stated(bench) == [("raise_planned", 0), ("raise_begun", HOUR_MS), ("raise_ended", 2 * HOUR_MS)]
    assert {fact.booked_at_ms for fact in bench.facts if fact.reason in ("raise_begun", "raise_ended")} == {
        START_MS + 3 * HOUR_MS
    }


def test_a_raise_lowers_nothing() -> None:
    bench = new("build")
    raise_to(bench, requests=10, burst=20, ceiling=5)
    assert limits_of(bench.account) == PLANS["build"].limits


def test_of_raises_that_overlap_the_highest_counts_limit_by_limit() -> None:
    bench = new()
    raise_to(bench, requests=100, ends_at_ms=START_MS + 3 * HOUR_MS)
    raise_to(bench, requests=50, ceiling=900, starts_at_ms=START_MS + HOUR_MS, ends_at_ms=START_MS + 2 * HOUR_MS)
    seen = []
    for hours in range(4):
        bench.booking(START_MS + hours * HOUR_MS)
        seen.append(limits_of(bench.account))
    assert seen == [
        Limits(100, 100, 300 * CREDIT),
        Limits(100, 100, 900 * CREDIT),
        Limits(100, 100, 300 * CREDIT),
        PLANS["free"].limits,
    ]


def test_a_raise_is_ended_before_its_time_or_taken_back_before_it_begins() -> None:
    bench = new()
    on = raise_to(bench, requests=100).entry_id
    later = raise_to(bench, requests=200, starts_at_ms=START_MS + 1_000).entry_id
    for raise_id in (later, on):
        assert bench.do(EndRaise, START_MS + 10, raise_id=raise_id).status == 200
        assert bench.do(EndRaise, START_MS + 10, raise_id=raise_id).code == "unknown_raise"
    assert (bench.account.raises, limits_of(bench.account)) == ([], PLANS["free"].limits)
    assert stated(bench)[-2:] == [("raise_ended", 10), ("raise_ended", 10)]


def test_tokens_refill_by_the_limits_that_held_in_that_time() -> None:
    """Tokens refill for half a minute at 2 a minute, for half a minute at 60, and for half a minute at 2 again, though
    no request came in between."""
    bench = new()
    set_limits(bench, requests=2, burst=102)
    assert passed(bench, 103) == 102
    raise_to(
        bench,
        requests=60,
        burst=160,
        starts_at_ms=START_MS + MINUTE_MS + 30_000,
        ends_at_ms=START_MS + 2 * MINUTE_MS,
    )
    # Tokens come back once the first minute is over. Two more requests pass by the limit itself.
    assert passed(bench, 100, START_MS + 2 * MINUTE_MS + 30_000) == 2 + 1 + 30 + 1


@pytest.mark.parametrize(
    ("starts_at_ms", "ends_at_ms", "code"),
    [
        (0, START_MS, "invalid_request"),
        (0, START_MS - 1, "invalid_request"),
        (START_MS + 5, START_MS + 5, "invalid_request"),
        (0, START_MS + RAISE_DAYS_MAX * DAY_MS + 1, "invalid_request"),
        (0, START_MS + RAISE_DAYS_MAX * DAY_MS, ""),
        (START_MS - DAY_MS, START_MS + 1, ""),
        (START_MS + 5, START_MS + 6, ""),
    ],
)
def test_a_raise_ends_after_it_begins_and_within_a_year(starts_at_ms: int, ends_at_ms: int, code: str) -> None:
    bench = new()
    reply = raise_to(bench, requests=100, starts_at_ms=starts_at_ms, ends_at_ms=ends_at_ms)
    assert (reply.code, reply.field) == (code, "ends_at" if code else "")
    assert len(bench.account.raises) == (not code)


def test_a_raise_says_which_limit_it_raises() -> None:
    assert raise_to(new()).code == "invalid_request"


def test_a_project_has_so_many_raises_and_no_more() -> None:
    bench = new()
    for _ in range(RAISES_MAX):
        assert raise_to(bench, requests=100).status == 200
    refused = raise_to(bench, requests=100)
    assert (refused.status, refused.code) == (CODES["too_many_raises"].status, "too_many_raises")
    assert raise_to(bench, requests=100, at_ms=START_MS + HOUR_MS, ends_at_ms=START_MS + 2 * HOUR_MS).status == 200


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 90)), max_size=5),
    st.lists(st.integers(1, 10), max_size=3),
)
def test_ticks_and_time_alone_turn_raises_with_the_same_facts(raises: list, ticks: list[int]) -> None:
    """Raises are turned on and off by the next request alone, or by ticks on the way to it."""

    def run(wakes: list[int]) -> tuple[list, Account]:
        accounts: dict[str, Account] = {}
        bodies = [(0, create_project())]
        for number, (starts, lasts, requests) in enumerate(raises):
            times = {"starts_at_ms": START_MS + starts * HOUR_MS, "ends_at_ms": START_MS + (starts + lasts) * HOUR_MS}
            limits = Limits(requests, 0, 0)
            bodies.append((0, RaiseLimits(project="p1", limits=limits, reason="", **times, **addressed(f"c{number}"))))
        bodies += [(hour, Tick(["p1"])) for hour in sorted(wakes)]
        bodies.append(
            (11, CountRequest(project="p1", operation="GET /", environment="production", **addressed("last")))
        )
        facts = []
        for offset, (hour, body) in enumerate(bodies):
            facts += fold(
                0, [IntakeItem(offset, START_MS + hour * HOUR_MS, body)], accounts, {}, Kept(), "intake"
            ).facts
        return [(fact.reason, fact.occurred_at_ms, fact.metadata) for fact in facts if fact.kind == "limits"], accounts[
            "p1"
        ]

    lazily, account = run([])
    by_ticks, other = run(ticks)
    assert lazily == by_ticks
    assert (account.raises, other.raises) == ([], [])
    assert account.window == other.window


def test_limits_on_trial_stop_nothing_and_say_what_they_would_have_stopped() -> None:
    bench = new()
    try_limits(bench, requests=2, burst=2, ceiling=50)
    replies = [bench.charge(operation) for operation in ("video.budget", "blog_post", "image", "read")]
    assert [reply.status for reply in replies] == [200] * 4
    assert [reply.shadow for reply in replies] == ["", "over_cost_ceiling", "rate_limited", "rate_limited"]
    shadows = [(f.kind, f.reason, f.operation, f.event_id) for f in bench.facts if f.kind == "shadow"]
    assert shadows == [
        ("shadow", "over_cost_ceiling", "blog_post", "e2"),
        ("shadow", "rate_limited", "image", "e3"),
        ("shadow", "rate_limited", "read", "e4"),
    ]
    assert sum(fact.amount for fact in bench.facts) == (250 - 40 - 60 - 32) * CREDIT


def test_a_ceiling_on_trial_counts_what_it_would_have_let_pass() -> None:
    bench = new()
    try_limits(bench, ceiling=50)
    assert [bench.charge("image").shadow for _ in range(2)] == ["", "rate_limited"]
    assert [bench.charge("content_plan").shadow for _ in range(2)] == ["", "rate_limited"]
    assert bench.charge("content_plan", at_ms=START_MS + MINUTE_MS).shadow == ""


def test_what_is_decided_already_is_another_request_on_trial_too() -> None:
    bench = new()
    try_limits(bench, requests=1, burst=1)
    placed = bench.hold("image", job_id="j")
    again = bench.hold("image", job_id="j")
    assert (again.hold_id, again.shadow) == (placed.hold_id, "rate_limited")


def test_what_the_limits_in_force_stop_is_tried_as_well() -> None:
    bench = new()
    set_limits(bench, requests=1, burst=1)
    try_limits(bench, requests=2, burst=2)
    assert [bench.charge("read").status for _ in range(3)] == [200, 429, 429]
    assert [fact.kind for fact in bench.facts[-4:]] == ["charge", "refusal", "refusal", "shadow"]


def test_a_trial_begins_rested_and_ends() -> None:
    bench = new()
    passed(bench, 30)
    try_limits(bench, requests=1, burst=1)
    assert [bench.charge("read").shadow for _ in range(2)] == ["", "rate_limited"]
    try_limits(bench)
    assert bench.account.shadow is None
    assert bench.charge("read").shadow == ""
    assert stated(bench) == [("shadow", 0), ("shadow", 0)]


def test_a_trial_leaves_open_what_it_does_not_name() -> None:
    """A ceiling that the trial does not name is the plan's, which a raise lifts."""
    bench = new("build")
    try_limits(bench, requests=100)
    assert bench.charge("video.budget", 11).code == "over_cost_ceiling"
    raise_to(bench, ceiling=1_000)
    assert bench.charge("video.budget", 11).shadow == ""


def test_a_reply_that_is_kept_tells_what_the_trial_said() -> None:
    accounts: dict[str, Account] = {}
    trial = SetLimits(project="p1", limits=Limits(0, 0, CREDIT), is_shadow=True, reason="", **addressed("s"))
    asked = admit_command(usage("a", operation="image"), correlation="a", key="k")
    items = [IntakeItem(at, START_MS, body) for at, body in enumerate([create_project(), trial, asked])]
    kept = Kept()
    first = fold(0, items, accounts, {}, kept, "intake")
    again = fold(0, items, accounts, {}, kept, "intake")
    assert first.replies[-1][1].shadow == "over_cost_ceiling"
    assert again.replies == first.replies
