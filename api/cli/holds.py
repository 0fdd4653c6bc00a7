"""`meterline holds` places, lists and resolves holds: credits kept for jobs."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from api.cli.options import (
    WHERE,
    AnyEnvironmentOption,
    CursorOption,
    CustomerOption,
    DaySinceOption,
    DayUntilOption,
    EnvironmentOption,
    JsonOption,
    LimitOption,
    MediaTypeOption,
    ProjectArgument,
    QuantityOption,
    ReasonOption,
    TierOption,
    VerboseOption,
)
from api.cli.output import show_page, tell
from api.cli.service import Api
from schemas.http.holds import HoldState

app = typer.Typer(help=f"Place, list and resolve holds: credits kept for jobs. {WHERE}", no_args_is_help=True)
_RESULT = ("hold_id", "outcome", "credits", "available", "already_decided")
_SETTLED = ("settled_at", "state", "hold_id", "job_id", "operation", "customer_id", "credits", "captured")
_COLUMNS = ("hold_id", "job_id", "operation", "environment", "credits", "expires_at")


@app.command("place")
def place(
    project: ProjectArgument,
    operation: Annotated[str, typer.Argument(help="What the job does, such as blog_post")],
    job: Annotated[str, typer.Argument(help="The job's id; placing it again costs nothing")],
    quantity: QuantityOption = None,
    media_type: MediaTypeOption = None,
    tier: TierOption = None,
    seconds: Annotated[
        int | None, typer.Option("--seconds", min=1, max=604_800, help="How long to hold; 3600 if left out")
    ] = None,
    environment: EnvironmentOption = "production",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hold a job's credits, as the gateway does when it queues one."""
    given = {"quantity": quantity, "media_type": media_type, "tier": tier, "hold_seconds": seconds}
    body = {
        "project": project,
        "operation": operation,
        "job_id": job,
        "hold": True,
        "environment": environment,
        **{name: value for name, value in given.items() if value is not None},
    }
    answer = Api().call("POST", "/v1/admissions", body).json()
    tell(answer, ("project", "hold_id", "credits", "available", "hold_expires_at"), as_json, verbose)


@app.command("list")
def list_holds(
    project: ProjectArgument,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the open holds, the oldest first."""
    page = Api().call("GET", "/v1/holds", project=project, limit=limit or 100, cursor=cursor).json()
    show_page(page, page["holds"], _COLUMNS, as_json, verbose)


@app.command("settled")
def list_settled(
    project: ProjectArgument,
    state: Annotated[str | None, typer.Option("--state", help=f"The state; {', '.join(get_args(HoldState))}.")] = None,
    environment: AnyEnvironmentOption = None,
    customer: CustomerOption = None,
    since: DaySinceOption = None,
    until: DayUntilOption = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the holds that were captured, were released or have expired, the newest first."""
    asked: dict[str, Any] = {"state": state, "environment": environment, "customer_id": customer}
    asked |= {"project": project, "from": since, "to": until, "limit": limit or 100, "cursor": cursor}
    page = Api().call("GET", "/v1/holds/settled", **asked).json()
    show_page(page, page["holds"], _SETTLED, as_json, verbose)


@app.command("capture")
def capture(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    amount: Annotated[
        str | None, typer.Option("--credits", help="Charge only this many credits; the rest is released")
    ] = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Capture a hold: charge its job."""
    key = f"cli-capture-{hold_id}-{amount}"
    answer = Api().call("POST", f"/v1/holds/{hold_id}/capture", {"credits": amount}, key=key, project=project).json()
    tell(answer, _RESULT, as_json, verbose)


@app.command("release")
def release(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    reason: ReasonOption = "",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Release a hold: give its job's credits back."""
    url = f"/v1/holds/{hold_id}/release"
    tell(Api().call("POST", url, {"reason": reason}, project=project).json(), _RESULT, as_json, verbose)


@app.command("extend")
def extend(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    seconds: Annotated[int, typer.Argument(min=1, max=604_800)],
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Extend a hold: let it last this many seconds from now."""
    url = f"/v1/holds/{hold_id}/extend"
    tell(Api().call("POST", url, {"seconds": seconds}, project=project).json(), _RESULT, as_json, verbose)
