"""`meterline backfill` loads usage from before Meterline into the history, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from api.cli.options import JsonOption
from api.cli.output import console, show
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.clickhouse.old_usage import load_old_usage
from streams.settings import Settings

app = typer.Typer()


@app.command("backfill")
def backfill(
    file: Annotated[
        Path, typer.Argument(help="A .csv file with a header, or a .parquet file.", exists=True, dir_okay=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Load usage from before Meterline into the history, each use once: it counts as usage, and in no balance. A file
    with a wrong line loads nothing. Needs ClickHouse: stop `up` first. Ended half-way, the same command goes on.

    Columns: project, source, id, time, operation, credits; and, if you like, quantity, environment, customer_id,
    metadata (a JSON object)."""
    clickhouse = ClickHouse(Settings())
    try:
        migrate(clickhouse)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f} rows", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("reading", total=None)

            def tell(what: str, done: int, of: int) -> None:
                progress.update(task, description=what, completed=done, total=of or None)

            found = load_old_usage(clickhouse, file, tell)
    finally:
        clickhouse.close()
    show({"file": file.name, **found._asdict()}, as_json)
