"""`meterline limits` shows and sets requests and credits a minute: by contract, on trial, or raised for a while."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.options import (
    WHERE,
    JsonOption,
    KeyOption,
    NeededReasonOption,
    ProjectArgument,
    ReasonOption,
    VerboseOption,
)
from api.cli.output import show, tell
from api.cli.service import Api
from streams.errors import OperatorError

RequestsOption = Annotated[int | None, typer.Option("--requests", min=1, help="Requests a minute.")]
BurstOption = Annotated[int | None, typer.Option("--burst", min=1, help="Requests at once, after a rest.")]
CeilingOption = Annotated[str | None, typer.Option("--ceiling", help="Credits a minute, such as 500 or 0.5.")]
_BRIEF = ("project", "plan", "in_force", "contract", "shadow")
app = typer.Typer(
    help=f"Show and set requests and credits a minute: by contract, on trial, or raised for a while. {WHERE}",
    no_args_is_help=True,
)


@app.command("show")
def show_limits(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Show the limits in force now, what they come from (plan, contract, raises), and those on trial.

    With requests_per_minute 30 and burst 60, 30 requests a minute pass; after a quiet minute up to 60 at once. With
    cost_ceiling 300, at most 300 credits are spent or held in any 60 seconds."""
    show(Api().call("GET", f"/v1/admin/projects/{project}/limits").json(), as_json)


@app.command("set")
def set_limits(
    project: ProjectArgument,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    end: Annotated[bool, typer.Option("--end", help="End these limits; the plan's hold again.")] = False,
    reason: ReasonOption = "",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set limits that hold over the plan's, for good: a contract. They replace those set before; a limit that is left
    out is the plan's."""
    _set_limits(project, _some_limits(requests, burst, ceiling), end, reason, verbose, as_json, is_shadow=False)


@app.command("shadow")
def shadow_limits(
    project: ProjectArgument,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    end: Annotated[bool, typer.Option("--end", help="End these limits; the trial is over.")] = False,
    reason: ReasonOption = "",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put limits on trial: they refuse nothing, and `audit --kind shadow` lists what they would have refused."""
    _set_limits(project, _some_limits(requests, burst, ceiling), end, reason, verbose, as_json, is_shadow=True)


@app.command("raise")
def raise_limits(
    project: ProjectArgument,
    until: Annotated[str, typer.Option("--until", help="RFC 3339 with a zone; the raise's end.")],
    reason: NeededReasonOption,
    since: Annotated[
        str | None, typer.Option("--from", help="RFC 3339 with a zone; the raise's start, now if left out.")
    ] = None,
    requests: RequestsOption = None,
    burst: BurstOption = None,
    ceiling: CeilingOption = None,
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Raise limits for a window of time, without changing the plan."""
    body = _some_limits(requests, burst, ceiling) | {"ends_at": until, "reason": reason}
    if since is not None:
        body["starts_at"] = since
    url = f"/v1/admin/projects/{project}/limit-raises"
    answer = Api().call("POST", url, body, key=idempotency_key).json()
    tell(answer, ("id", "limits"), as_json, verbose)


@app.command("end-raise")
def end_raise(
    project: ProjectArgument,
    raise_id: Annotated[str, typer.Argument(help="The raise's id, from `limits show`")],
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """End a raise now, or take back one that has not begun, and print the limits without it."""
    api = Api()
    api.call("DELETE", f"/v1/admin/projects/{project}/limit-raises/{raise_id}")
    tell(api.call("GET", f"/v1/admin/projects/{project}/limits").json(), _BRIEF, as_json, verbose)


def _some_limits(requests: int | None, burst: int | None, ceiling: str | None) -> dict[str, Any]:
    asked = {"requests_per_minute": requests, "burst": burst, "cost_ceiling": ceiling}
    return {name: value for name, value in asked.items() if value is not None}


def _set_limits(
    project: str, some: dict[str, Any], end: bool, reason: str, verbose: bool, as_json: bool, *, is_shadow: bool
) -> None:
    if bool(some) == end:
        raise OperatorError("Name the limits (--requests, --burst, --ceiling), or --end and none of them")
    body = some | {"is_shadow": is_shadow, "reason": reason}
    answer = Api().call("PUT", f"/v1/admin/projects/{project}/limits", body).json()
    tell(answer, _BRIEF, as_json, verbose)
