"""The model's window, which shares no line with the core's, is the core's to the millisecond, however busy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Limits
from streams.core.windows import add_cost, cost_left, cost_retry_at_ms, count_request, rested
from tests.core.test_windows import FEW, LIMITS, MORE, busy, costs
from tests.simulation.checks import stored_use, used
from tests.simulation.model.windows import Ceilings
from tests.simulation.model.windows import Window as ModelWindow


@given(LIMITS, MORE, st.integers(200, 20_000), costs(st.one_of(FEW, busy())))
def test_both_windows_decide_and_tell_the_same(limit: int, more: int, ceiling: int, requests: list) -> None:
    now_ms = 1_000_000
    limits, ceilings = Limits(limit, limit + more, ceiling), Ceilings(limit, limit + more, ceiling)
    window, model = rested(now_ms), ModelWindow(now_ms)
    for gap, cost in requests:
        now_ms += gap
        state = count_request(window, limits, now_ms)
        model.move_to(now_ms, ceilings)
        passed = model.take(ceilings)
        told = model.told(ceilings, 0 if passed else model.wait_for_request(ceilings))
        assert (state.limit, state.remaining, state.reset_at_ms, state.retry_at_ms) == told
        if passed and cost <= cost_left(window, limits):
            assert not model.wait_for_cost(ceilings, cost)
            add_cost(window, now_ms, cost)
            model.add_cost(cost)
        elif passed:
            assert cost_retry_at_ms(window, limits, cost) == model.wait_for_cost(ceilings, cost)
        assert stored_use(window) == used(model)
