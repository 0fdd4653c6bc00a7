"""`meterline bench recovery` measures what it says, tried on few accounts."""

import pytest

from tests.benchmarks.recovery.run import measure


@pytest.mark.benchmark
def test_recovery_loses_nothing_and_reports_every_case() -> None:
    result = measure(400, 1_000, lambda _text: None, baseline_seconds_max=5.0, compacting=False)
    assert (result["wrong_accounts"], result["wrong_replies"], result["missing_seen_ids"]) == (0, 0, 0)
    assert result["accounts"] == 400
    assert result["accounts_changelog_records"] > 400, "some accounts in more than one version"
    for case in ("without_disk", "with_disk", "after_kill"):
        assert 0 < result[f"seconds_{case}"] < 60
        assert result["peak_rss_mb"][case] > 0
    (baseline,) = result["baselines"]
    assert baseline["name"] == "faust"
    assert baseline["records"] >= result["accounts_changelog_records"] or not baseline["complete"]
