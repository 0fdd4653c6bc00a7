"""The `meterline` command, run in the tests' own process. Tests that need a process for it are in test_cli.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from api.cli import main


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Meterline = Callable[..., Done]


@pytest.fixture
def meterline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Meterline:
    """A function that runs `meterline` with arguments, and with variables added to the environment."""

    def run(*arguments: str, **environment: str) -> Done:
        capfd.readouterr()
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        with monkeypatch.context() as here:
            here.setattr("sys.argv", ["meterline", *arguments])
            for name, value in environment.items():
                here.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main.main()
        # A process' command has its logs written to this run's standard error, which ends with the test.
        root.handlers[:] = handlers
        root.setLevel(level)
        return Done(int(ended.value.code or 0), *capfd.readouterr())

    return run
