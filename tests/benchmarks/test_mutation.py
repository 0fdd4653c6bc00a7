"""Each change of how usage is metered is noticed by the tests of it; a survivor is told by what it changes."""

import pytest

from tests.benchmarks.mutation.run import QUICK, change_of, function_of, measure


@pytest.mark.benchmark
def test_every_change_of_how_usage_is_metered_is_noticed() -> None:
    result = measure(0, 1, print, **QUICK)
    if "skipped" in result:
        print(result["skipped"])
        return
    assert result["tried"] == result["mutants"] > 100
    unexplained = [each["change"] for each in result["survivors"] if each["why"] is None]
    assert not unexplained, "\n\n".join(unexplained)


def test_a_survivor_is_told_by_its_function_and_its_change() -> None:
    assert function_of("streams.core.pricing.x__counted__mutmut_10") == "streams.core.pricing._counted"
    assert function_of("streams.core.fold.xǁ_Batchǁapply__mutmut_2") == "streams.core.fold._Batch.apply"
    diff = "--- a.py\n+++ a.py\n@@ -1,3 +1,3 @@\n def f():\n-    return 1\n+    return 2\n \n"
    assert change_of(diff) == "- return 1\n+ return 2"
