"""`meterline test` installs the browser where that is missing and may be, and says so; else it says what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from api.cli.test import NO_BROWSER, provide_browser

# An apt-get that notes what it is asked for, and installs an empty browser.
_APT = """#!/bin/sh
echo "$@" >> {log}
case "$1" in
  {failing}) exit 100;;
  install) printf '#!/bin/sh' > {folder}/chromium; /bin/chmod +x {folder}/chromium;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without programs, on which we are root: its folder of programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def has_apt(machine: Path, failing: str = "nothing") -> None:
    program = machine / "apt-get"
    program.write_text(_APT.format(log=machine / "log", folder=machine, failing=failing))
    program.chmod(0o755)


def asked_of(machine: Path) -> list[str]:
    log = machine / "log"
    return [line.split()[0] + " " + line.split()[-1] for line in log.read_text().splitlines()] if log.exists() else []


def test_it_is_installed_by_apt_and_not_twice(machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    has_apt(machine)
    provide_browser()
    assert asked_of(machine) == ["update -q", "install chromium"]
    assert capfd.readouterr().err == "installing Chromium, which the tests of pages need\n"
    provide_browser()
    assert len(asked_of(machine)) == 2 and capfd.readouterr().err == ""


@pytest.mark.parametrize("failing", ["update", "install"])
def test_where_apt_fails_it_is_said_what_is_missing(
    machine: Path, capfd: pytest.CaptureFixture[str], failing: str
) -> None:
    has_apt(machine, failing)
    provide_browser()
    assert capfd.readouterr().err.splitlines()[1:] == [f"warning: {NO_BROWSER}"]


def test_nobody_but_root_installs_and_nothing_without_apt(
    machine: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    provide_browser()
    assert capfd.readouterr().err == f"warning: {NO_BROWSER}\n"
    has_apt(machine)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    provide_browser()
    assert (asked_of(machine), capfd.readouterr().err) == ([], f"warning: {NO_BROWSER}\n")
