"""`meterline audit` lists what was refused, what was done, and with whose key."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from api.cli.options import WHERE, CursorOption, JsonOption, SinceOption, UntilOption, VerboseOption
from api.cli.output import show_page
from api.cli.service import Api


class _ListsByDefault(TyperGroup):
    """A command group that takes `audit PROJECT` for `audit list PROJECT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help=f"List what was refused, what was done and with whose key: `audit`, `audit PROJECT`, `audit keys`. {WHERE}",
    cls=_ListsByDefault,
)


AuditedProject = Annotated[
    str | None, typer.Argument(metavar="[PROJECT]", help="A project's id; without it, all projects")
]
ManyOption = Annotated[
    int | None, typer.Option("--limit", min=1, max=10_000, help="Print at most this many; 100 if left out.")
]


@app.command("list")
def list_audit(
    project: AuditedProject = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="The kind; refusals, shadow, limits, prices, grants, projects, keys, billing, recharge, endpoints, "
            "portals or notices",
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: ManyOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what was refused and what was done, newest first. `list` may be left out; `explain ENTRY_ID` says more."""
    asked: dict[str, Any] = {
        "project": project,
        "kind": kind,
        "from": since,
        "to": until,
        "limit": limit or 100,
        "cursor": cursor,
    }
    page = Api().call("GET", "/v1/audit", **asked).json()
    columns = ("at", "entry_id", "project", "actor", "action", "code", "detail")
    show_page(page, page["entries"], columns, as_json, verbose)


@app.command("keys")
def audit_keys(
    project: AuditedProject = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: ManyOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what keys were used for, by the hour, the newest hour first."""
    asked: dict[str, Any] = {"project": project, "from": since, "to": until, "limit": limit or 100, "cursor": cursor}
    page = Api().call("GET", "/v1/audit/keys", **asked).json()
    columns = ("hour", "project", "key_id", "environment", "operation", "uses", "refused", "first_at", "last_at")
    show_page(page, page["rows"], columns, as_json, verbose)
