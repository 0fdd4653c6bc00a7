"""`meterline bench balance` measures what it says, tried for a second."""

import pytest

from tests.benchmarks.admission.callers import Level
from tests.benchmarks.balance.run import CONNECTIONS, measure, ratios, targets, targets_beside


@pytest.mark.benchmark
def test_balances_are_looked_up_beside_a_bare_route() -> None:
    result = measure(True, lambda _text: None, streams=10, events=500)
    assert set(result["levels"]) == {"counted", "uncounted", "bare route"}
    for level in result["levels"].values():
        assert level["callers"] == CONNECTIONS
        assert set(level["answers"]) == {"200"}
        assert 0 < level["p50_ms"] <= level["p99_ms"]
    assert set(result["cpu_microseconds_per_look_up"]) == {"counted", "uncounted"}
    # Only a counted look-up asks the worker.
    worker = [result["cpu_microseconds_per_look_up"][name]["worker-1"] for name in ("counted", "uncounted")]
    assert worker[0] > worker[1]
    beside = result["beside_streams_and_events"]
    assert set(beside["levels"]) == {f"{way}, {how}" for way in ("counted", "uncounted") for how in ("alone", "beside")}
    assert beside["told"]["entries"] > 0 and beside["events_per_second_sent"] > 0
    assert len(result["targets"]) == 3


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


@pytest.mark.parametrize(("ratio", "p99_ms", "is_reached"), [(0.7, 29.9, True), (0.69, 1.0, False), (0.9, 30.0, False)])
def test_beside_streams_the_target_is_a_share_of_the_rate_alone_with_a_bound(
    ratio: float, p99_ms: float, is_reached: bool
) -> None:
    names = ("counted", "uncounted")
    beside = {
        "streams": 500,
        "events_per_second_wanted": 20_000,
        "ratios": {f"{name}: beside/alone": ratio for name in names},
        "levels": {f"{name}, beside": {"p99_ms": p99_ms} for name in names},
    }
    assert list(targets_beside(beside).values()) == [is_reached] * 2
