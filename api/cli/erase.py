"""`meterline erase` has what events said of themselves erased from the history, and waits until it is."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from api.cli.asking import DryRunOption, YesOption, may
from api.cli.options import WHERE, JsonOption, ReasonOption
from api.cli.output import console, show
from api.cli.service import Api
from streams.errors import OperatorError

POLL_SECONDS = 0.2

app = typer.Typer(help=WHERE)


@app.command("erase")
def erase(
    project: Annotated[str, typer.Option("--project", help="A project's id.")],
    customer: Annotated[
        str | None, typer.Option("--customer", help="Only of the customer whom the metadata names so in customer_id.")
    ] = None,
    reason: ReasonOption = "",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Erase the metadata of a project's events from the history, or of one customer's. Amounts, ids and times stay.
    Given up with Ctrl-C, ClickHouse goes on by itself; asked again, it goes on to wait."""
    if customer == "":
        why = "name a customer; without --customer the whole project is erased"
        raise typer.BadParameter(why, param_hint="--customer")
    body = {"customer_id": customer, "reason": reason}
    service, url = Api(), f"/v1/admin/projects/{project}/erasures"
    found = service.call("POST", url, body, dry_run=True).json()
    if found["done"] and not dry_run:
        show(found, as_json)
        return
    if may("erase", lambda: found, yes=yes, dry_run=dry_run, as_json=as_json):
        answer = service.call("POST", url, body).json()
        show(_wait(service, f"{url}/{answer['entry_id']}", answer), as_json)


def _wait(service: Api, url: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Wait until an erasure is done, with a bar on standard error. Raises OperatorError where it can't."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        most = _left(answer)
        task = progress.add_task("erasing", total=most)
        while not answer["done"]:
            if answer["failure"]:
                raise OperatorError(f"ClickHouse can't erase: {answer['failure']}")
            time.sleep(POLL_SECONDS)
            answer = service.call("GET", url).json()
            progress.update(task, completed=most - _left(answer))
    return answer


def _left(answer: dict[str, Any]) -> int:
    return int(answer["facts_left"]) + int(answer["dead_letters_left"])
