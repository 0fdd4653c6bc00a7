"""`meterline bench dedup` measures what it says, tried on few ids; and it would notice an index that is not exact."""

from pathlib import Path

import pytest

from streams.state.rocks import SegmentedFile
from tests.benchmarks.dedup import index
from tests.benchmarks.dedup.ids import BATCH_IDS, ids_of
from tests.benchmarks.dedup.run import measure


@pytest.mark.benchmark
def test_every_contender_is_exact_or_says_what_is_not_installed() -> None:
    result = measure([5 * BATCH_IDS], lambda _text: None, baseline_seconds_max=20.0)
    assert result["wrong"] == 0
    assert [run["ids"] for run in result["sizes"]] == [5 * BATCH_IDS]
    assert result["expired_mb"] > 0
    assert 16 < result["changelog_bytes_per_id"] < 40
    for baseline in result["baselines"]:
        assert baseline.get("skipped") or (baseline["complete"] and baseline["wrong"] == 0)


def test_ids_are_unique_within_and_between_batches() -> None:
    ids = [*ids_of(1), *ids_of(2)]
    assert len(set(ids)) == 2 * BATCH_IDS
    assert ids_of(1) == ids_of(1) == sorted(ids_of(1))


def test_an_index_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Forgetful(SegmentedFile):
        def get_many(self, keys: list[bytes]) -> list[bytes | None]:
            return [None, *super().get_many(keys)[1:]]

    monkeypatch.setattr(index, "SegmentedFile", Forgetful)
    assert index.run_index(BATCH_IDS, tmp_path)["false_new"] == 1
