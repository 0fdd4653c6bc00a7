"""`meterline projects` lists and opens projects, puts them on plans, and closes them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.asking import DryRunOption, YesOption, may
from api.cli.options import WHERE, CursorOption, JsonOption, LimitOption, ProjectArgument, ReasonOption, VerboseOption
from api.cli.output import BRIEF_LINES_MAX, show, show_page, show_rows, tell
from api.cli.service import Api

app = typer.Typer(help=f"List and open projects, put them on plans, close them. {WHERE}", no_args_is_help=True)
_PLAN = ("project", "plan", "next_plan", "renews_at", "billing_account")
_ITEM = ("item", "quantity", "credits_an_hour", "unit_hours", "credits", "unpaid")
_STATE = ("project", "plan", "closed_at")


@app.command("create")
def create_project(
    project: ProjectArgument,
    plan: Annotated[str, typer.Option("--plan", help="free, hobby, build, scale or enterprise")] = "free",
    name: Annotated[str, typer.Option("--name", help="A name for people.")] = "",
    contract_credits: Annotated[int, typer.Option("--contract-credits", help="Credits a month; enterprise only")] = 0,
    contract_cents: Annotated[int, typer.Option("--contract-cents", help="US cents a month; enterprise only")] = 0,
    billing_account: Annotated[
        str | None, typer.Option("--billing-account", help="The billing account whose invoice it is on")
    ] = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Open a project; its first allowance is granted at once."""
    body = {
        "project": project,
        "name": name,
        "plan": plan,
        "contract_credits": contract_credits,
        "contract_cents": contract_cents,
        "billing_account": billing_account,
    }
    tell(Api().call("POST", "/v1/admin/projects", body).json(), _PLAN, as_json, verbose)


@app.command("list")
def list_projects(
    search: Annotated[str | None, typer.Option("--search", help="A part of the id or of the name, in any case")] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="free, hobby, build, scale or enterprise")] = None,
    state: Annotated[str | None, typer.Option("--state", help="The state; open or closed.")] = None,
    balance_below: Annotated[
        str | None, typer.Option("--balance-below", help="Fewer credits than this are available in production")
    ] = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List projects, by id, with the credits that they have."""
    asked: dict[str, Any] = {"search": search, "plan": plan, "state": state, "balance_below": balance_below}
    service, projects, most = Api(), list[dict[str, Any]](), limit or 100
    while True:
        # A search of many accounts comes in pages that may have none.
        left = most - len(projects)
        page = service.call("GET", "/v1/admin/projects", limit=left, cursor=cursor, **asked).json()
        projects += page["projects"]
        cursor = page["next_cursor"]
        if cursor is None or len(projects) >= most:
            break
    columns = ("project", "name", "plan", "state", "available", "held", "preview_available", "renews_at")
    show_page({"projects": projects, "next_cursor": cursor}, projects, columns, as_json, verbose)


@app.command("show")
def show_project(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Show a project as it is now."""
    show(Api().call("GET", f"/v1/admin/projects/{project}").json(), as_json)


@app.command("plan")
def change_plan(
    project: ProjectArgument,
    plan: Annotated[str, typer.Argument(help="free, hobby, build, scale or enterprise")],
    contract_credits: Annotated[int, typer.Option("--contract-credits", help="Credits a month; enterprise only")] = 0,
    contract_cents: Annotated[int, typer.Option("--contract-cents", help="US cents a month; enterprise only")] = 0,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a project on another plan: at once, with its price due, where that gives more; from the renewal on where it
    gives less."""
    body = {"plan": plan, "contract_credits": contract_credits, "contract_cents": contract_cents}
    service, url = Api(), f"/v1/admin/projects/{project}/plan"

    def plan_of() -> Any:
        return service.call("PUT", url, body, dry_run=True).json()

    if may("plan", plan_of, yes=yes, dry_run=dry_run, as_json=as_json):
        tell(service.call("PUT", url, body).json(), _PLAN, as_json, verbose)


@app.command("close")
def close_project(
    project: ProjectArgument,
    reason: ReasonOption = "",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Close a project: it spends nothing more. Reopened, its recurring items are gone, and what was used meanwhile is
    never charged."""
    body = {"closed": True, "reason": reason}
    service, url = Api(), f"/v1/admin/projects/{project}/state"

    def plan() -> Any:
        return service.call("PUT", url, body, dry_run=True).json()

    if may("close", plan, yes=yes, dry_run=dry_run, as_json=as_json):
        tell(service.call("PUT", url, body).json(), _STATE, as_json, verbose)


@app.command("reopen")
def reopen_project(project: ProjectArgument, verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """Reopen a closed project."""
    answer = Api().call("PUT", f"/v1/admin/projects/{project}/state", {"closed": False}).json()
    tell(answer, _STATE, as_json, verbose)


@app.command("standing")
def set_standing(
    project: ProjectArgument,
    good: Annotated[bool, typer.Option("--good/--bad", help="A project in bad standing gets no refunds")],
    reason: ReasonOption = "",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether a project is in good standing."""
    body = {"good_standing": good, "reason": reason}
    answer = Api().call("PUT", f"/v1/admin/projects/{project}/standing", body).json()
    tell(answer, ("project", "good_standing"), as_json, verbose)


@app.command("badge")
def set_badge(
    project: ProjectArgument,
    shown: Annotated[bool, typer.Option("--shown/--hidden", help="Show it or hide it")],
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a project's "Built with" badge, or hide it; a free project always shows it."""
    answer = Api().call("PUT", f"/v1/admin/projects/{project}/badge", {"shown": shown}).json()
    tell(answer, ("project", "badge_required", "badge_shown"), as_json, verbose)


@app.command("item")
def set_item(
    project: ProjectArgument,
    item: Annotated[str, typer.Argument(help="A recurring line item that the price book has")],
    quantity: Annotated[int, typer.Argument(min=0, help="Units from now on; 0 ends the item")],
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set how many units of a recurring line item a project has."""
    answer = Api().call("PUT", f"/v1/admin/projects/{project}/items/{item}", {"quantity": quantity}).json()
    show_rows(answer, answer["items"][: BRIEF_LINES_MAX - 1] if not verbose else answer["items"], _ITEM, as_json)


@app.command("items")
def list_items(project: ProjectArgument, verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """List a project's recurring line items, and what they cost so far this month."""
    answer = Api().call("GET", "/v1/items", project=project).json()
    show_rows(answer, answer["items"], _ITEM, as_json, verbose)
