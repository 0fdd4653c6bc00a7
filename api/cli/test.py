"""`meterline test` runs the tests of a checkout."""

from __future__ import annotations

import subprocess
import sys

import typer

from streams.settings import PROJECT_ROOT

app = typer.Typer()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run all tests of this checkout; further arguments go to pytest."""
    raise typer.Exit(subprocess.call([sys.executable, "-m", "pytest", *context.args], cwd=PROJECT_ROOT))
