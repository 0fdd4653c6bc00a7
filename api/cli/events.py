"""`meterline events` shows what was decided on a usage event."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import WHERE, JsonOption, VerboseOption
from api.cli.output import show_rows
from api.cli.service import Api
from streams.errors import OperatorError

app = typer.Typer(help=f"Show what was decided on usage events. {WHERE}", no_args_is_help=True)


@app.callback()
def _events() -> None:
    """Do nothing: without a callback, typer makes no group of one command."""


@app.command("show")
def show_event(
    event_id: Annotated[str, typer.Argument(help="The event's `id`.")],
    source: Annotated[str | None, typer.Option("--source", help="The event's `source`; any if left out.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="A project's id; any if left out.")] = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what was decided on an event, the oldest first, and why it was not accepted, if it was not."""
    found = Api().call("GET", "/v1/receipts", event_id=event_id, source=source, project=project).json()
    letters = found["dead_letters"] or []
    if not found["decisions"] and not letters:
        raise OperatorError(f"Nothing is known of an event {event_id!r}")
    columns = ("booked_at", "id", "project", "outcome", "amount", "summary")
    if found["decisions"] or as_json:
        show_rows(found, found["decisions"], columns, as_json, verbose)
    if letters and not as_json:
        show_rows(found, letters, ("received_at", "code", "field", "detail"), as_json, verbose)
