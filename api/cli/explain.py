"""`meterline explain` prints a receipt: why something was charged, held, refused or given."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.options import JsonOption
from api.cli.output import show, visible
from api.cli.service import Api, ApiError
from schemas.facts import is_decision_id
from streams.errors import OperatorError
from streams.history.limit_words import limits_text

app = typer.Typer()

ENTRIES_EXPLAINED_MAX = 5
_REQUEST = re.compile(r"req_[0-9a-f]{16}")


@app.command()
def explain(
    receipt: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The id of an entry, a hold, a grant, a purchase, a request (req_…) or an event"
        ),
    ],
    project: Annotated[
        str | None,
        typer.Option("--project", help="A project's id; needed where two projects have a grant of the same id"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why something was charged, held, refused or given: inputs, prices, grants, balances, offset.

    For an event's id, list what was decided on it, and why it was not accepted, if it was not. For a request's id, the
    x-request-id of an answer, say what was answered to whom, and explain what was decided for it.
    """
    api = Api()
    if is_decision_id(receipt):
        answer = api.call("GET", f"/v1/receipts/{receipt}", project=project).json()
        if as_json:
            show(answer, as_json)
        else:
            print(visible(explain_text(answer)))
        return
    # An event may bear any id. One that looks like a request's is looked for there first.
    kinds = (_of_request, _of_event) if _REQUEST.fullmatch(receipt) else (_of_event, _of_request)
    if not any(kind(api, receipt, project, as_json) for kind in kinds):
        raise OperatorError(
            f"Nothing is known of an event or a request {receipt!r}. Answers are kept for 24 hours, and those of a "
            "flood only in part: `meterline audit` sums up what was refused"
        )


def _of_event(api: Api, event_id: str, project: str | None, as_json: bool) -> bool:
    found = api.call("GET", "/v1/receipts", event_id=event_id, project=project).json()
    if not found["decisions"] and not found["dead_letters"]:
        return False
    show(found, as_json)
    return True


def _of_request(api: Api, request_id: str, project: str | None, as_json: bool) -> bool:
    try:
        found = api.call("GET", f"/v1/receipts/{quote(request_id, safe='')}", project=project).json()
    except ApiError as error:
        if error.code in ("unknown_receipt", "not_found", "invalid_request"):
            return False
        raise
    if as_json:
        show(found, as_json)
        return True
    for answer in found["answers"]:
        print(visible(answer_text(request_id, answer)))
        for entry_id in answer["entry_ids"][:ENTRIES_EXPLAINED_MAX]:
            explained = api.call("GET", f"/v1/receipts/{entry_id}", project=project).json()
            print(f"\n{visible(explain_text(explained))}")
        for entry_id in answer["entry_ids"][ENTRIES_EXPLAINED_MAX:]:
            print(f"  decided       {entry_id}")
    return True


def answer_text(request_id: str, answer: dict[str, Any]) -> str:
    """The text of an answer to a request, for people to read, from its JSON."""
    lines = [f"{request_id}  {answer['status']}  {answer['code'] or 'decided'}  {answer['operation']}"]
    if problem := answer["problem"]:
        lines.append(str(problem.get("detail", problem.get("title", ""))))
    asked_by = [answer["project"] or "no project's key", answer["environment"], answer["key_id"]]
    lines += ["", f"  answered      {answer['answered_at']}", f"  to            {', '.join(filter(None, asked_by))}"]
    if problem and problem.get("field"):
        lines.append(f"  field         {problem['field']}")
    if answer["entry_ids"]:
        lines.append(f"  decided       {', '.join(answer['entry_ids'][:ENTRIES_EXPLAINED_MAX])}")
    elif answer["status"] == 429:
        lines.append("  decided       by the API itself, since the window was full: it did nothing, and is counted")
    else:
        lines.append("  decided       nothing: no project's owner decided on it")
    return "\n".join(lines)


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
