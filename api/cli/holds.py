"""`meterline holds` places, lists and resolves holds: credits kept for jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import WHERE, EnvironmentOption, JsonOption, ProjectArgument, ReasonOption
from api.cli.output import show
from api.cli.service import Api

app = typer.Typer(help=f"Place, list and resolve holds: credits kept for jobs. {WHERE}", no_args_is_help=True)


@app.command("place")
def place(
    project: ProjectArgument,
    operation: Annotated[str, typer.Argument(help="What the job does, such as blog_post")],
    job: Annotated[str, typer.Argument(help="The job's id; placing it again costs nothing")],
    quantity: Annotated[int | None, typer.Option("--quantity", min=1)] = None,
    media_type: Annotated[
        str | None, typer.Option("--media-type", help="What a social post comes with: image or video")
    ] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="A video's tier: budget or premium")] = None,
    seconds: Annotated[
        int | None, typer.Option("--seconds", min=1, max=604_800, help="How long to hold; 3600 if left out")
    ] = None,
    environment: EnvironmentOption = "production",
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
    show(Api().call("POST", "/v1/admissions", body).json(), as_json)


@app.command("list")
def list_holds(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """List the open holds, the oldest first."""
    show(Api().call("GET", "/v1/holds", project=project).json(), as_json)


@app.command("capture")
def capture(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    amount: Annotated[
        str | None, typer.Option("--credits", help="Charge only this many credits; the rest is released")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Capture a hold: charge its job."""
    show(
        Api()
        .call(
            "POST",
            f"/v1/holds/{hold_id}/capture",
            {"credits": amount},
            key=f"cli-capture-{hold_id}-{amount}",
            project=project,
        )
        .json(),
        as_json,
    )


@app.command("release")
def release(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Release a hold: give its job's credits back."""
    url = f"/v1/holds/{hold_id}/release"
    show(Api().call("POST", url, {"reason": reason}, project=project).json(), as_json)


@app.command("extend")
def extend(
    project: ProjectArgument,
    hold_id: Annotated[str, typer.Argument()],
    seconds: Annotated[int, typer.Argument(min=1, max=604_800)],
    as_json: JsonOption = False,
) -> None:
    """Extend a hold: let it last this many seconds from now."""
    url = f"/v1/holds/{hold_id}/extend"
    show(Api().call("POST", url, {"seconds": seconds}, project=project).json(), as_json)
