"""`meterline bench dashboard` measures open streams, tried for some seconds."""

import pytest

from tests.benchmarks.dashboard.streams import measure


@pytest.mark.benchmark
def test_streams_are_told_of_entries_while_events_flow_and_admissions_are_answered() -> None:
    result = measure(True, lambda _text: None)
    assert result["told"]["refused"] == 0
    assert result["told"]["entries"] > 100
    assert 0 < result["told"]["p50_ms"] <= result["told"]["p95_ms"]
    assert set(result["api_percent_of_a_core"]) == {"without streams", "with streams", "streams alone"}
    for level in result["admissions"].values():
        assert level["decisions"] > 0
