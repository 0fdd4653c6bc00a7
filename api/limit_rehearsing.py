"""`meterline rehearse` with limits: ask the API, show how far it is, and print who would be hurt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from api.operator_cli import Api, problem_text
from streams.errors import OperatorError

_WIDTH_MIN = 150
_PROJECTS_SHOWN_MAX = 20


def rehearse_limits(console: Console, asked: dict[str, Any], as_json: bool) -> None:
    """Progress goes to `console`, what is found to standard output. Raises OperatorError."""
    if not as_json:
        asked = asked | {"worst_max": _PROJECTS_SHOWN_MAX}
    result = _followed(console, Api().follow("/v1/admin/rehearsals/limits", asked), asked["days"])
    if as_json:
        print(json.dumps(result, indent=2))
        return
    output = Console(highlight=False)
    if not output.is_terminal:
        output = Console(highlight=False, width=_WIDTH_MIN)
    output.print(_table(result))
    output.print(_summary(result))


def _followed(console: Console, lines: Iterator[dict[str, Any]], days: int) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"replaying {days} days", total=None)
        for line in lines:
            progress.update(task, completed=line["done"], total=line["all"] or None)
            if problem := line.get("problem"):
                raise OperatorError(problem_text(problem))
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
