"""Start processes that never outlive this one, even when this one is SIGKILLed.

The parent holds the write end of a pipe whose read end is the child's stdin. Whatever ends the parent closes the pipe,
and the end of file tells the child to go. Run as a script this module is the guard of a program that knows nothing of
that; so it imports the standard library only.
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
from contextlib import ExitStack, suppress
from pathlib import Path

ENV_FLAG = "METERLINE_LIFELINE"
ORPHAN_GRACE_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


class Child:
    """A started process. Dropping the object does not end the process; `stop`, or the parent's end, does."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], lifeline: int) -> None:
        self.name = name
        self.process = process
        self._lifeline: int | None = lifeline

    @property
    def pid(self) -> int:
        """The id of the process; of the guard, if the program is guarded."""
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self.process.poll()

    def stop(self, grace_seconds: float = ORPHAN_GRACE_SECONDS) -> int:
        """SIGTERM, after `grace_seconds` SIGKILL to its whole process group; wait for it and give its exit code."""
        try:
            self.process.terminate()
            return self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()
        finally:
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None


def start(
    name: str,
    argv: Sequence[str],
    *,
    log_path: Path | None,
    env: Mapping[str, str] | None = None,
    guarded: bool = False,
) -> Child:
    """Start `argv` in its own session, so that Ctrl-C in the terminal reaches the parent alone.

    stdout and stderr are appended to `log_path`, or inherited if that is None. `env` is added to this process's own
    environment. A Python program of ours calls `watch()`; set `guarded` for any other. Raises OSError if it can't start.
    """
    environment = {**os.environ, **(env or {}), ENV_FLAG: "1"}
    if guarded:
        # By path, not -m: quick, and no module of the working directory can stand in the way.
        argv = [sys.executable, "-I", "-S", __file__, "--", *argv]
        del environment[ENV_FLAG]
    with ExitStack() as parent_closes:
        # Both ends are close-on-exec, so no other child keeps this child's lifeline open.
        read_end, write_end = os.pipe()
        parent_closes.callback(os.close, read_end)
        output = None
        if log_path is not None:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            output = parent_closes.enter_context(log_path.open("ab"))
        try:
            process = subprocess.Popen(
                argv, stdin=read_end, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        except BaseException:
            os.close(write_end)
            raise
    return Child(name, process, write_end)


def watch() -> None:
    """In a Python child: end when the parent does. SIGTERM to itself first; if that isn't enough, a hard exit.

    Does nothing unless `start` started this process.
    """
    # Taken out of the environment: this process's own children have another stdin.
    if os.environ.pop(ENV_FLAG, None) != "1":
        return

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(1)

    _on_parents_end(end)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _on_parents_end(end: Callable[[], None]) -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        end()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _guard(argv: Sequence[str]) -> int:
    """Run `argv` until it or our parent ends; give its exit code (128 + n if signal n ended it)."""
    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_tie_to_guard())

    def forward(number: int, _frame: object) -> None:
        program.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)

    def end() -> None:
        program.terminate()
        try:
            program.wait(ORPHAN_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()

    _on_parents_end(end)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _tie_to_guard() -> Callable[[], None] | None:
    """What the program runs before its exec so that the kernel kills it when the guard dies; only Linux has that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    guard = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != guard:
            os._exit(1)

    return tie


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[2:]))
