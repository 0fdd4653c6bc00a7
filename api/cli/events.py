"""`meterline events` shows what was decided on a usage event."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.explain import explain_text
from api.cli.options import WHERE, JsonOption, VerboseOption
from api.cli.output import show, show_rows, visible
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
    """Show what became of an event: decided, refused, a repeat, among the dead letters, or never seen.

    With `--source` there is one such event: when, why, and its receipt. Without it, events of that id of any source are
    listed.
    """
    api = Api()
    if source is not None:
        path = f"/v1/events/{quote(source, safe='')}/{quote(event_id, safe='')}"
        report = api.call("GET", path, project=project).json()
        if as_json:
            show(report, as_json)
        else:
            print(visible(report_text(report)))
        return
    found = api.call("GET", "/v1/receipts", event_id=event_id, project=project).json()
    letters = found["dead_letters"] or []
    if not found["decisions"] and not letters:
        raise OperatorError(f"Nothing is known of an event {event_id!r}; `--source` says up to when that holds")
    columns = ("booked_at", "id", "project", "outcome", "amount", "summary")
    if found["decisions"] or as_json:
        show_rows(found, found["decisions"], columns, as_json, verbose)
    if letters and not as_json:
        show_rows(found, letters, ("received_at", "code", "field", "detail"), as_json, verbose)


def report_text(report: dict[str, Any]) -> str:
    """The text of a report on an event, for people to read, from its JSON."""
    state = report["state"].replace("_", " ")
    lines = [f"{report['source']} {report['event_id']}: {state}", report["summary"], ""]
    if report["at"]:
        lines.append(f"  at            {report['at']}")
    if report["repeats"]:
        lines.append(f"  came again    {report['repeats']} times, which changed nothing")
    lines += [
        f"  dead letter   {each['received_at']}  {each['code']}  {each['detail']}" for each in report["dead_letters"]
    ]
    if not report["is_complete"]:
        lines.append("  there is more than is shown")
    lines.append(f"  as of         {report['as_of'] or 'not known: the service is still looking'}")
    if report["receipt"]:
        lines += ["", explain_text(report["receipt"])]
    return "\n".join(lines)
