"""`meterline explain` prints a receipt: why something was charged, held, refused or given."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.options import JsonOption
from api.cli.output import show
from api.cli.service import Api
from streams.errors import OperatorError
from streams.history.limit_words import limits_text

app = typer.Typer()


@app.command()
def explain(
    receipt: Annotated[
        str, typer.Argument(metavar="ID", help="The id of an entry, a hold, a grant, a purchase or an event")
    ],
    project: Annotated[
        str | None,
        typer.Option("--project", help="The project's id; needed where two projects have a grant of the same id"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why something was charged, held, refused or given: inputs, prices, grants, balances, offset.

    For an event's id, list what was decided on it, and why it was not accepted, if it was not.
    """
    from streams.history.receipts import is_receipt_id

    if not is_receipt_id(receipt):
        found = Api().call("GET", "/v1/receipts", event_id=receipt, project=project).json()
        if not found["decisions"] and not found["dead_letters"]:
            raise OperatorError(f"Nothing is known of an event {receipt!r}")
        show(found, as_json)
        return
    answer = Api().call("GET", f"/v1/receipts/{receipt}", project=project).json()
    if as_json:
        show(answer, as_json)
    else:
        print(explain_text(answer))


def explain_text(receipt: dict[str, Any]) -> str:
    """The text of a receipt, for people to read, from the receipt's JSON."""
    inputs, price = receipt["inputs"], receipt["price"]
    lines = [f"{receipt['id']}  {receipt['outcome']}  {receipt['project']}", receipt["summary"], ""]

    def row(name: str, value: object) -> None:
        if value not in ("", None, {}):
            lines.append(f"  {name:<14}{value}")

    what = inputs["operation"] + (f" with {inputs['surcharge']}" if inputs["surcharge"] else "")
    row("operation", f"{what} × {inputs['quantity']}" if inputs["quantity"] else what)
    row("environment", inputs["environment"])
    row("event", f"{inputs['event_id']} of {inputs['source']}" if inputs["event_id"] else "")
    row("job", inputs["job_id"])
    row("key", inputs["key_id"])
    row("metadata", ", ".join(f"{name}={value}" for name, value in inputs["metadata"].items()))
    row("occurred", inputs["occurred_at"])
    row("booked", f"{inputs['booked_at']}, partition {receipt['partition']}, offset {receipt['offset']}")
    if price is not None:
        row("price book", price["version"])
        for line in price["lines"]:
            row("", f"{line['operation']}: {line['text']}")
        row("total", f"{price['total']} credits")
    if refusal := receipt["refusal"]:
        row("refused", f"{refusal['status']} {refusal['code']}: {refusal['detail']}")
    if shadow := receipt["shadow"]:
        row("on trial", f"{shadow['status']} {shadow['code']}: {shadow['detail']}")
    if limits := receipt["limits"]:
        came_from = [f"plan {limits['plan']}", *(["contract"] if limits["contract"] else []), *limits["raises"]]
        row("limits", f"{limits_text(limits['in_force'])} ({', '.join(came_from)})")
        row("minute before", f"{limits['requests_before']} requests, {limits['credits_before']} credits")
        if limits["retry_after_seconds"] is not None:
            row("retry after", f"{limits['retry_after_seconds']} seconds")
    row("hold", receipt["hold_id"])
    row("repeats", receipt["first_decision"])
    for grant in receipt["grants"]:
        held = f", held {grant['held']}" if grant["held"] != "0" else ""
        row("grant", f"{grant['grant_id']}: {grant['amount']}{held}")
    for name in ("before", "after"):
        if budget := receipt[name]:
            row(name, f"balance {budget['balance']}, held {budget['held']}, available {budget['available']}")
    for each in receipt["booked_with"]:
        lines.append(f"  booked with it, due {each['due_at']}: {each['summary']}")
    return "\n".join(lines)
