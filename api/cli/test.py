"""`meterline test`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from streams.settings import PROJECT_ROOT, user_cache_dir

app = typer.Typer()

# Two at a time, in the order of tests/lanes.py.
LANES = ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
# With one of these somebody is looking at single tests: they come one after the other.
ONE_LANE = {"-s", "--capture=no", "--pdb", "--trace", "-x", "--exitfirst", "--sw", "--lf", "--ff"}
DEEP = {"METERLINE_SIMULATION_SEEDS": "2000", "METERLINE_LEDGER_STEPS": "100000"}


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Only what needs no Kafka, ClickHouse or process.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Only what is seeded, some ten times as much of it.")] = False,
) -> None:
    """Run all tests of this checkout, two at a time; further arguments go to pytest.

    Those that measure other systems pass on any machine: with what is installed they check it, without it that this is
    said. Seeds are new at every run and told at its beginning. What is named (a path, an expression for -k) or looked
    at closely (-x, -s, --pdb) runs one test after the other.
    """
    chosen = ["-m", "not parts"] if fast else ["-m", "seeded"] if deep else []
    if deep:
        os.environ.update({name: os.environ.get(name, depth) for name, depth in DEEP.items()})
    arguments = [*chosen, *context.args]
    if not _picks(context.args):
        arguments = [*LANES, *arguments]
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Tests start some two hundred processes. Each would compile all that it imports.
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(user_cache_dir() / "bytecode"))
    os.chdir(PROJECT_ROOT)
    # In this process's place: signals and the exit code are pytest's own.
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


def _picks(arguments: list[str]) -> bool:
    return any(not each.startswith("-") or each in ONE_LANE for each in arguments)
