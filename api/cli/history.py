"""`meterline history` gives metadata keys columns of their own in the history, so that usage by them is quick."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from api.cli.options import JsonOption
from api.cli.output import console, print_json, show
from streams.clickhouse.backfill import Backfill, wait_for_backfill
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.promoted import BUILT_IN, demote, promote, promoted_keys
from streams.embedded.running import find_running, reach
from streams.settings import Settings

app = typer.Typer(
    help="Give metadata keys columns of their own in the history. Needs ClickHouse: stop `up` first.",
    no_args_is_help=True,
)


@app.command("promote")
def promote_key(
    key: str = typer.Argument(help="A metadata key: 1 to 64 letters, digits, _ and -."), as_json: JsonOption = False
) -> None:
    """Give a metadata key a column in the history, also for what was used before: usage by it is quick. Up to 4."""
    with _history() as clickhouse:
        is_new = promote(clickhouse, key)
        show_backfill(clickhouse)
        column = promoted_keys(clickhouse)[key]
    show({"key": key, "column": column, "is_new": is_new}, as_json)


@app.command("demote")
def demote_key(key: str = typer.Argument(help="A promoted metadata key."), as_json: JsonOption = False) -> None:
    """Take a promoted key's column away; usage by it reads the metadata again."""
    with _history() as clickhouse:
        demote(clickhouse, key)
        show_backfill(clickhouse)
    show({"key": key, "demoted": True}, as_json)


@app.command("promoted")
def list_promoted(as_json: JsonOption = False) -> None:
    """List the metadata keys that have a column in the history."""
    settings = Settings()
    if settings.clickhouse_url is None and find_running(settings) is not None:
        settings = reach(settings)
    with _history(settings) as clickhouse:
        keys = promoted_keys(clickhouse)
    if as_json:
        rows = [{"key": key, "column": name, "is_built_in": key in BUILT_IN} for key, name in sorted(keys.items())]
        print_json({"promoted": rows})
        return
    show(keys, as_json)


def show_backfill(clickhouse: ClickHouse) -> None:
    """Wait until ClickHouse has written older rows anew, with a bar on standard error. Ctrl-C leaves it to
    ClickHouse."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("writing older rows anew", total=None)

        def tell(backfill: Backfill) -> None:
            most = max(backfill.parts, backfill.parts_left)
            progress.update(task, total=most, completed=most - backfill.parts_left)

        wait_for_backfill(clickhouse, tell)


@contextmanager
def _history(settings: Settings | None = None) -> Iterator[ClickHouse]:
    clickhouse = ClickHouse(settings or Settings())
    try:
        yield clickhouse
    finally:
        clickhouse.close()
