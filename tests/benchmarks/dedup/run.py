"""`meterline bench dedup` measures the index of seen ids by itself: how fast and how large it is, and that it is exact;
beside it a set and two databases.

Each contender runs in a process of its own, so that its memory can be measured. This module, run, is that process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams.embedded import lifeline
from streams.errors import OperatorError
from tests.benchmarks.dedup.ids import BATCH_IDS
from tests.benchmarks.dedup.index import run_index
from tests.benchmarks.dedup.rivals import BASELINES, run_baseline
from tests.benchmarks.machine import describe
from tests.benchmarks.rivals.rival import write_note

_INDEX = "meterline"
_RESULT = "result"
_POLL_SECONDS = 0.05
_SECONDS_MAX = 1800.0


def measure(sizes: list[int], tell: Callable[[str], None], baseline_seconds_max: float) -> dict[str, Any]:
    """Measure the index at each size, and the rivals at the last size, each phase for `baseline_seconds_max` at
    most."""
    runs = []
    for ids in sizes:
        tell(f"{ids:,} ids")
        runs.append(_run_child(_INDEX, ids, 0.0))
    largest = runs[-1]
    baselines = []
    for name in BASELINES:
        tell(f"baseline: {name}")
        baselines.append(_run_child(name, sizes[-1], baseline_seconds_max))
    return {
        **largest,
        "batch_ids": BATCH_IDS,
        "wrong": sum(_wrong(run) for run in runs),
        "sizes": runs,
        "baselines": baselines,
        "ratios": {
            each["name"]: round(largest["new_ids_per_second"] / each["new_ids_per_second"], 2)
            if each.get("new_ids_per_second")
            else None
            for each in baselines
        },
        "machine": describe(),
    }


def _wrong(run: dict[str, Any]) -> int:
    return sum(value for name, value in run.items() if name.startswith(("false_", "wrong_")))


def _run_child(name: str, ids: int, seconds_max: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="meterline-bench-", ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch)
        argv = [sys.executable, "-m", __name__, name, str(ids), scratch, str(seconds_max)]
        child = lifeline.start(name, argv, log_path=directory / "log")
        deadline = time.monotonic() + _SECONDS_MAX
        try:
            while child.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        finally:
            code = child.stop()
        if code:
            log = "\n".join((directory / "log").read_text(errors="replace").splitlines()[-15:])
            raise OperatorError(f"{name} ended with {code}. The end of its log:\n{log}")
        result: dict[str, Any] = json.loads((directory / _RESULT).read_text())
        return result


def _main(name: str, ids: int, scratch: Path, seconds_max: float) -> None:
    data = scratch / "data"
    data.mkdir()
    result = run_index(ids, data) if name == _INDEX else run_baseline(name, ids, data, seconds_max)
    write_note(scratch, _RESULT, json.dumps(result))


if __name__ == "__main__":
    lifeline.watch()
    _main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
