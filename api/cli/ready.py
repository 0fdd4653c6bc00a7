"""`meterline ready` asks a running API whether parts of Meterline can do their work, for supervisors and checks."""

from __future__ import annotations

from typing import Annotated

import httpx
import typer

from api.cli.options import JsonOption
from api.cli.output import console, print_json
from streams.embedded.running import find_running
from streams.errors import OperatorError
from streams.settings import Settings

app = typer.Typer()


@app.command()
def ready(
    parts: Annotated[
        list[str] | None, typer.Argument(help="kafka, worker, accounts, history; all unless named.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether parts of Meterline can do their work, and why not. Exit code 0 where all of them can, else 1."""
    settings = Settings()
    running = find_running(settings)
    url = settings.api_url or (running.api_url if running else f"http://{settings.api_host}:{settings.api_port}")
    try:
        told = httpx.get(f"{url}/readyz", timeout=10.0).json()
        known: dict[str, bool] = told["parts"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise OperatorError(f"{url} does not say what is ready ({error}): is METERLINE_API_URL the API's?") from None
    if unknown := set(parts or ()) - set(known):
        raise OperatorError(f"There is no part {min(unknown)}: there are {', '.join(known)}")
    wanted = {part: known[part] for part in parts or known}
    if as_json:
        print_json({"ready": all(wanted.values()), "status": told["status"], "parts": wanted})
    else:
        for part, is_ready in wanted.items():
            console.print(f"{part}: {'ready' if is_ready else 'not ready'}")
        if not all(wanted.values()):
            console.print(told["status"], soft_wrap=True)
    if not all(wanted.values()):
        raise typer.Exit(1)
