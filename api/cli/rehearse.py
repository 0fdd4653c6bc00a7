"""`meterline rehearse` asks the API what a price book or other limits would do, and prints who would be hurt."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from api.cli.options import JsonOption
from api.cli.output import console, print_json, results, show, working
from api.cli.service import Api, read_json
from api.cli.words import words_of
from streams.errors import OperatorError

_WIDTH_MIN = 150
_PROJECTS_SHOWN_MAX = 20


_OF_LIMITS = "Limits: name at least one"
_OF_REQUESTS = "Limits: whose requests"

app = typer.Typer()


@app.command()
def rehearse(
    file: Annotated[
        Path | None, typer.Argument(help="JSON: version and the rates that differ, as for `prices announce`")
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=90, help="How far back to replay; for limits at most 31.")
    ] = 7,
    requests_per_minute: Annotated[
        int | None,
        typer.Option("--requests-per-minute", min=1, help="Requests in 60 seconds.", rich_help_panel=_OF_LIMITS),
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="Requests at once, after a rest.", rich_help_panel=_OF_LIMITS)
    ] = None,
    cost_ceiling: Annotated[
        str | None,
        typer.Option("--cost-ceiling", help="Credits that may be spent in 60 seconds.", rich_help_panel=_OF_LIMITS),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option("--project", help="A project's id; only its requests are replayed.", rich_help_panel=_OF_REQUESTS),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            help="free, hobby, build, scale or enterprise; only projects that are on it today.",
            rich_help_panel=_OF_REQUESTS,
        ),
    ] = None,
    with_events: Annotated[
        bool,
        typer.Option(
            "--with-events/--without-events",
            help="Count usage events as requests, or not. In the history, an admission that named its event looks like "
            "a usage event, unless its limits refused it: without events, such admissions are left out too.",
            rich_help_panel=_OF_REQUESTS,
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Replay the last days under a proposed price book, or under proposed limits, and list who would be hurt.

    With a FILE, see what each project would pay, and who would run out of credits.

    With limits, see how many of the recorded requests would have been refused, and how many were. A limit that is not
    named stays as plan and contract have it.
    """
    limits = {"requests_per_minute": requests_per_minute, "burst": burst, "cost_ceiling": cost_ceiling}
    of_limits = {"project": project, "plan": plan} | limits
    if file is None:
        if all(each is None for each in limits.values()):
            raise typer.BadParameter("name a price book's FILE, or a limit: --requests-per-minute, --burst, …")
        rehearse_limits({"days": days, "with_events": with_events} | of_limits, as_json)
        return
    if any(each is not None for each in of_limits.values()) or not with_events:
        raise typer.BadParameter("prices or limits: one at a time")
    with working(f"replaying {days} days"):
        answer = Api().call("POST", "/v1/admin/rehearsals", {"days": days, "book": read_json(file)}).json()
    show(answer, as_json)


def rehearse_limits(asked: dict[str, Any], as_json: bool) -> None:
    """Rehearse limits, and print the result on standard output, progress on standard error. Raises OperatorError."""
    if not as_json:
        asked = asked | {"worst_max": _PROJECTS_SHOWN_MAX}
    result = _followed(Api().follow("/v1/admin/rehearsals/limits", asked), asked["days"])
    if as_json:
        print_json(result)
        return
    output = results()
    if not output.is_terminal:
        output = results(_WIDTH_MIN)
    output.print(_table(result))
    output.print(_summary(result))


def _followed(lines: Iterator[dict[str, Any]], days: int) -> dict[str, Any]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"replaying {days} days", total=None)
        for line in lines:
            progress.update(task, completed=line["done"], total=line["all"] or None)
            if problem := line.get("problem"):
                raise OperatorError(words_of(problem))
            if result := line.get("result"):
                found: dict[str, Any] = result
                return found
    raise OperatorError("The rehearsal ended without a result: look at the API's log")


def _table(result: dict[str, Any]) -> Table:
    table = Table(
        title=f"{_day(result['since'])} to {_day(result['until'])}, UTC; the worst first", title_justify="left"
    )
    table.add_column("project", overflow="fold")
    table.add_column("plan")
    for name in (
        "requests",
        "refused\nby window",
        "by\nceiling",
        "above\nceiling",
        "refused\nthen",
        "credits\nrefused",
        "busiest 60 s\nrequests",
        "credits",
    ):
        table.add_column(name, justify="right")
    table.add_column("first and last\nrefused")
    for each in result["worst"]:
        busiest = each["busiest_minute"]
        table.add_row(
            each["project"], each["plan"], *_numbers(each), f"{busiest['requests']:,}", busiest["credits"], _when(each)
        )
    if len(result["worst"]) != 1:
        table.add_section()
        shown = len(result["worst"])
        name = "all" if shown == result["projects"] else f"all {result['projects']:,}, of which {shown:,} are shown"
        table.add_row(name, "", *_numbers(result["totals"]), "", "", _when(result["totals"]))
    return table


def _numbers(counts: dict[str, Any]) -> list[str]:
    proposed, recorded = counts["proposed"], counts["recorded"]
    return [
        f"{counts['requests']:,}",
        f"{proposed['by_window']:,}",
        f"{proposed['by_ceiling']:,}",
        f"{proposed['over_cost_ceiling']:,}",
        f"{recorded['limited'] + recorded['over_cost_ceiling']:,}",
        proposed["credits"],
    ]


def _summary(result: dict[str, Any]) -> str:
    totals = result["totals"]
    text = f"{result['projects_hurt']:,} of {result['projects']:,} projects would have had more requests refused."
    if totals["maybe_events"]:
        text += (
            f"\n{totals['maybe_events']:,} of the requests may have come as usage events, which nothing limits; "
            "--without-events leaves them out."
        )
    return text


def _when(counts: dict[str, Any]) -> str:
    first, last = counts["proposed"]["first_at"], counts["proposed"]["last_at"]
    return "" if first is None else f"{_day(first)}\n{_day(last)}"


def _day(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S}"
