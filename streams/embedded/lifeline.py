"""The lifeline ties processes to the one that starts them: they never outlive it, even when it is SIGKILLed.

The parent holds the write end of a pipe that is the child's stdin. Whatever ends the parent closes that end, and the
end of file tells the child to go. Run as a script, this module is the guard of a program that does not watch its
stdin itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

ENV_FLAG = "METERLINE_LIFELINE"
ORPHAN_GRACE_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


class Child:
    """A Child is a process that `start` started. Keep the object as long as the process is wanted: it holds the
    lifeline."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process

    @property
    def pid(self) -> int:
        """The id of the process; of its guard, if it has one."""
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code (-n: signal n ended the process), or None while the process runs."""
        return self.process.poll()

    def stop(self, grace_seconds: float = ORPHAN_GRACE_SECONDS) -> int:
        """Stop the process: SIGTERM, after `grace_seconds` SIGKILL to its whole group. Waits for the end; gives the
        exit code."""
        self.process.terminate()
        try:
            return self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()
        finally:
            if self.process.stdin:
                self.process.stdin.close()


def start(
    name: str,
    argv: Sequence[str],
    *,
    log_path: Path | None,
    env: Mapping[str, str] | None = None,
    guarded: bool = False,
) -> Child:
    """Start `argv` in its own session, so that Ctrl-C in the terminal reaches the parent alone.

    stdout and stderr are appended to `log_path`, or inherited if that is None; `env` is added to this process's own
    environment. A Python program of ours calls `watch()`; any other must be `guarded`, and then exits with 128 + n if
    signal n ended it. Raises OSError if it can't start; a guard prints that and exits with 127.
    """
    environment = {**os.environ, **(env or {}), ENV_FLAG: "1"}
    if guarded:
        # The guard runs by path, not by -m: that is quick, and no module of the working directory can stand in the way.
        argv = [sys.executable, "-I", "-S", __file__, "--", *argv]
        del environment[ENV_FLAG]
    if log_path:
        log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") if log_path else nullcontext() as log:
        # Python's pipes are close-on-exec, so no other child inherits the write end and keeps this one alive.
        pipe = subprocess.PIPE
        # What a child writes is its user's alone: credits, keys, and what was paid.
        process = subprocess.Popen(
            argv, stdin=pipe, stdout=log, stderr=log, env=environment, start_new_session=True, umask=0o077
        )
    return Child(name, process)


def watch() -> None:
    """End this Python child when its parent ends, by SIGTERM to itself and a hard exit if that isn't enough.

    Does nothing unless `start` started this process.
    """
    # The flag goes out of the environment: this process's own children have another stdin.
    if os.environ.pop(ENV_FLAG, None) != "1":
        return

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(1)

    _when_parent_ends(end)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now; another program may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _when_parent_ends(end: Callable[[], None]) -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        end()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _guard(argv: Sequence[str]) -> int:
    try:
        program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_tie_to_guard())
    except OSError as error:
        print(error, file=sys.stderr)
        return 127

    def end() -> None:
        program.terminate()
        try:
            program.wait(ORPHAN_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: program.send_signal(received))
    _when_parent_ends(end)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _tie_to_guard() -> Callable[[], None] | None:
    """The program's first act, called before its exec: ask Linux to kill the program when the guard is killed. None on
    other systems, which can't."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    guard_pid = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != guard_pid:
            os._exit(1)

    return tie


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[2:]))
