"""`meterline bench NAME`: each benchmark says the machine and its sizes, and prints one JSON object last."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(help="Benchmarks. Each ends with one JSON object if --json is given.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, last.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Small sizes: ends within 45 seconds.")]
console = Console(stderr=True, highlight=False)


@app.command()
def throughput(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    events: Annotated[int, typer.Option("--events", min=1000, help="Usage events.")] = 5_000_000,
    projects: Annotated[int, typer.Option("--projects", min=1, help="Projects, skewed.")] = 10_000,
) -> None:
    """Events a second that one worker carries, from usage to ClickHouse."""
    from api.bench.throughput import compare, measure, ratios

    if quick:
        events, projects = min(events, 100_000), min(projects, 1_000)
    with console.status("") as status:
        result = measure(events, projects, status.update)
        compared = compare(quick, status.update)
    result["baselines"] = [each.summary() for each in compared]
    result["ratios"] = ratios(result["events_per_second"], compared)
    _show(result, as_json)


@app.command()
def recovery(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    accounts: Annotated[int, typer.Option("--accounts", min=100, help="Accounts to get back.")] = 1_000_000,
    seen_ids: Annotated[int, typer.Option("--seen-ids", min=1, help="Ids in the dedup index.")] = 1_000_000,
) -> None:
    """Seconds until a worker decides again: without its disk, with it, and after a kill."""
    from api.bench.recovery import measure

    if quick:
        accounts, seen_ids = min(accounts, 20_000), min(seen_ids, 20_000)
    with console.status("") as status:
        result = measure(accounts, seen_ids, status.update, 6.0 if quick else 60.0, compacting=not quick)
    _show(result, as_json)


@app.command()
def dedup(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    ids: Annotated[int, typer.Option("--ids", min=1000, help="Ids; a fifth as many are measured first.")] = 5_000_000,
) -> None:
    """Ids a second through the exact index of seen ids, its size, and that it is exact."""
    from api.bench.dedup import measure

    if quick:
        ids = min(ids, 400_000)
    with console.status("") as status:
        result = measure([ids // 5, ids], status.update, baseline_seconds_max=3.0 if quick else 60.0)
    _show(result, as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print_json(json.dumps(result))
