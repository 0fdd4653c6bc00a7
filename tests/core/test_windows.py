"""The request window, against the conformance cases and against a plain list of times."""

import json
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.accounts import Limits, Window
from streams.core.windows import (
    SLOT_MS,
    TOKEN,
    WINDOW_MS,
    add_cost,
    advance,
    cost_left,
    cost_retry_at_ms,
    count_request,
    count_requests,
    request_retry_at_ms,
    rested,
)

CONFORMANCE = json.loads((Path(__file__).parent.parent / "conformance" / "rate_limit.json").read_text())
LIMIT, BURST = CONFORMANCE["limit"], CONFORMANCE["burst"]


CEILING = 300


def passes(window: Window, now_ms: int, limit: int = LIMIT, burst: int = BURST) -> bool:
    return not count_request(window, Limits(limit, burst, CEILING), now_ms).retry_at_ms


@pytest.mark.parametrize("case", CONFORMANCE["cases"], ids=lambda case: case["name"])
def test_conformance(case: dict) -> None:
    start_ms = 1_780_000_000_000
    window = rested(start_ms)
    for step in case["steps"]:
        now_ms = start_ms + round(step["t"] * 1000)
        assert sum(passes(window, now_ms) for _ in range(step["n"])) == step["admitted"], step


class PlainList:
    """The model, word by word: every request's own time, and tokens as exact fractions, refilled at one pace from the
    one instant that changes anything to the next."""

    def __init__(self, limit: int, burst: int, now_ms: int) -> None:
        self.limit, self.burst, self.now_ms = limit, burst, now_ms
        self.times: list[int] = []
        self.tokens = Fraction(burst - limit)

    def passes(self, now_ms: int) -> bool:
        while self.now_ms < now_ms:
            self.times = [at for at in self.times if at + WINDOW_MS > self.now_ms]
            until_ms = min([now_ms, *(at + WINDOW_MS for at in self.times)])
            if len(self.times) < self.limit:
                refilled = self.tokens + (until_ms - self.now_ms) * Fraction(self.limit, 60_000)
                self.tokens = min(Fraction(self.burst - self.limit), refilled)
            self.now_ms = until_ms
        self.times = [at for at in self.times if at + WINDOW_MS > now_ms]
        if len(self.times) < self.limit:
            self.times.append(now_ms)
            return True
        if self.tokens >= 1:
            self.tokens -= 1
            self.times.append(now_ms)
            return True
        return False


GAPS = st.one_of(st.just(0), st.integers(1, 400), st.sampled_from((SLOT_MS, 5_000, 20_000, 59_900, WINDOW_MS)))


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(0, 4), st.lists(GAPS, min_size=1, max_size=20))
def test_it_is_the_model_where_each_request_has_a_tenth_of_a_second_to_itself(limit, more, gaps) -> None:
    now_ms = 1_000_000
    window, model = rested(now_ms), PlainList(limit, limit + more, now_ms)
    for gap in gaps:
        # Several requests at one instant share a slot exactly.
        now_ms += gap if gap == 0 or gap % SLOT_MS == 0 else gap * SLOT_MS
        assert passes(window, now_ms, limit, limit + more) == model.passes(now_ms)
        assert more * TOKEN - window.spent == model.tokens * TOKEN


@given(st.integers(1, 30), st.integers(0, 30), st.lists(st.integers(0, 3_000), min_size=1, max_size=300))
def test_it_never_lets_more_through_than_the_limit_allows(limit, more, gaps) -> None:
    """The window lets no more requests pass in any 60 seconds than the limit and the tokens there can have been."""
    now_ms, window, admitted = 0, rested(0), []
    for gap in gaps:
        now_ms += gap
        state = count_request(window, Limits(limit, limit + more, CEILING), now_ms)
        assert 0 <= state.remaining <= limit
        if state.retry_at_ms:
            assert now_ms < state.retry_at_ms <= now_ms + WINDOW_MS
        else:
            admitted.append(now_ms)
        recent = [at for at in admitted if at > now_ms - WINDOW_MS]
        assert len(recent) <= 2 * limit + more
        assert len(window.arrivals) <= 2 * (WINDOW_MS // SLOT_MS + 1)


@settings(max_examples=100)
@given(st.integers(1, 6), st.integers(0, 6), st.lists(st.one_of(st.just(0), st.integers(0, 700), GAPS), max_size=60))
def test_what_it_lets_through_the_model_lets_through_too(limit, more, gaps) -> None:
    """The model, told only of the requests that the window let pass, lets all of them pass, whatever their times."""
    now_ms = 1_000_000
    window, model = rested(now_ms), PlainList(limit, limit + more, now_ms)
    for gap in gaps:
        now_ms += gap
        if passes(window, now_ms, limit, limit + more):
            assert model.passes(now_ms)


@given(st.integers(1, 6), st.integers(0, 6), st.lists(st.tuples(GAPS, st.integers(0, 20)), max_size=30))
def test_many_at_once_are_decided_as_one_by_one(limit, more, times) -> None:
    limits, now_ms = Limits(limit, limit + more, CEILING), 1_000_000
    one_by_one, together = rested(now_ms), rested(now_ms)
    for gap, many in times:
        now_ms += gap
        passed = sum(not count_request(one_by_one, limits, now_ms).retry_at_ms for _ in range(many))
        assert count_requests(together, limits, now_ms, many) == passed
        advance(one_by_one, limits, now_ms)
        assert together == one_by_one


@given(
    st.integers(1, 6),
    st.integers(0, 6),
    st.lists(GAPS, max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3_000)), max_size=20),
    st.integers(0, WINDOW_MS),
)
def test_where_a_window_is_full_it_is_full_whatever_was_counted_since(limit, more, gaps, since, later) -> None:
    """The API refuses by a copy of the window that may lack the newest requests: those can only add."""
    limits, now_ms = Limits(limit, limit + more, CEILING), 1_000_000
    window = rested(now_ms)
    for gap in gaps:
        now_ms += gap
        count_request(window, limits, now_ms)
    copy, copied_ms = msgspec.convert(msgspec.to_builtins(window), Window), now_ms
    for many, gap in since:
        now_ms += gap
        count_requests(window, limits, now_ms, many)
    for at_ms in {copied_ms + later, now_ms + later, now_ms}:
        if at_ms >= now_ms:
            advance(copy, limits, at_ms)
            advance(window, limits, at_ms)
            retry_at_ms = request_retry_at_ms(copy, limits)
            assert not retry_at_ms or request_retry_at_ms(window, limits) >= retry_at_ms
            copy, window = (msgspec.convert(msgspec.to_builtins(each), Window) for each in (copy, window))
            now_ms = at_ms


@given(st.integers(1, 500), st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 200)), max_size=80))
def test_no_minute_costs_more_than_the_ceiling(ceiling, requests) -> None:
    limits, now_ms, window, spent = Limits(1_000, 1_000, ceiling), 0, rested(0), []
    for gap, cost in requests:
        now_ms += gap
        advance(window, limits, now_ms)
        in_a_minute = sum(each for at, each in spent if at > now_ms - WINDOW_MS)
        assert cost_left(window, limits) <= ceiling - in_a_minute
        if cost <= cost_left(window, limits):
            add_cost(window, now_ms, cost)
            spent.append((now_ms, cost))
        elif cost <= ceiling:
            now_ms = cost_retry_at_ms(window, limits, cost)
            early = Window([], 0, window.at_ms, list(window.costs))
            advance(early, limits, now_ms - 1)
            assert cost_left(early, limits) < cost
            advance(window, limits, now_ms)
            assert cost_left(window, limits) >= cost


def test_spent_burst_is_kept_where_limits_change() -> None:
    """Limits are raised from 2 and 4 to 10 and 20 after two tokens were spent: eight of the ten are left."""
    low, high, now_ms = Limits(2, 4, CEILING), Limits(10, 20, CEILING), 1_000_000
    window = rested(now_ms)
    assert [not count_request(window, low, now_ms).retry_at_ms for _ in range(5)] == [True] * 4 + [False]
    advance(window, low, now_ms + 1_000)
    passed = [not count_request(window, high, now_ms + 1_000).retry_at_ms for _ in range(20)]
    assert sum(passed) == (10 - 4) + (10 - 2)
    # When limits are lower again, no token of the burst is left, and no more than a lower burst is owed.
    advance(window, high, now_ms + 2_000)
    assert count_request(window, low, now_ms + 2_000).retry_at_ms
    advance(window, low, now_ms + 3_000)
    assert window.spent == 2 * TOKEN


@given(st.integers(1, 10), st.lists(st.integers(0, 2_000), min_size=30, max_size=60))
def test_who_waits_as_long_as_it_is_told_passes(limit, gaps) -> None:
    now_ms, window = 0, rested(0)
    for gap in gaps:
        now_ms += gap
        retry_at_ms = count_request(window, Limits(limit, limit, CEILING), now_ms).retry_at_ms
        if retry_at_ms:
            early = Window(list(window.arrivals), window.spent, window.at_ms)
            assert not passes(early, retry_at_ms - 1, limit, limit)
            now_ms = retry_at_ms
            assert passes(window, now_ms, limit, limit)
