"""The request window, against the conformance cases and against a plain list of times."""

import json
from fractions import Fraction
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Limits, Window
from streams.core.windows import (
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
# A list has no more, and tells apart as many times.
ENTRIES = 64


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
    one instant that changes anything to the next. `late_ms` has requests age out so much later."""

    def __init__(self, limit: int, burst: int, now_ms: int, late_ms: int = 0) -> None:
        self.limit, self.burst, self.now_ms = limit, burst, now_ms
        self.aging_ms = WINDOW_MS + late_ms
        self.times: list[int] = []
        self.tokens = Fraction(burst - limit)

    def retry_at_ms(self, now_ms: int) -> int:
        """The time at which a request that comes now would pass, without tokens that come back; 0 is at once."""
        self.move_to(now_ms)
        if len(self.times) < self.limit or self.tokens >= 1:
            return 0
        return sorted(self.times)[-self.limit] + self.aging_ms

    def move_to(self, now_ms: int) -> None:
        while self.now_ms < now_ms:
            until_ms = min([now_ms, *(at + self.aging_ms for at in self.times)])
            if len(self.times) < self.limit:
                refilled = self.tokens + (until_ms - self.now_ms) * Fraction(self.limit, 60_000)
                self.tokens = min(Fraction(self.burst - self.limit), refilled)
            self.now_ms = until_ms
            self.times = [at for at in self.times if at + self.aging_ms > until_ms]

    def count(self) -> None:
        """Count a request that passed, be it one that this model would have stopped."""
        if len(self.times) >= self.limit:
            self.tokens -= 1
        self.times.append(self.now_ms)


GAPS = st.one_of(st.just(0), st.integers(1, 400), st.sampled_from((1_000, 5_000, 20_000, 59_900, WINDOW_MS)))
SEEDS = st.integers(0, 2**32)


@st.composite
def steady(draw: st.DrawFn) -> list[int]:
    """Gaps of a project that comes some 64 times a minute, never more, with several requests at a time."""
    chance = Random(draw(SEEDS))
    return [chance.choice((0, 938, 938, 945)) for _ in range(draw(st.integers(65, 250)))]


@st.composite
def busy(draw: st.DrawFn) -> list[int]:
    """Gaps of a busy project, which keep its lists full: several to a second, for minutes, and a pause now and then."""
    gaps_ms_max, count, chance = draw(st.integers(0, 700)), draw(st.integers(65, 500)), Random(draw(SEEDS))
    pauses = draw(st.lists(GAPS, min_size=1, max_size=4))
    return [chance.choice(pauses) if chance.random() < 0.03 else chance.randint(0, gaps_ms_max) for _ in range(count)]


# A minute has at most 64 different times: none is ever merged.
FEW = st.one_of(st.lists(st.one_of(st.just(0), GAPS, st.integers(0, 3_000)), max_size=ENTRIES), steady())
LIMITS = st.one_of(st.integers(1, 6), st.integers(60, 200))
MORE = st.one_of(st.just(0), st.integers(1, 6), st.integers(60, 200))


def check_lists(window: Window) -> None:
    """Check that both lists are short, in order, and have the sums that the window keeps."""
    for counted, total in ((window.arrivals, window.requests), (window.costs, window.cost)):
        assert len(counted) <= 2 * ENTRIES
        assert sum(counted[1::2]) == total
        assert counted[::2] == sorted(set(counted[::2]))
        assert not counted or window.at_ms - WINDOW_MS < counted[0] <= counted[-2] <= window.at_ms


@given(LIMITS, MORE, FEW)
def test_with_few_arrivals_it_is_the_model_to_the_millisecond(limit, more, gaps) -> None:
    now_ms = 1_000_000
    limits = Limits(limit, limit + more, CEILING)
    window, model = rested(now_ms), PlainList(limit, limit + more, now_ms)
    for gap in gaps:
        now_ms += gap
        advance(window, limits, now_ms)
        model.move_to(now_ms)
        assert window.requests == len(model.times)
        assert more * TOKEN - window.spent == model.tokens * TOKEN
        retry_at_ms = model.retry_at_ms(now_ms)
        if not retry_at_ms:
            model.count()
        state = count_request(window, limits, now_ms)
        assert (state.retry_at_ms, state.remaining) == (retry_at_ms, max(0, limit - len(model.times)))
        assert state.reset_at_ms == model.times[-1] + WINDOW_MS
        check_lists(window)


@given(LIMITS, MORE, st.one_of(FEW, busy()))
def test_it_is_never_looser_than_the_model_and_never_stricter_than_one_that_is_a_second_late(limit, more, gaps) -> None:
    """Two models are told of the requests that the window let pass, and only of these. The exact one lets them all pass
    too. One in which each request ages out just under a second late lets nothing pass that the window stops."""
    now_ms = 1_000_000
    limits = Limits(limit, limit + more, CEILING)
    window, model = rested(now_ms), PlainList(limit, limit + more, now_ms)
    late = PlainList(limit, limit + more, now_ms, late_ms=999)
    for gap in gaps:
        now_ms += gap
        exactly_ms, late_ms = model.retry_at_ms(now_ms), late.retry_at_ms(now_ms)
        state = count_request(window, limits, now_ms)
        check_lists(window)
        assert len(model.times) <= window.requests - (not state.retry_at_ms) <= len(late.times)
        if state.retry_at_ms:
            assert late_ms
            assert now_ms < state.retry_at_ms <= now_ms + WINDOW_MS
            assert exactly_ms <= state.retry_at_ms <= late_ms
            # Burst tokens aside, what the model lets pass now, or says would pass then, waits less than a second.
            assert more or state.retry_at_ms < (exactly_ms or now_ms) + 1_000
        else:
            assert not exactly_ms
            model.count()
            late.count()


@given(LIMITS, MORE, st.one_of(FEW, busy()))
def test_a_request_is_counted_as_of_its_own_time_or_a_later_one_of_its_second(limit, more, gaps) -> None:
    now_ms, window, passed = 1_000_000, rested(1_000_000), []
    limits = Limits(limit, limit + more, CEILING)
    for gap in gaps:
        now_ms += gap
        if not count_request(window, limits, now_ms).retry_at_ms:
            passed.append(now_ms)
            assert window.arrivals[-2] == now_ms
        counted = [
            at for at, many in zip(window.arrivals[::2], window.arrivals[1::2], strict=True) for _ in range(many)
        ]
        assert len(counted) <= len(passed)
        for came_ms, as_of_ms in zip(reversed(passed), reversed(counted), strict=False):
            assert came_ms <= as_of_ms and came_ms // 1_000 == as_of_ms // 1_000


def test_a_window_full_of_seconds_never_needs_a_65th_entry() -> None:
    """The worst that can come: 64 entries in as few seconds as can be, then every second of the clock anew."""
    limits, window = Limits(10**6, 10**6, CEILING), rested(0)
    times = [*range(936, 1_000), *(second * 1_000 + ms for second in range(1, 200) for ms in (0, 1, 500, 998, 999))]
    lengths = []
    for now_ms in times:
        assert not count_request(window, limits, now_ms).retry_at_ms
        add_cost(window, now_ms, 7)
        check_lists(window)
        assert window.arrivals[::2] == window.costs[::2] and window.cost == 7 * window.requests
        lengths.append(len(window.arrivals) // 2)
    assert max(lengths) == ENTRIES and min(lengths[ENTRIES:]) == 2


@given(st.integers(1, 30), st.integers(0, 30), st.lists(st.integers(0, 3_000), min_size=1, max_size=300))
def test_it_never_lets_more_through_than_the_limit_allows(limit, more, gaps) -> None:
    """The window lets no more requests pass in any 60 seconds than the limit and the tokens there can have been."""
    now_ms, window, admitted = 0, rested(0), []
    for gap in gaps:
        now_ms += gap
        state = count_request(window, Limits(limit, limit + more, CEILING), now_ms)
        assert 0 <= state.remaining <= limit
        if not state.retry_at_ms:
            admitted.append(now_ms)
        recent = [at for at in admitted if at > now_ms - WINDOW_MS]
        assert len(recent) <= 2 * limit + more


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
    LIMITS,
    MORE,
    st.one_of(st.lists(GAPS, max_size=40), busy()),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3_000)), max_size=80),
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


def costs(gaps: st.SearchStrategy[list[int]]) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Requests as (ms since the one before, what it costs)."""
    return st.tuples(gaps, st.integers(1, 200), SEEDS).map(
        lambda drawn: [(gap, Random(drawn[2] + place).randint(0, drawn[1])) for place, gap in enumerate(drawn[0])]
    )


def cost_wait(spent: list[tuple[int, int]], ceiling: int, cost: int, now_ms: int, late_ms: int = 0) -> int:
    """The time at which that much more could be spent in a minute: now, or when enough of it has aged out."""
    ends = sorted(at_ms + WINDOW_MS + late_ms for at_ms, _ in spent)
    for then_ms in (now_ms, *(end for end in ends if end > now_ms)):
        if sum(each for at_ms, each in spent if at_ms + WINDOW_MS + late_ms > then_ms) + cost <= ceiling:
            return then_ms
    raise AssertionError("an empty minute has room for all that is under its ceiling")


@given(st.integers(200, 5_000), costs(FEW))
def test_with_few_costs_the_ceiling_is_the_models_to_the_millisecond(ceiling, requests) -> None:
    limits, now_ms, window, spent = Limits(1, 1, ceiling), 1_000_000, rested(1_000_000), []
    for gap, cost in requests:
        now_ms += gap
        advance(window, limits, now_ms)
        assert cost_left(window, limits) == ceiling - sum(each for at, each in spent if at + WINDOW_MS > now_ms)
        if cost <= cost_left(window, limits):
            add_cost(window, now_ms, cost)
            spent.append((now_ms, cost))
        else:
            assert cost_retry_at_ms(window, limits, cost) == cost_wait(spent, ceiling, cost, now_ms)
        check_lists(window)


@given(st.integers(200, 20_000), costs(st.one_of(FEW, busy())))
def test_no_minute_costs_more_than_the_ceiling_and_none_waits_a_second_longer(ceiling, requests) -> None:
    limits, now_ms, window, spent = Limits(1, 1, ceiling), 1_000_000, rested(1_000_000), []
    for gap, cost in requests:
        now_ms += gap
        advance(window, limits, now_ms)
        spent = [(at_ms, each) for at_ms, each in spent if at_ms + 2 * WINDOW_MS > now_ms]
        exactly = sum(each for at_ms, each in spent if at_ms + WINDOW_MS > now_ms)
        late = sum(each for at_ms, each in spent if at_ms + WINDOW_MS + 999 > now_ms)
        assert ceiling - late <= cost_left(window, limits) <= ceiling - exactly
        if cost <= cost_left(window, limits):
            add_cost(window, now_ms, cost)
            spent.append((now_ms, cost))
        else:
            retry_at_ms = cost_retry_at_ms(window, limits, cost)
            exactly_ms = cost_wait(spent, ceiling, cost, now_ms)
            assert now_ms < retry_at_ms and exactly_ms <= retry_at_ms < exactly_ms + 1_000
            early = msgspec.convert(msgspec.to_builtins(window), Window)
            advance(early, limits, retry_at_ms - 1)
            assert cost_left(early, limits) < cost
            advance(early, limits, retry_at_ms)
            assert cost_left(early, limits) >= cost
        check_lists(window)


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


@given(LIMITS, st.one_of(st.lists(st.integers(0, 2_000), min_size=30, max_size=60), busy()))
def test_who_waits_as_long_as_it_is_told_passes(limit, gaps) -> None:
    now_ms, window = 0, rested(0)
    for gap in gaps:
        now_ms += gap
        retry_at_ms = count_request(window, Limits(limit, limit, CEILING), now_ms).retry_at_ms
        if retry_at_ms:
            early = msgspec.convert(msgspec.to_builtins(window), Window)
            assert not passes(early, retry_at_ms - 1, limit, limit)
            now_ms = retry_at_ms
            assert passes(window, now_ms, limit, limit)
