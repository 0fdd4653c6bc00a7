"""`meterline bench courier` counts what it says: tried on a small stack, with kills."""

import pytest

from tests.benchmarks.courier.run import QUICK, measure, most_in_a_second, passed


@pytest.mark.benchmark
def test_no_notice_is_lost_or_billed_twice_and_the_cap_holds() -> None:
    result = measure(QUICK, lambda _text: None)
    assert passed(result), result
    assert result["kills"]["kills"] == QUICK.kills
    assert result["kills"]["retries_billed"] > 0
    assert 0 < result["mixed"]["notice_to_attempt_ms"]["p50"] <= result["mixed"]["notice_to_attempt_ms"]["max"]


@pytest.mark.parametrize(
    ("arrivals", "most"), [([], 0), ([0.0], 1), ([0.0, 999.9, 1000.0], 2), ([0.0, 1.0, 500.0, 999.0, 1001.0], 4)]
)
def test_the_most_in_any_second_are_counted(arrivals: list[float], most: int) -> None:
    assert most_in_a_second(arrivals) == most
