"""Child processes end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from streams.embedded import lifeline

WATCHING = (
    "from streams.embedded import lifeline; lifeline.watch(); print('ready', flush=True); import time; time.sleep(60)"
)
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WATCHING
PARENT = """
import subprocess, sys, time
from pathlib import Path
from streams.embedded import lifeline

child = lifeline.start("child", {argv!r}, log_path=Path({log!r}), guarded={guarded})
sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child.pid, sibling.pid, flush=True)
time.sleep(60)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def program_of(guard: lifeline.Child | int) -> int:
    """The process id of the program that a guard runs."""
    pid = guard if isinstance(guard, int) else guard.pid
    wait_until(lambda: len(psutil.Process(pid).children()) == 1)
    return psutil.Process(pid).children()[0].pid


def wait_for_line(log: Path, line: str) -> None:
    wait_until(lambda: log.exists() and line in log.read_text())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "child.log"


RunParent = Callable[[list[str], bool], tuple[subprocess.Popen[str], int]]


@pytest.fixture
def run_parent(log: Path) -> Iterator[RunParent]:
    """A function that runs a parent process, which starts `argv`, guarded or not; it returns the parent and the child's
    process id."""
    parents: list[subprocess.Popen[str]] = []
    siblings: list[int] = []

    def run(argv: list[str], guarded: bool) -> tuple[subprocess.Popen[str], int]:
        code = PARENT.format(argv=argv, log=str(log), guarded=guarded)
        parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
        parents.append(parent)
        assert parent.stdout is not None
        child, sibling = map(int, parent.stdout.readline().split())
        siblings.append(sibling)
        return parent, child

    yield run
    for parent in parents:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
    for sibling in siblings:
        os.kill(sibling, signal.SIGKILL)


def test_a_watching_child_ends_when_its_parent_is_killed_though_a_sibling_lives(
    run_parent: RunParent, log: Path
) -> None:
    parent, child = run_parent(python(WATCHING), False)
    wait_for_line(log, "ready")
    parent.kill()
    wait_until(lambda: not is_running(child))


def test_a_child_deaf_to_sigterm_ends_hard(run_parent: RunParent, log: Path) -> None:
    code = DEAF.replace("lifeline.watch()", "lifeline.ORPHAN_GRACE_SECONDS = 0.2; lifeline.watch()")
    parent, child = run_parent(python(code), False)
    wait_for_line(log, "ready")
    parent.kill()
    wait_until(lambda: not is_running(child))


def test_a_guarded_program_ends_when_the_parent_is_killed(run_parent: RunParent) -> None:
    parent, guard = run_parent(["sleep", "60"], True)
    program = program_of(guard)
    parent.kill()
    wait_until(lambda: not is_running(program) and not is_running(guard))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a program when its guard is killed")
def test_a_guarded_program_ends_when_its_guard_is_killed(log: Path) -> None:
    child = lifeline.start("sleep", ["sleep", "60"], log_path=log, guarded=True)
    program = program_of(child)
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(program))
    assert child.stop() == -signal.SIGKILL


def test_a_guard_passes_on_the_signal_and_the_exit_code(log: Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True)"
    child = lifeline.start("program", python(code + "; time.sleep(60)"), log_path=log, guarded=True)
    wait_for_line(log, "ready")
    assert child.poll() is None
    assert child.stop() == 7
    assert child.poll() == 7


def test_a_guard_says_which_signal_ended_the_program(log: Path) -> None:
    child = lifeline.start("program", python("import os; os.kill(os.getpid(), 9)"), log_path=log, guarded=True)
    assert child.process.wait(15) == 128 + 9
    child.stop()


def test_a_guard_of_a_missing_program_says_so(log: Path) -> None:
    child = lifeline.start("program", ["no-such-program"], log_path=log, guarded=True)
    assert child.process.wait(15) == 127
    child.stop()
    assert "no-such-program" in log.read_text()


def test_a_missing_program_is_an_error(log: Path) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        lifeline.start("program", ["no-such-program"], log_path=log)


def test_stop_kills_what_does_not_heed_sigterm(log: Path) -> None:
    child = lifeline.start("deaf", python(DEAF), log_path=log)
    wait_for_line(log, "ready")
    assert child.stop(grace_seconds=0.1) == -signal.SIGKILL
    assert child.stop() == -signal.SIGKILL


def test_stop_kills_the_program_with_its_guard(log: Path) -> None:
    child = lifeline.start("deaf", python(DEAF), log_path=log, guarded=True)
    wait_for_line(log, "ready")
    program = program_of(child)
    child.stop(grace_seconds=0.1)
    wait_until(lambda: not is_running(program))


def test_a_child_is_out_of_reach_of_the_terminal_and_appends_to_its_log(log: Path) -> None:
    log.parent.mkdir()
    log.write_text("before\n")
    code = "import os, sys; print(os.getsid(0)); print(os.environ['GREETING'], file=sys.stderr)"
    child = lifeline.start("child", python(code), log_path=log, env={"GREETING": "hello"})
    assert child.process.wait(15) == 0
    child.stop()
    assert log.read_text().splitlines() == ["before", str(child.pid), "hello"]
    assert child.pid != os.getsid(0)


def test_watch_does_nothing_in_a_process_that_start_did_not_start() -> None:
    code = "import threading; from streams.embedded import lifeline; lifeline.watch(); print(threading.active_count())"
    result = subprocess.run(python(code), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", lifeline.free_port()))
