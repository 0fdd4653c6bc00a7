"""`meterline portals` makes links by which a platform's own customers look at a project, and ends them."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import (
    WHERE,
    EnvironmentOption,
    JsonOption,
    KeyOption,
    ProjectArgument,
    ReasonOption,
    VerboseOption,
)
from api.cli.output import tell
from api.cli.service import Api

app = typer.Typer(
    help=f"Make links by which a platform's own customers look at a project, and end them. {WHERE}",
    no_args_is_help=True,
)


@app.command("link")
def make_link(
    project: ProjectArgument,
    customer: Annotated[
        str | None, typer.Option("--customer", help="Only of the customer whom the metadata names so in customer_id.")
    ] = None,
    environment: EnvironmentOption = "production",
    minutes: Annotated[int, typer.Option("--minutes", min=1, max=15, help="How long the link can be opened.")] = 15,
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a link to a project's pages, read-only. It is shown only now, and opens once."""
    body = {"customer_id": customer, "environment": environment, "minutes": minutes}
    path = f"/v1/admin/projects/{project}/portal-links"
    answer = Api().call("POST", path, body, key=idempotency_key).json()
    tell(answer, ("url", "expires_at"), as_json, verbose)


@app.command("end")
def end_links(
    project: ProjectArgument,
    reason: ReasonOption = "",
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """End all portal links of a project that were made so far, and the sessions of whoever opened one."""
    path = f"/v1/admin/projects/{project}/portal-links"
    answer = Api().call("DELETE", path, key=idempotency_key, reason=reason or None).json()
    tell(answer, ("project", "entry_id"), as_json, verbose)
