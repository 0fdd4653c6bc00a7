"""The faults that `meterline bench chaos` inflicts on a running stack: a seed gives a plan, a thread carries it out.

Processes are killed, stopped and paused. The files of a worker or of the API are deleted while it is down, since they
are only copies. Kafka's and ClickHouse's directories are never touched: they are the sources of truth. A killed process
loses nothing that it handed to the operating system, which is what one broker without replicas promises.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from api.stack import Stack

WORKERS = ("worker-1", "worker-2")
BROKER = "kafka"

_KILLS = {
    "kill_worker": (),
    "kill_both_workers": WORKERS,
    "kill_api": ("api",),
    "kill_broker": (BROKER,),
    "kill_history": ("history",),
    "kill_api_and_worker": ("api",),
    "kill_broker_and_worker": (BROKER,),
    "kill_everything": (BROKER, "api", "history", *WORKERS),
    "wipe_worker": (),
    "wipe_both_workers": WORKERS,
    "wipe_api": ("api",),
}
# A fault waits this long for something to hit. A broker that was killed while it started takes some ten seconds.
PATIENCE_SECONDS = 30.0

_ONE_WORKER_TOO = frozenset({"kill_worker", "kill_api_and_worker", "kill_broker_and_worker", "wipe_worker"})
_WEIGHTS = {
    "kill_worker": 6,
    "kill_both_workers": 3,
    "kill_api": 5,
    "kill_broker": 3,
    "kill_history": 3,
    "kill_api_and_worker": 3,
    "kill_broker_and_worker": 1,
    "kill_everything": 1,
    "wipe_worker": 4,
    "wipe_both_workers": 1,
    "wipe_api": 3,
    "stop_worker": 2,
    "pause_worker": 3,
    "pause_broker": 1,
    "pause_history": 1,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault comes `wait_seconds` after the one before it. `worker` is the worker that it hits, where it hits one. A
    process that it stops or pauses stays so for `away_seconds`."""

    wait_seconds: float
    kind: str
    worker: str
    away_seconds: float


def plan(seed: int) -> Iterator[Fault]:
    """The faults that a seed gives, without end. Some follow at once, and hit a stack that is still recovering; others
    leave it room to work."""
    chance = random.Random(seed)
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    while True:
        wait_seconds = chance.uniform(0.2, 1.5) if chance.random() < 0.5 else chance.uniform(5.0, 9.0)
        kind = chance.choices(kinds, weights)[0]
        yield Fault(round(wait_seconds, 2), kind, chance.choice(WORKERS), round(chance.uniform(0.5, 4.0), 2))


def _killed_parts(fault: Fault) -> tuple[str, ...]:
    one_worker_too = (fault.worker,) if fault.kind in _ONE_WORKER_TOO else ()
    return _KILLS.get(fault.kind, ()) + one_worker_too


class Saboteur:
    """A saboteur inflicts a plan of faults while its block runs. On leaving, paused processes go on, and held ones are
    started. `inflicted` has the monotonic time of each fault, and its kind."""

    def __init__(self, stack: Stack, seed: int, tell: Callable[[str], None]) -> None:
        self.kills_by_part: Counter[str] = Counter()
        self.data_dirs_deleted = 0
        self.rebalances = 0
        self.pauses = 0
        self.inflicted: list[tuple[float, str]] = []
        self.failure: BaseException | None = None
        self._stack = stack
        self._plan = plan(seed)
        self._tell = tell
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saboteur", daemon=True)
        # `_away` are the parts that are paused or held at the moment, `_held` the held ones among them.
        self._away: set[str] = set()
        self._held: set[str] = set()
        self._returns: list[tuple[float, str, Callable[[], None]]] = []

    @property
    def kills(self) -> int:
        """How many processes were killed so far."""
        return self.kills_by_part.total()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for fault in self._plan:
                if self._wait(fault.wait_seconds) or self._wait_for_something_to_hit(fault):
                    break
                self._inflict(fault)
        except BaseException as error:
            self.failure = error
        finally:
            for _, _, come_back in self._returns:
                come_back()

    def _wait(self, seconds: float) -> bool:
        """Wait, and meanwhile let parts come back whose time away is over. Returns True once it is time to stop."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for entry in [entry for entry in self._returns if entry[0] <= now]:
                self._returns.remove(entry)
                self._away.discard(entry[1])
                entry[2]()
            if now >= until:
                return self._stopping.is_set()
            due = min([until, *(at for at, _, _ in self._returns)])
            if self._stopping.wait(max(0.0, due - now)):
                return True

    def _wait_for_something_to_hit(self, fault: Fault) -> bool:
        """Wait until one of the processes that a fault kills runs, so that a slow machine sees the faults of its plan
        too, only later. Returns True once it is time to stop."""
        parts, given_up_at = _killed_parts(fault), time.monotonic() + PATIENCE_SECONDS
        while parts and not any(map(self._running, parts)) and time.monotonic() < given_up_at:
            if self._wait(0.05):
                return True
        return False

    def _inflict(self, fault: Fault) -> None:
        worker = fault.worker
        if parts := _killed_parts(fault):
            killed = [part for part in parts if self._kill(part)]
            if fault.kind.startswith("wipe"):
                for part in parts:
                    self._delete_data(part)
            self._note(fault.kind, ", ".join(killed) or "nothing, it was down already")
        elif fault.kind in ("pause_broker", "pause_history"):
            self._pause(fault.kind.removeprefix("pause_"), fault)
        elif worker in self._away:
            return  # this worker is away already, and can't be stopped or paused
        elif fault.kind == "stop_worker":
            self._stack.hold(worker)
            self.rebalances += 1
            self._held.add(worker)
            self._note(fault.kind, f"{worker} for {fault.away_seconds} s")

            def let_go() -> None:
                self._held.discard(worker)
                self._stack.let_go(worker)

            self._come_back(worker, fault.away_seconds, let_go)
        else:
            self._pause(worker, fault)

    def _kill(self, part: str) -> bool:
        process = self._running(part)
        if process is None:
            return False
        with suppress(psutil.NoSuchProcess):
            process.kill()
            self.kills_by_part[part.partition("-")[0]] += 1
            return True
        return False

    def _delete_data(self, part: str) -> None:
        settings = self._stack.settings
        directory = settings.api_dir if part == "api" else settings.data_dir / "workers" / part
        self._stack.hold(part)
        if directory.exists():
            shutil.rmtree(directory)
            self.data_dirs_deleted += 1
        if part not in self._held:
            self._stack.let_go(part)

    def _pause(self, part: str, fault: Fault) -> None:
        """Pause a part. A worker is paused for longer than its session, so that it wakes up believing that it owns what
        is another's by then."""
        process = self._running(part)
        if process is None or part in self._away:
            return
        if part == BROKER:
            # The stack knows the broker's guard; the broker itself is the guard's child.
            process = next(iter(process.children()), process)
        seconds = fault.away_seconds + (self._stack.settings.session_timeout_seconds if part in WORKERS else 0.0)
        with suppress(psutil.NoSuchProcess):
            process.suspend()
            self.pauses += 1
            self._note(fault.kind, f"{part} for {seconds:.1f} s")
            paused = process

            def go_on() -> None:
                with suppress(psutil.NoSuchProcess):
                    paused.resume()

            self._come_back(part, seconds, go_on)

    def _running(self, part: str) -> psutil.Process | None:
        with suppress(KeyError, psutil.NoSuchProcess):
            process = psutil.Process(self._stack.pids()[part])
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _come_back(self, part: str, seconds: float, how: Callable[[], None]) -> None:
        self._away.add(part)
        self._returns.append((time.monotonic() + seconds, part, how))

    def _note(self, kind: str, what: str) -> None:
        self.inflicted.append((time.monotonic(), kind))
        self._tell(f"{kind}: {what}")
