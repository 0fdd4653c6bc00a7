"""`meterline bench NAME` runs a benchmark. It says the machine and its sizes, and prints one JSON object last."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
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
    packed: Annotated[bool, typer.Option(help="Usage as KafkaProducer packs it, or JSON as others send it.")] = True,
    projections: Annotated[bool, typer.Option(help="With the sums of use that ClickHouse keeps, or without.")] = True,
) -> None:
    """Measure how many events a second one worker carries, from usage to ClickHouse."""
    from tests.benchmarks.throughput import compare, measure, ratios

    if quick:
        events, projects = min(events, 100_000), min(projects, 1_000)
    with console.status("") as status:
        result = measure(events, projects, status.update, packed=packed, projections=projections)
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
    """Measure the seconds until a worker decides again: without its disk, with it, and after a kill."""
    from tests.benchmarks.recovery.run import measure

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
    """Measure the index of seen ids: ids a second, its size, and that it is exact."""
    from tests.benchmarks.dedup.run import measure

    if quick:
        ids = min(ids, 400_000)
    with console.status("") as status:
        result = measure([ids // 5, ids], status.update, baseline_seconds_max=3.0 if quick else 60.0)
    _show(result, as_json)


@app.command()
def memory(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    accounts: Annotated[int, typer.Option("--accounts", min=100, help="Accounts, with windows and keys.")] = 1_000_000,
    ids: Annotated[
        int, typer.Option("--ids", min=10_000, help="Ids; a tenth as many are measured first.")
    ] = 50_000_000,
) -> None:
    """Measure a worker's memory and files: by the ids of its dedup index, and by its accounts."""
    from tests.benchmarks.memory import measure

    if quick:
        accounts, ids = min(accounts, 2_000), min(ids, 200_000)
    with console.status("") as status:
        result = measure(accounts, [ids // 10, ids], 5_000 if quick else 200_000, status.update)
    _show(result, as_json)


@app.command()
def admission(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    partitions: Annotated[int, typer.Option(min=1, max=64, help="Of every topic: one is enough for one worker.")] = 1,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Show too where the time of a batch of 64 callers goes, ours and the floor's."),
    ] = False,
) -> None:
    """Measure admissions a second and how soon each is answered, by client library, HTTP and Redis, and by the floor:
    the same hops through Kafka with nothing decided. Then let 1,000 spenders spend one balance while the worker is
    killed, and measure an idle stack. Exits with 1 if a credit was overspent or could not be spent."""
    from tests.benchmarks.admission.run import measure, passed
    from tests.benchmarks.admission.trace import table

    with console.status("") as status:
        result = measure(quick, status.update, partitions, trace)
    if trace:
        console.print(table(result["trace"]))
    _show(result, as_json)
    if not passed(result):
        raise typer.Exit(1)


@app.command()
def balance(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    streams: Annotated[
        int, typer.Option("--streams", min=0, max=1000, help="Then again beside so many open live ledgers; 0: not.")
    ] = 0,
    events: Annotated[
        int, typer.Option("--events", min=1, help="Usage events a second that flow beside them.")
    ] = 20_000,
) -> None:
    """Measure balance look-ups by HTTP, counted and not, beside a bare route with a constant answer. With --streams,
    measure them again while live ledgers are open and events flow."""
    from tests.benchmarks.balance.run import measure

    if quick:
        streams, events = min(streams, 25), min(events, 500)
    with console.status("") as status:
        result = measure(quick, status.update, streams, events)
    _show(result, as_json)


@app.command()
def dashboard(
    as_json: JsonOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: ends within two minutes.")] = False,
) -> None:
    """Measure the dashboard in a real browser: first paint with data at 1,000,000 rows of one project, what pages
    weigh, how soon a decision is a row; and what 500 open live ledgers cost. Exits with 1 if a page was refused or had
    a fault, or a decision never became a row."""
    from tests.benchmarks.dashboard.run import FULL, QUICK, measure, passed

    with console.status("") as status:
        result = measure(QUICK if quick else FULL, status.update)
    _show(result, as_json)
    if not passed(result):
        raise typer.Exit(1)


@app.command()
def history(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    facts: Annotated[int, typer.Option("--facts", min=10_000, help="Facts in the history.")] = 100_000_000,
    projects: Annotated[int, typer.Option("--projects", min=2, help="Projects; the largest has a tenth.")] = 10_000,
    runs: Annotated[int, typer.Option("--runs", min=1, help="How often each question is asked.")] = 9,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keep the history here, and go on with what is there.")
    ] = None,
) -> None:
    """Measure what analysts and customers ask of the history, beside the same asked of its rows alone. Exits with 1 if
    an answer is not that of the rows."""
    from tests.benchmarks.history.run import measure

    if quick:
        facts, runs = min(facts, 1_000_000), min(runs, 5)
    with console.status("") as status:
        result = measure(facts, projects, runs, status.update, folder)
    _show(result, as_json)
    if result["wrong"]:
        raise typer.Exit(1)


@app.command()
def freshness(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    rate: Annotated[int, typer.Option("--rate", min=20, help="Usage events a second.")] = 20_000,
    seconds: Annotated[float, typer.Option("--seconds", min=5, help="How long they are sent.")] = 30.0,
    projects: Annotated[int, typer.Option("--projects", min=1, help="Projects, skewed.")] = 1_000,
    away: Annotated[
        int, typer.Option("--away", min=0, help="Events that are decided while the history is away; 0: it stays.")
    ] = 1_000_000,
) -> None:
    """Measure how soon what was decided can be read in the history, while events come at an even rate; and how soon it
    has caught up after it was away."""
    from tests.benchmarks.freshness import measure

    if quick:
        rate, seconds, projects, away = min(rate, 2_000), min(seconds, 6.0), min(projects, 100), min(away, 20_000)
    with console.status("") as status:
        result = measure(rate, seconds, projects, away, status.update)
    _show(result, as_json)


@app.command()
def export(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    rows: Annotated[
        int, typer.Option("--rows", min=10_000, help="Rows of a file; a tenth as many are measured first.")
    ] = 10_000_000,
) -> None:
    """Measure files of usage: rows a second of CSV and of Parquet, and the memory that ten times the rows take more.
    Exits with 1 if a file has not what the facts say."""
    from tests.benchmarks.export.run import measure

    if quick:
        rows = min(rows, 500_000)
    with console.status("") as status:
        result = measure(rows, status.update)
    _show(result, as_json)
    if result["wrong"]:
        raise typer.Exit(1)


@app.command()
def courier(
    as_json: JsonOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: ends within a minute.")] = False,
) -> None:
    """Measure deliveries to 1,000 endpoints, one of them slow, one failing, one at its cap: how soon the first attempt
    is made, and how many a second. Then kill the courier 20 times. Exits with 1 if a notice was lost or billed twice,
    or an endpoint got more than 100 in any second."""
    from tests.benchmarks.courier.run import FULL, QUICK, measure, passed

    with console.status("") as status:
        result = measure(QUICK if quick else FULL, status.update)
    _show(result, as_json)
    if not passed(result):
        raise typer.Exit(1)


@app.command()
def mutation(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Changes to try; 0 for all, which takes hours.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Which ones; the same seed gives the same.")] = 1,
    module: Annotated[
        list[str] | None, typer.Option("--module", help="Only in this module of the core, such as pricing. Repeatable.")
    ] = None,
) -> None:
    """Change the core in small ways, and count how many of the changes its tests notice. Exits with 1 if there is one
    that no test notices and nobody has explained."""
    from tests.benchmarks.mutation.run import QUICK, measure

    with console.status("") as status:
        result = measure(sample, seed, status.update, **(QUICK if quick else {"modules": module or []}))
    _show(result, as_json)
    if result.get("unexplained"):
        raise typer.Exit(1)


@app.command()
def chaos(
    as_json: JsonOption = False,
    quick: QuickOption = False,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, max=24 * 60, help="Of faults, under load.")] = 5.0,
    seed: Annotated[int, typer.Option("--seed", help="The plan of faults; the same seed gives the same.")] = 1,
    projects: Annotated[
        int, typer.Option("--projects", min=10, help="Projects; half of them run out of credits.")
    ] = 60,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Usage events a second.")] = 150.0,
) -> None:
    """Kill, pause and wipe parts of a stack under load, and count what was lost or billed twice. Exits with 1 if
    anything was."""
    from tests.benchmarks.chaos.run import measure, passed

    if quick:
        minutes, projects = min(minutes, 12 / 60), min(projects, 40)
    began_at = time.monotonic()
    with console.status("") as status:

        def tell(text: str) -> None:
            status.update(text)
            # Where no terminal shows the status, each step is a line with its time: a failed run is understood by them.
            if not console.is_terminal:
                print(f"{time.monotonic() - began_at:7.2f} {text}", file=sys.stderr)

        result = measure(minutes * 60, seed, projects, rate, tell)
    _show(result, as_json)
    if not passed(result):
        raise typer.Exit(1)


@app.command()
def hostile(
    as_json: JsonOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="Short phases: ends within two minutes.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the load and of the poison.")] = 1,
) -> None:
    """Attack a stack in every known way beside 64 good callers: poison, rubbish, giant bodies, heavy queries, slow
    connections, floods. Measure how soon the good ones are answered, with and without. Exits with 1 if anything of
    theirs was lost, or a part ended."""
    from tests.benchmarks.hostile.run import FULL, QUICK, measure, passed

    with console.status("") as status:
        result = measure(QUICK if quick else FULL, seed, status.update)
    _show(result, as_json)
    if not passed(result):
        raise typer.Exit(1)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print_json(json.dumps(result))
