"""`meterline webhooks` makes, changes and tries out endpoints that hear of notices, and lists their deliveries."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.options import (
    ENVIRONMENT_HELP,
    WHERE,
    CursorOption,
    JsonOption,
    KeyOption,
    LimitOption,
    VerboseOption,
)
from api.cli.output import show, show_page, show_rows, tell
from api.cli.service import Api

app = typer.Typer(
    help=f"Make, change and try out endpoints that hear of notices, and see what became of deliveries. {WHERE}",
    no_args_is_help=True,
)

EndpointArgument = Annotated[str, typer.Argument(help="The endpoint's id, from `webhooks list`.")]
WhoseOption = Annotated[
    str | None, typer.Option("--project", help="A project's id; the platform's own endpoints if left out.")
]
EventTypesOption = Annotated[
    list[str] | None,
    typer.Option("--event-type", help="A notice to hear of, such as project.credits_low, project.* or *; repeatable."),
]
EnvironmentsOption = Annotated[
    list[str] | None, typer.Option("--environment", help=f"{ENVIRONMENT_HELP}; repeatable, both if left out.")
]
OrderedOption = Annotated[
    bool | None,
    typer.Option("--ordered/--unordered", help="Whether a notice waits until the one before it has been delivered."),
]
DescriptionOption = Annotated[str | None, typer.Option("--description", help="A description for people.")]
_BRIEF = ("id", "target", "event_types", "state")
_COLUMNS = ("id", "kind", "target", "event_types", "environments", "state")
_DELIVERIES = ("sent_at", "notice_type", "notice_id", "number", "status", "ms", "delivered", "error", "next_at")


@app.command("list")
def list_endpoints(project: WhoseOption = None, verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """List the endpoints, the oldest first."""
    answer = _call("GET", "/v1/webhook-endpoints", project)
    show_rows(answer, answer["endpoints"], _COLUMNS, as_json, verbose)


@app.command("add")
def add_endpoint(
    target: Annotated[str, typer.Argument(help="An https URL, or an email address.")],
    project: WhoseOption = None,
    slack: Annotated[bool, typer.Option("--slack", help="The URL is an incoming webhook of Slack's.")] = False,
    event_types: EventTypesOption = None,
    environments: EnvironmentsOption = None,
    ordered: OrderedOption = None,
    description: DescriptionOption = None,
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an endpoint, and send a test notice to it. The secret that a webhook is signed with is shown only now."""
    is_email = "@" in target and "://" not in target
    body = _terms(event_types, environments, ordered, description)
    body |= {"kind": "slack" if slack else "email" if is_email else "webhook", "target": target}
    answer = _call("POST", "/v1/webhook-endpoints", project, body, idempotency_key)
    tell(answer, (*_BRIEF, "secret"), as_json, verbose)


@app.command("show")
def show_endpoint(endpoint: EndpointArgument, project: WhoseOption = None, as_json: JsonOption = False) -> None:
    """Show one endpoint."""
    show(_call("GET", f"/v1/webhook-endpoints/{endpoint}", project), as_json)


@app.command("change")
def change_endpoint(
    endpoint: EndpointArgument,
    project: WhoseOption = None,
    target: Annotated[str | None, typer.Option("--target", help="Another https URL, or email address.")] = None,
    event_types: EventTypesOption = None,
    environments: EnvironmentsOption = None,
    ordered: OrderedOption = None,
    description: DescriptionOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change an endpoint: what is left out stays as it is."""
    body = _terms(event_types, environments, ordered, description) | ({"target": target} if target is not None else {})
    _change(endpoint, project, body, as_json, verbose)


@app.command("pause")
def pause_endpoint(
    endpoint: EndpointArgument, project: WhoseOption = None, verbose: VerboseOption = False, as_json: JsonOption = False
) -> None:
    """Pause an endpoint: nothing is sent to it for now."""
    _change(endpoint, project, {"state": "paused"}, as_json, verbose)


@app.command("resume")
def resume_endpoint(
    endpoint: EndpointArgument, project: WhoseOption = None, verbose: VerboseOption = False, as_json: JsonOption = False
) -> None:
    """Resume an endpoint that was paused, or that was disabled since it failed for too long."""
    _change(endpoint, project, {"state": "active"}, as_json, verbose)


@app.command("rotate")
def rotate_secret(
    endpoint: EndpointArgument,
    project: WhoseOption = None,
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rotate a webhook's secret: the new one is shown only now, and for 24 hours the old one signs too."""
    answer = _call("POST", f"/v1/webhook-endpoints/{endpoint}/rotate", project, None, idempotency_key)
    tell(answer, ("id", "secret", "previous_until"), as_json, verbose)


@app.command("remove")
def remove_endpoint(endpoint: EndpointArgument, project: WhoseOption = None, as_json: JsonOption = False) -> None:
    """Remove an endpoint: nothing more is sent to it."""
    path, query = _of(f"/v1/webhook-endpoints/{endpoint}", project)
    Api().call("DELETE", path, **query)
    show({"id": endpoint, "removed": True}, as_json)


@app.command("test")
def test_endpoint(
    endpoint: EndpointArgument, project: WhoseOption = None, verbose: VerboseOption = False, as_json: JsonOption = False
) -> None:
    """Send a test notice to one endpoint alone."""
    answer = _call("POST", f"/v1/webhook-endpoints/{endpoint}/test", project)
    tell(answer, ("id", "entry_id"), as_json, verbose)


@app.command("health")
def show_health(endpoint: EndpointArgument, project: WhoseOption = None, as_json: JsonOption = False) -> None:
    """Show whether an endpoint takes what is sent to it, when it is tried again, and why it was disabled."""
    show(_call("GET", f"/v1/webhook-endpoints/{endpoint}/health", project), as_json)


@app.command("deliveries")
def list_deliveries(
    endpoint: EndpointArgument,
    project: WhoseOption = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", help="Attempts that ended so: delivered or failed; all if left out.")
    ] = None,
    notice: Annotated[str | None, typer.Option("--notice", help="A notice's id; all if left out.")] = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the attempts of the last 30 days to deliver notices to an endpoint, the newest first."""
    path, query = _of(f"/v1/webhook-endpoints/{endpoint}/deliveries", project)
    query |= {"outcome": outcome, "notice_id": notice, "limit": limit or 100, "cursor": cursor}
    page = Api().call("GET", path, **query).json()
    show_page(page, page["deliveries"], _DELIVERIES, as_json, verbose)


@app.command("replay")
def replay_notices(
    endpoint: EndpointArgument,
    project: WhoseOption = None,
    notice: Annotated[str | None, typer.Option("--notice", help="A notice's id; or give --from.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="RFC 3339 with a zone; within the last 30 days.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only notices that the endpoint never took.")] = False,
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send notices to an endpoint again: one, all since a time, or of these what it never took. Each keeps its id."""
    body = {"notice_id": notice, "since": since, "only_failed": failed}
    path = f"/v1/webhook-endpoints/{endpoint}/replay"
    tell(_call("POST", path, project, body, idempotency_key), ("id", "entry_id"), as_json, verbose)


def _of(path: str, project: str | None) -> tuple[str, dict[str, Any]]:
    """The path and the query of a call about a project's endpoints, or, without a project, about the platform's."""
    return (path, {"project": project}) if project is not None else (path.replace("/v1/", "/v1/admin/", 1), {})


def _call(method: str, path: str, project: str | None, body: object = None, key: str | None = None) -> dict[str, Any]:
    path, query = _of(path, project)
    answer: dict[str, Any] = Api().call(method, path, body, key=key, **query).json()
    return answer


def _change(endpoint: str, project: str | None, body: dict[str, Any], as_json: bool, verbose: bool) -> None:
    tell(_call("PATCH", f"/v1/webhook-endpoints/{endpoint}", project, body), _BRIEF, as_json, verbose)


def _terms(
    event_types: list[str] | None, environments: list[str] | None, ordered: bool | None, description: str | None
) -> dict[str, Any]:
    given = {"event_types": event_types, "environments": environments, "ordered": ordered, "description": description}
    return {name: value for name, value in given.items() if value not in (None, [])}
