"""`meterline test`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Annotated

import typer

from streams.settings import PROJECT_ROOT, user_cache_dir

app = typer.Typer()

# Whole files, in the order of tests/lanes.py. Tests with real parts wait for about a quarter of their time, so there is
# one lane more than a small machine has cores.
LANES = ["-n", "3", "--no-loadscope-reorder", "--dist", "loadfile"]
# What only computes, or is measured, has a core to itself.
COMPUTING_LANES = ["-n", "2", *LANES[2:]]
# What is seeded needs no part that a file's tests would share.
SEEDED_LANES = [*COMPUTING_LANES[:-1], "loadgroup"]
# With one of these somebody is looking at single tests: they come one after the other.
ONE_LANE = {"-s", "--capture=no", "--pdb", "--trace", "-x", "--exitfirst", "--sw", "--lf", "--ff"}
DEEP = {"METERLINE_SIMULATION_SEEDS": "1000", "METERLINE_LEDGER_STEPS": "100000"}
FAST = {"METERLINE_SIMULATION_SEEDS": "60", "METERLINE_LEDGER_STEPS": "2000"}


# The names of the browser that looks at pages and prints them, under any of which it may be here.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = "no Chromium on this machine, so the tests of pages are skipped (install it: apt-get install chromium)"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Only what needs no Kafka, ClickHouse or process.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Only what is seeded, some ten times as much of it.")] = False,
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="Only the benchmarks, small, beside what they are compared with.")
    ] = False,
) -> None:
    """Run the tests of this checkout, three at a time; further arguments go to pytest.

    Without an option all run but those of --benchmarks, which take minutes and pass on any machine: they check what is
    installed of PostgreSQL, Redis and Quix, and say what is not. Seeds are new at every run and told at its beginning.
    What is named (a path, an expression for -k) or looked at closely (-x, -s, --pdb) runs one test after the other.
    """
    if fast + deep + benchmarks > 1:
        raise typer.BadParameter("--fast, --deep, --benchmarks: one of them")
    is_named = _picks(context.args)
    if fast:
        chosen, lanes = ["-m", "not parts and not benchmark"], COMPUTING_LANES
    elif deep:
        chosen, lanes = ["-m", "seeded"], SEEDED_LANES
    elif benchmarks:
        chosen, lanes = ["-m", "benchmark", "tests/benchmarks"], LANES
    else:
        chosen, lanes = [] if is_named else ["-m", "not benchmark"], LANES
    for name, depth in (FAST if fast else DEEP if deep else {}).items():
        os.environ.setdefault(name, depth)
    if not (fast or deep or is_named):
        provide_browser()
    arguments = [*chosen, *context.args]
    if not is_named:
        arguments = [*lanes, *arguments]
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Tests start some two hundred processes. Each would compile all that it imports.
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(user_cache_dir() / "bytecode"))
    os.chdir(PROJECT_ROOT)
    # In this process's place: signals and the exit code are pytest's own.
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


def provide_browser() -> None:
    """Install the browser where it is missing and this user may; otherwise say that it is missing."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        typer.echo("installing Chromium, which the tests of pages need", err=True)
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "chromium"]):
            if subprocess.run([apt, *command], stdout=sys.stderr).returncode:
                break
        else:
            return
    typer.echo(f"warning: {NO_BROWSER}", err=True)


def _picks(arguments: list[str]) -> bool:
    return any(not each.startswith("-") or each in ONE_LANE for each in arguments)
