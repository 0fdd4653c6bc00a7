"""`meterline bench throughput` and `freshness` measure what they say, tried on few events."""

import pytest

from tests.benchmarks import freshness
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


@pytest.mark.benchmark
def test_how_soon_a_decision_is_visible_is_told() -> None:
    result = freshness.measure(500, 6.0, 20, 5_000, lambda _text: None)
    assert 0 < result["facts_measured"] <= 3_000
    times = result["decision_to_visible_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["p100"]
    away = result["after_being_away"]
    assert away["events"] == 5_000
    assert 0 < away["seconds_until_it_answers"] <= away["seconds_until_all_visible"]
