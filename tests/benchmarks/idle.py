"""The processor time that the processes of a stack take while nobody asks them anything."""

from __future__ import annotations

import time

import psutil

SETTLE_SECONDS = 10.0


def idle_share(pids: dict[str, int], seconds: float, settle_seconds: float = SETTLE_SECONDS) -> dict[str, float]:
    """The processor time of each process with its threads and children, in percent of one core, over `seconds`.

    Before that, `settle_seconds` are given to work that earlier requests have left.
    """
    time.sleep(settle_seconds)
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: _spent_seconds(process) for name, process in processes.items()}
    began_at = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began_at
    return {
        name: round(100 * (_spent_seconds(process) - before[name]) / took, 2) for name, process in processes.items()
    }


def _spent_seconds(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return float(sum(sum(each.cpu_times()[:2]) for each in family))
