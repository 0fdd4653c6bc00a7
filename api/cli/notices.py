"""`meterline notices` lists what a project was told of, and sets the thresholds at which it is told."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.options import (
    ENVIRONMENT_HELP,
    WHERE,
    CursorOption,
    EnvironmentOption,
    JsonOption,
    KeyOption,
    LimitOption,
    ProjectArgument,
    VerboseOption,
)
from api.cli.output import show_page, show_rows
from api.cli.service import Api
from streams.errors import OperatorError

app = typer.Typer(
    help=f"List what a project was told of, and set the thresholds at which it is told. {WHERE}", no_args_is_help=True
)
_RULE_COLUMNS = ("id", "environment", "percent", "threshold", "is_default", "is_crossed")


@app.command("list")
def list_notices(
    project: ProjectArgument,
    environment: Annotated[str | None, typer.Option("--environment", help=ENVIRONMENT_HELP)] = None,
    notice_type: Annotated[
        str | None, typer.Option("--type", help="Only this type, such as project.credits_low; all if left out.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="RFC 3339 with a zone; all if left out.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="RFC 3339 with a zone; exclusive.")] = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what a project was told of, newest first."""
    asked: dict[str, Any] = {
        "project": project,
        "environment": environment,
        "type": notice_type,
        "from": since,
        "to": until,
        "limit": limit or 100,
        "cursor": cursor,
    }
    page = Api().call("GET", "/v1/notices", **asked).json()
    show_page(page, page["notices"], ("at", "type", "environment", "id", "data"), as_json, verbose)


@app.command("rules")
def list_rules(project: ProjectArgument, verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """List the thresholds at which a project is told."""
    answer = Api().call("GET", "/v1/notice-rules", project=project).json()
    show_rows(answer, answer["rules"], _RULE_COLUMNS, as_json, verbose)


@app.command("set-rules")
def set_rules(
    project: ProjectArgument,
    percent: Annotated[
        list[int] | None,
        typer.Option("--percent", min=1, max=100, help="Tell at this part of the month's allowance; may be repeated."),
    ] = None,
    credit: Annotated[
        list[str] | None,
        typer.Option("--credits-left", help="Tell when so many credits are left, such as 500; may be repeated."),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Have no thresholds beside the default ones.")] = False,
    environment: EnvironmentOption = "production",
    idempotency_key: KeyOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set an environment's own thresholds, in place of those it has; each project is told at 20% and at 0 too."""
    rules: list[dict[str, Any]] = [{"percent": each} for each in percent or []]
    rules += [{"credits": each} for each in credit or []]
    if bool(rules) == none:
        raise OperatorError("Name the thresholds with --percent or --credits-left; or, to have none, say --none")
    body = {"environment": environment, "rules": rules}
    answer = Api().call("PUT", "/v1/notice-rules", body, key=idempotency_key, project=project).json()
    show_rows(answer, answer["rules"], _RULE_COLUMNS, as_json, verbose)
