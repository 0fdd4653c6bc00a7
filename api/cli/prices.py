"""`meterline prices` lists prices and price books, announces a price book, and withdraws one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.asking import DryRunOption, YesOption, may
from api.cli.options import WHERE, JsonOption, VerboseOption
from api.cli.output import show_rows, tell
from api.cli.service import Api, read_json

app = typer.Typer(help=f"List prices, announce price books, and withdraw one. {WHERE}", no_args_is_help=True)
_WITHDRAWN = ("version", "announced_at", "effective_at", "withdrawn_at")
_BOOK = ("version", "announced_at", "effective_at", "in_force", "note")


@app.command("list")
def list_prices(
    at: Annotated[
        str | None, typer.Option("--at", help="RFC 3339 with a zone; a future time shows the prices announced for it")
    ] = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the prices of all operations."""
    answer = Api().call("GET", "/v1/prices", at=at).json()
    rows = [each | {"per": per} for per, name in (("use", "prices"), ("hour", "hourly")) for each in answer[name]]
    show_rows(answer, rows, ("operation", "credits", "per", "plan_required"), as_json, verbose)


@app.command("changelog")
def price_changelog(verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """List the price books and what each changed, the newest first."""
    api, books, cursor = Api(), list[Any](), None
    while True:
        page = api.call("GET", "/v1/prices/changelog", limit=50, cursor=cursor).json()
        books += page["books"]
        if (cursor := page["next_cursor"]) is None:
            break
    columns = ("version", "announced_at", "effective_at", "in_force", "withdrawn_at", "note")
    show_rows({"books": books}, books, columns, as_json, verbose)


@app.command("announce")
def announce(
    file: Annotated[Path, typer.Argument(help="JSON: version, effective_at, and the rates that differ")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Announce a price book to every customer. An increase takes effect 30 days from now or later."""
    service, book = Api(), read_json(file)

    def plan() -> Any:
        return service.call("POST", "/v1/admin/price-books", book, dry_run=True).json()

    if may("announce", plan, yes=yes, dry_run=dry_run, as_json=as_json):
        tell(service.call("POST", "/v1/admin/price-books", book).json(), _BOOK, as_json, verbose)


@app.command("withdraw")
def withdraw(
    version: Annotated[str, typer.Argument(help="The price book's version, from `prices changelog`.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Withdraw the last price book that was announced, until 10 minutes before it takes effect. It is as if it had
    never been announced, and its version is used up."""
    service, url = Api(), f"/v1/admin/price-books/{quote(version, safe='')}"

    def plan() -> Any:
        return service.call("DELETE", url, dry_run=True).json()

    if may("withdraw", plan, yes=yes, dry_run=dry_run, as_json=as_json):
        tell(service.call("DELETE", url).json(), _WITHDRAWN, as_json, verbose)
