"""`meterline verify` reconciles accounts, journal and history, and can rebuild the accounts from the log."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from api.cli.options import JsonOption
from api.cli.output import console, print_json
from streams.settings import Settings

app = typer.Typer()


@app.command()
def verify(
    as_json: JsonOption = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Also decide the whole intake log anew, and compare accounts byte by byte."),
    ] = False,
) -> None:
    """Reconcile accounts, journal and ClickHouse on a live system. Exit code 1 says that they differ."""
    from streams.clickhouse.client import ClickHouse
    from streams.embedded.running import reach
    from streams.reconcile.rebuild import rebuild as run_rebuild
    from streams.reconcile.verify import verify as run

    settings = reach(Settings())
    clickhouse = ClickHouse(settings)
    rebuilt = None
    try:
        with console.status("") as status:
            verdict = asyncio.run(run(settings, clickhouse, status.update))
            if rebuild:
                rebuilt = asyncio.run(run_rebuild(settings, status.update))
    finally:
        clickhouse.close()
    ok = verdict.ok and (rebuilt is None or rebuilt.ok)
    if as_json:
        found = verdict.as_json() | ({"rebuild": rebuilt.as_json()} if rebuilt is not None else {})
        print_json(found | {"ok": ok})
    else:
        print(f"{verdict.projects:,} projects, {verdict.facts:,} facts, {verdict.seconds:.1f} s")
        for difference in verdict.differences:
            print(
                f"{difference.project} {difference.grant_id} {difference.measure}: {difference.between} differ, "
                f"{difference.first:,} and {difference.second:,} microcredits {' '.join(difference.entry_ids)}"
            )
        print("no drift" if verdict.ok else f"drift: {verdict.drift_microcredits:,} microcredits")
        if rebuilt is not None:
            print(f"rebuilt: {rebuilt.records:,} records, {rebuilt.accounts:,} accounts, {rebuilt.seconds:.1f} s")
            print("byte-equal" if rebuilt.ok else f"{rebuilt.different:,} differ: {' '.join(rebuilt.named)}")
    if not ok:
        raise typer.Exit(1)
