"""`meterline limits`: requests and credits a minute, by contract, on trial, or raised for a while."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.options import WHERE, JsonOption, KeyOption, ProjectArgument, ReasonOption
from api.cli.output import show
from api.cli.service import Api
from streams.errors import OperatorError

RequestsOption = Annotated[int | None, typer.Option("--requests", min=1, help="Requests a minute.")]
BurstOption = Annotated[int | None, typer.Option("--burst", min=1, help="Requests at once, after a rest.")]
CeilingOption = Annotated[str | None, typer.Option("--ceiling", help="Credits a minute, such as 500 or 0.5.")]
app = typer.Typer(
    help=f"Requests and credits a minute: by contract, on trial, or raised for a while. {WHERE}",
    no_args_is_help=True,
)


@app.command("show")
def show_limits(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """The limits in force now, and what they come from: plan, contract, raises; those on trial."""
    show(Api().call("GET", f"/v1/admin/projects/{project}/limits").json(), as_json)


@app.command("set")
def set_limits(
    project: ProjectArgument,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    end: Annotated[bool, typer.Option("--end", help="Go back to the plan's.")] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Other limits than the plan's, for good: a contract. They replace those set before; what is left out is the
    plan's."""
    _set_limits(project, _some_limits(requests, burst, ceiling), end, reason, as_json, is_shadow=False)


@app.command("shadow")
def shadow_limits(
    project: ProjectArgument,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    end: Annotated[bool, typer.Option("--end", help="End the trial.")] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Try limits: what they would have refused is in `audit --kind shadow`, and nothing is refused."""
    _set_limits(project, _some_limits(requests, burst, ceiling), end, reason, as_json, is_shadow=True)


@app.command("raise")
def raise_limits(
    project: ProjectArgument,
    until: Annotated[str, typer.Option("--until", help="When it ends: RFC 3339 with a zone")],
    reason: Annotated[str, typer.Option("--reason", help="Such as the launch it is for; kept in the audit log.")],
    since: Annotated[str | None, typer.Option("--from", help="When it begins: RFC 3339 with a zone; now")] = None,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    idempotency_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Raise limits for a window of time, without changing the plan."""
    body = _some_limits(requests, burst, ceiling) | {"ends_at": until, "reason": reason}
    if since is not None:
        body["starts_at"] = since
    url = f"/v1/admin/projects/{project}/limit-raises"
    show(Api().call("POST", url, body, key=idempotency_key).json(), as_json)


@app.command("end-raise")
def end_raise(
    project: ProjectArgument,
    raise_id: Annotated[str, typer.Argument(help="From `limits show`")],
    as_json: JsonOption = False,
) -> None:
    """End a raise now, or take back one that has not begun. Prints the limits without it."""
    api = Api()
    api.call("DELETE", f"/v1/admin/projects/{project}/limit-raises/{raise_id}")
    show(api.call("GET", f"/v1/admin/projects/{project}/limits").json(), as_json)


def _some_limits(requests: int | None, burst: int | None, ceiling: str | None) -> dict[str, Any]:
    asked = {"requests_per_minute": requests, "burst": burst, "cost_ceiling": ceiling}
    return {name: value for name, value in asked.items() if value is not None}


def _set_limits(project: str, some: dict[str, Any], end: bool, reason: str, as_json: bool, *, is_shadow: bool) -> None:
    if bool(some) == end:
        raise OperatorError("Name the limits (--requests, --burst, --ceiling), or --end and none of them")
    body = some | {"is_shadow": is_shadow, "reason": reason}
    show(Api().call("PUT", f"/v1/admin/projects/{project}/limits", body).json(), as_json)
