"""`meterline billing` manages billing accounts, and shows or saves invoices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import httpx
import typer

from api.cli.asking import DryRunOption
from api.cli.options import WHERE, CursorOption, JsonOption, LimitOption, ProjectArgument, VerboseOption
from api.cli.output import show, show_page, tell
from api.cli.service import Api
from streams.errors import OperatorError

app = typer.Typer(help=f"Manage billing accounts, and show invoices. {WHERE}", no_args_is_help=True)

# What is told of an account that was opened or changed.
_BRIEF = ("id", "name", "email")


@app.command("create")
def create_billing_account(
    account: Annotated[str, typer.Argument(help="The billing account's id")],
    name: Annotated[str, typer.Option("--name", help="A name for people.")],
    email: Annotated[str, typer.Option("--email", help="Where invoices go.")] = "",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Open a billing account."""
    body = {"id": account, "name": name, "email": email}
    tell(Api().call("POST", "/v1/admin/billing-accounts", body).json(), _BRIEF, as_json, verbose)


@app.command("assign")
def assign_billing_account(
    project: ProjectArgument,
    account: Annotated[
        str | None, typer.Argument(help="The billing account's id; without it, the project gets an invoice of its own")
    ] = None,
    from_month_start: Annotated[
        bool, typer.Option("--from-month-start", help="Move this month's fees and purchases to that invoice, too")
    ] = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a project on a billing account's invoice from now on, and say what stays on others."""
    url = f"/v1/admin/projects/{project}/billing-account"
    body = {"billing_account": account, "from_month_start": from_month_start, "dry_run": dry_run}
    answer = Api().call("PUT", url, body).json()
    if as_json or verbose:
        show(answer, as_json)
        return
    here = answer["on_invoice"]
    print(f"{project} {'would be' if dry_run else 'is'} on {here['invoice']}, with {here['amount']} of this month")
    for each in answer["stays_behind"]:
        whose = f"the invoice of {each['billing_account']}" if each["billing_account"] else "the project's own invoice"
        print(f"{each['amount']} of this month {'would stay' if dry_run else 'stays'} on {whose}, {each['invoice']}")
    if answer["stays_behind"]:
        print(f"To move that too: meterline billing assign {project} {account or ''}".rstrip(), "--from-month-start")


@app.command("list")
def list_billing_accounts(
    limit: LimitOption = None,
    cursor: CursorOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List billing accounts, by id."""
    page = Api().call("GET", "/v1/admin/billing-accounts", limit=limit or 100, cursor=cursor).json()
    show_page(page, page["billing_accounts"], ("id", "name", "email", "opened_at"), as_json, verbose)


@app.command("change")
def change_billing_account(
    account: Annotated[str, typer.Argument(help="The billing account's id")],
    name: Annotated[str, typer.Option("--name", help="A name for people.")],
    email: Annotated[str, typer.Option("--email", help="Where invoices go.")],
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change a billing account's name and address, on all of its invoices."""
    body = {"name": name, "email": email}
    tell(Api().call("PUT", f"/v1/admin/billing-accounts/{account}", body).json(), _BRIEF, as_json, verbose)


@app.command("show")
def show_billing_account(account: Annotated[str, typer.Argument()], as_json: JsonOption = False) -> None:
    """Show a billing account and its projects."""
    show(Api().call("GET", f"/v1/admin/billing-accounts/{account}").json(), as_json)


@app.command("invoice")
def invoice(
    account: Annotated[str, typer.Argument(help="The billing account's id")],
    month: Annotated[str, typer.Argument(help="YYYY-MM")],
    form: Annotated[str, typer.Option("--format", help="The format; json, csv or html")] = "json",
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file.")] = None,
) -> None:
    """Print a billing account's invoice for a month, as JSON, CSV or an HTML page."""
    _write(Api().call("GET", f"{_invoices(account, None)}/{month}", format=form), out)


@app.command("statement")
def statement(
    project: ProjectArgument,
    month: Annotated[str, typer.Argument(help="YYYY-MM")],
    form: Annotated[str, typer.Option("--format", help="The format; json, csv or html")] = "json",
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file.")] = None,
) -> None:
    """Print a project's own part of a month, whichever invoice it is on."""
    _write(Api().call("GET", f"{_invoices(None, project)}/{month}", format=form, project=project), out)


def _write(answer: httpx.Response, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(answer.text)
    else:
        out.write_bytes(answer.content)


@app.command("months")
def months(
    account: Annotated[str | None, typer.Argument(help="The billing account's id")] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="A project's id; its own part instead of a billing account.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the months in which something is to pay or was used, the newest first."""
    show(Api().call("GET", _invoices(account, project), project=project).json(), as_json)


def _invoices(account: str | None, project: str | None) -> str:
    if (account is None) == (project is None):
        raise OperatorError("Name a billing account, or a --project")
    return "/v1/invoices" if account is None else f"/v1/admin/billing-accounts/{account}/invoices"
