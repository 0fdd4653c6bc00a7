"""`meterline` in the tests' own process. What only a process of its own shows is tested with one, in test_cli.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from api.cli import main


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: what it would have exited with, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Meterline = Callable[..., Done]


@pytest.fixture
def meterline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Meterline:
    """Runs the console script with these arguments, and more environment."""

    def run(*arguments: str, **environment: str) -> Done:
        capfd.readouterr()
        with monkeypatch.context() as here:
            here.setattr("sys.argv", ["meterline", *arguments])
            for name, value in environment.items():
                here.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main.main()
        return Done(int(ended.value.code or 0), *capfd.readouterr())

    return run
