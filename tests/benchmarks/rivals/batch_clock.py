"""A batch clock says where the time of a worker's batches goes, part by part; another process may read it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from tests.benchmarks.rivals.rival import START_SECONDS_MAX, BenchChild, write_note

# A batch's time is that of these parts, one after the other.
WAITING, DECIDING, JOURNAL, ACCOUNTS = "waiting", "deciding", "journal", "accounts"
NOTE = "parts"
# A longer wait is nobody asking, and no part of a batch.
IDLE_SECONDS = 0.25
NOTE_EVERY_SECONDS = 0.1

P = ParamSpec("P")
T = TypeVar("T")


class Parts(msgspec.Struct):
    """The parts of so many batches: the seconds of each. Parts that are within another have names of their own."""

    batches: int = 0
    seconds: dict[str, float] = {}

    def since(self, earlier: Parts) -> Parts:
        """The batches after an earlier reading of the same clock."""
        passed = {name: spent - earlier.seconds.get(name, 0.0) for name, spent in self.seconds.items()}
        return Parts(self.batches - earlier.batches, passed)


class BatchClock:
    """A clock that a worker sets at the end of each part. What it has counted is a note in `directory`, which is
    NOTE_EVERY_SECONDS old at most."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts = Parts(seconds=dict.fromkeys((WAITING, DECIDING, JOURNAL, ACCOUNTS), 0.0))
        self._at = time.perf_counter()
        threading.Thread(target=self._write, name="batch-clock", daemon=True).start()

    def begin(self) -> None:
        """Note that a batch begins: the time since the last one was waiting."""
        now = time.perf_counter()
        waited, self._at = now - self._at, now
        self._parts.batches += 1
        if waited <= IDLE_SECONDS:
            self._parts.seconds[WAITING] += waited

    def end(self, part: str) -> None:
        """Note that a part ends, which began when the one before it ended."""
        now = time.perf_counter()
        self._parts.seconds[part] += now - self._at
        self._at = now

    def within(self, name: str, work: Callable[P, T]) -> Callable[P, T]:
        """The same function, its time counted under `name`, which is within whatever part calls it."""
        seconds = self._parts.seconds
        seconds[name] = 0.0

        @wraps(work)
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            began_at = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - began_at

        return timed

    def _write(self) -> None:
        written = b""
        while True:
            if (counted := msgspec.json.encode(self._parts)) != written:
                write_note(self._directory, NOTE, counted.decode())
                written = counted
            time.sleep(NOTE_EVERY_SECONDS)


def read_parts(worker: BenchChild) -> Parts:
    """Read the clock in a child process, once all that it has counted by now is written."""
    worker.result(NOTE, START_SECONDS_MAX)
    time.sleep(3 * NOTE_EVERY_SECONDS)
    return msgspec.json.decode(worker.result(NOTE, START_SECONDS_MAX), type=Parts)
