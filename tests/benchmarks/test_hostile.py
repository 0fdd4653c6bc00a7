"""`meterline bench hostile`, in short, on a real stack: whatever a hostile client does, the good ones lose nothing."""

import random

import pytest

from tests import seeds
from tests.benchmarks.chaos.run import ZERO_FIGURES
from tests.benchmarks.hostile.attacks import KINDS
from tests.benchmarks.hostile.run import HostileSizes, measure, passed

KINDS_A_RUN = 4


@pytest.mark.benchmark
def test_every_attack_is_made_and_costs_the_good_ones_nothing() -> None:
    """Of all kinds, each run has some, and in the end every kind has been there."""
    kinds = random.Random(seeds.BASE).sample(list(KINDS), KINDS_A_RUN)
    result = measure(HostileSizes(seconds=1.0, groups=2_000), seed=1, tell=print, kinds=kinds)
    assert {name: result[name] for name in ZERO_FIGURES} == dict.fromkeys(ZERO_FIGURES, 0), result["examples"]
    assert passed(result)
    assert [each["kind"] for each in result["kinds"]] == kinds
    for each in result["kinds"]:
        assert each["attack"]["sent"] > 0, each
        assert each["without"]["answers_per_second"] > 0 and each["with"]["answers_per_second"] > 0, each
    assert result["events_acknowledged"] > 100
    assert result["admissions_by_status"]["200"] > 100


def test_a_run_that_lost_anything_has_not_passed() -> None:
    clean = dict.fromkeys((*ZERO_FIGURES, "restarts"), 0)
    assert passed(clean)
    for name in clean:
        assert not passed(clean | {name: 1})
