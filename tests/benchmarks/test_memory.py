"""`meterline bench memory` measures what it says, tried on few ids and accounts."""

import pytest

from tests.benchmarks.dedup.ids import BATCH_IDS
from tests.benchmarks.memory import measure


@pytest.mark.benchmark
def test_a_worker_is_measured_with_few_ids_with_more_and_with_accounts() -> None:
    ids = [2 * BATCH_IDS, 12 * BATCH_IDS]
    result = measure(400, ids, 2_000, lambda _text: None)
    assert result["wrong"] == 0
    assert [run["ids"] for run in result["by_ids"]] == ids
    for run in (*result["by_ids"], result["by_accounts"]):
        assert 0 < run["rss_mb"] <= run["peak_rss_mb"]
        assert run["disk_mb"] >= max(run["disk_mb_by_table"].values()) > 0
    few, many = (run["disk_mb_by_table"]["seen"] for run in result["by_ids"])
    # Hashes don't compress.
    assert many - few > 0.8 * 16 * (ids[1] - ids[0]) / 1e6
    assert result["growth_mb"] == result["by_ids"][1]["rss_mb"] - result["by_ids"][0]["rss_mb"]
    assert set(result["by_accounts"]["disk_mb_by_table"]) >= {"accounts", "seen"}
