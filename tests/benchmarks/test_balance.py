"""`meterline bench balance` measures what it says, tried for a second."""

import pytest

from tests.benchmarks.admission.callers import Level
from tests.benchmarks.balance.run import CONNECTIONS, measure, ratios, targets


@pytest.mark.benchmark
def test_balances_are_looked_up_beside_a_bare_route() -> None:
    result = measure(True, lambda _text: None)
    assert set(result["levels"]) == {"counted", "uncounted", "bare route"}
    for level in result["levels"].values():
        assert level["callers"] == CONNECTIONS
        assert set(level["answers"]) == {"200"}
        assert 0 < level["p50_ms"] <= level["p99_ms"]
    assert set(result["cpu_microseconds_per_look_up"]) == {"counted", "uncounted"}
    # Only a counted look-up asks the worker.
    worker = [result["cpu_microseconds_per_look_up"][name]["worker-1"] for name in ("counted", "uncounted")]
    assert worker[0] > worker[1]


def level(rate: float, p99_ms: float) -> Level:
    return Level(CONNECTIONS, rate, 1.0, p99_ms, 1, 1.0, 1, 1.0, {"200": 1})


@pytest.mark.parametrize(
    ("rate", "p99_ms", "bare", "is_reached"),
    [(500, 90.0, 1_000, True), (499, 10.0, 1_000, False), (3_000, 19.9, 9_000, True), (3_000, 20.0, 9_000, False)],
)
def test_the_target_is_half_of_a_bare_route_or_a_rate_with_a_bound(
    rate: float, p99_ms: float, bare: float, is_reached: bool
) -> None:
    counted = level(rate, p99_ms)
    assert list(targets(counted, ratios(counted, counted, level(bare, 1.0))).values()) == [is_reached]
