"""`meterline bench throughput` measures what it says, tried on few events and without the baselines."""

import pytest

from tests.benchmarks.throughput import measure


@pytest.mark.benchmark
def test_nothing_is_lost_and_the_bytes_and_cores_of_an_event_are_told() -> None:
    result = measure(10_000, 100, lambda _text: None)
    assert result["lost"] == result["billed_twice"] == result["wrong_microcredits"] == result["drift_microcredits"] == 0
    assert result["events_per_second"] > 0
    assert result["events_per_core"] > 0
    written = result["written_per_event"]
    for topic in ("usage", "intake", "journal", "worker-accounts-changelog", "worker-seen-changelog"):
        assert written["bytes_by_topic"][topic] > 0, topic
        assert 0 < written["records_by_topic"][topic] < 1, topic
    assert written["bytes_by_topic"]["worker-seen-changelog"] > 16, "a hash does not compress"
    assert written["bytes_by_topic"]["replies"] == written["bytes_by_topic"]["dead-letters"] == 0
    assert written["bytes"] == pytest.approx(sum(written["bytes_by_topic"].values()), abs=1)
