"""The machine that a benchmark ran on, and the memory and processor time that its processes took."""

from __future__ import annotations

import platform
import threading
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import psutil

_MB = 1024 * 1024


def describe() -> dict[str, Any]:
    """Describe the machine and the versions that matter, for a benchmark's output."""
    model = ""
    if platform.system() == "Linux":
        with open("/proc/cpuinfo") as cpuinfo:
            model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "")
    return {
        "cores": psutil.cpu_count(),
        "cpu": model or platform.processor(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("faust-streaming", "aiokafka", "rocksdict", "chdb", "msgspec")},
    }


class ProcessUsage:
    """Usage samples processes, by name, while its block runs: the most memory each held, the processor time it took."""

    def __init__(self, processes: dict[str, int], every_seconds: float = 0.25) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._every_seconds = every_seconds
        self._began: dict[str, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_rss_mb: dict[str, int] = {}
        self.cpu_seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            for name, process in self._processes.items():
                try:
                    family = [process, *process.children(recursive=True)]
                    rss = sum(each.memory_info().rss for each in family) // _MB
                    times = [each.cpu_times() for each in family]
                except psutil.Error:
                    continue
                spent = sum(each.user + each.system for each in times)
                self._began.setdefault(name, spent)
                self.peak_rss_mb[name] = max(rss, self.peak_rss_mb.get(name, 0))
                self.cpu_seconds[name] = round(spent - self._began[name], 2)
            if self._done.wait(self._every_seconds):
                return
