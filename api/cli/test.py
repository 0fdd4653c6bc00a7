"""`meterline test`."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import Annotated

import typer

from api.cli.output import console
from streams.settings import PROJECT_ROOT

app = typer.Typer()

# Two at once: tests wait for processes about as long as they compute. One worker a test file, or a lane that shares a
# stack (see tests/lanes.py); in the order that the lanes have, not by how many tests they hold.
TWO_LANES = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
DEEP_TESTS = ("tests/core/test_ledger_machine.py", "tests/simulation/test_simulation.py")
DEEP_SIZES = {"METERLINE_SIMULATION_WORLDS": "2000", "METERLINE_LEDGER_STEPS": "100000"}
SEED_BASE = "METERLINE_SEED_BASE"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Only tests that start no process: under a minute.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Only the ledger machine and the simulation, long, with new seeds each time.")
    ] = False,
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="Only the benchmarks, small; with PostgreSQL and Redis where they are.")
    ] = False,
) -> None:
    """Run the tests of this checkout, two lanes at once; further arguments go to pytest.

    Tests named by further arguments run one after the other. Without any, all run but the benchmarks, which have an
    option of their own. The ledger machine and the simulation run some of their worlds here and all with --deep.
    """
    if fast + deep + benchmarks > 1:
        raise typer.BadParameter("--fast, --deep and --benchmarks: one at a time")
    environment = dict(os.environ)
    chosen: tuple[str, ...]
    if fast:
        chosen = (*TWO_LANES, "-m", "pure and not benchmark")
    elif deep:
        environment = DEEP_SIZES | {SEED_BASE: str(secrets.randbelow(2**31))} | environment
        console.print(f"seeds from {environment[SEED_BASE]}; the same again: {SEED_BASE}={environment[SEED_BASE]} \\")
        console.print("    uv run meterline test --deep", soft_wrap=True)
        chosen = (*TWO_LANES, *DEEP_TESTS, "-k", "not finds_what_is_broken")
    elif benchmarks:
        chosen = ("tests/benchmarks", "-m", "benchmark")
    elif context.args:
        chosen = ()
    else:
        chosen = (*TWO_LANES, "-m", "not benchmark")
    command = [sys.executable, "-m", "pytest", *chosen, *context.args]
    raise typer.Exit(subprocess.call(command, cwd=PROJECT_ROOT, env=environment))
