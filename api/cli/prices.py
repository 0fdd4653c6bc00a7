"""`meterline prices` lists prices and price books, and announces a price book."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.options import WHERE, JsonOption
from api.cli.output import show
from api.cli.service import Api, read_json

app = typer.Typer(help=f"List prices, and announce price books. {WHERE}", no_args_is_help=True)


@app.command("list")
def list_prices(
    at: Annotated[
        str | None, typer.Option("--at", help="RFC 3339 with a zone; a future time shows the prices announced for it")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the prices of all operations."""
    show(Api().call("GET", "/v1/prices", at=at).json(), as_json)


@app.command("changelog")
def price_changelog(as_json: JsonOption = False) -> None:
    """List the price books and what each changed, the newest first."""
    api, books, cursor = Api(), list[Any](), None
    while True:
        page = api.call("GET", "/v1/prices/changelog", limit=50, cursor=cursor).json()
        books += page["books"]
        if (cursor := page["next_cursor"]) is None:
            break
    show({"books": books}, as_json)


@app.command("announce")
def announce(
    file: Annotated[Path, typer.Argument(help="JSON: version, effective_at, and the rates that differ")],
    as_json: JsonOption = False,
) -> None:
    """Announce a price book, for good. An increase takes effect 30 days from now or later."""
    show(Api().call("POST", "/v1/admin/price-books", read_json(file)).json(), as_json)
