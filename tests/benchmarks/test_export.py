"""`meterline bench export` writes files that have what the facts say, and tells where one does not."""

from __future__ import annotations

import pytest

from tests.benchmarks.export import run


@pytest.mark.benchmark
def test_the_files_have_the_uses_and_credits_of_the_facts() -> None:
    result = run.measure(20_000, lambda _text: None)
    small, large = result["sizes"]
    assert result["wrong"] == 0
    assert 1_500 < small["rows"] <= 2_100 and 15_000 < large["rows"] <= 21_000
    for size in (small, large):
        for name in ("csv", "parquet"):
            assert size[name]["rows_per_second"] > 0 and size[name]["rows_per_processor_second"] > 0
            assert size[name]["peak_mb"] > 50 and size[name]["mb"] > 0
        assert size["rows"] <= size["ledger"]["entries"] and size["ledger"]["entries_per_second"] > 0
    assert large["parquet"]["mb"] < large["csv"]["mb"]
