"""`meterline prices`: price books, their changelog, and announcing one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import WHERE, JsonOption
from api.cli.output import show
from api.cli.service import Api, read_json

app = typer.Typer(help=f"Price books. {WHERE}", no_args_is_help=True)


@app.command("list")
def list_prices(
    at: Annotated[str | None, typer.Option("--at", help="RFC 3339; a future time shows what is announced")] = None,
    as_json: JsonOption = False,
) -> None:
    """What every operation costs."""
    show(Api().call("GET", "/v1/prices", at=at).json(), as_json)


@app.command("changelog")
def price_changelog(as_json: JsonOption = False) -> None:
    """Every price book and what it changed, the newest first."""
    show(Api().call("GET", "/v1/prices/changelog").json(), as_json)


@app.command("announce")
def announce(
    file: Annotated[Path, typer.Argument(help="JSON: version, effective_at, and the rates that differ")],
    as_json: JsonOption = False,
) -> None:
    """Announce a price book, for good. An increase takes effect 30 days from now or later."""
    show(Api().call("POST", "/v1/admin/price-books", read_json(file)).json(), as_json)
