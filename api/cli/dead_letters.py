"""`meterline dead-letters` lists what was sent and could not be taken, and shows one of it in full."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.options import WHERE, CursorOption, JsonOption, LimitOption, SinceOption, UntilOption
from api.cli.output import show, visible
from api.cli.service import Api

app = typer.Typer(help=WHERE)


@app.command("dead-letters")
def dead_letters(
    letter: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show this one in full: topic:partition:offset:index")
    ] = None,
    code: Annotated[str | None, typer.Option("--code", help="Those of this error code alone")] = None,
    source: Annotated[str | None, typer.Option("--source", help="The event's `source`; any if left out.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="A project's id; any if left out.")] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List events and records that could not be taken, newest first, with the reason; or show one in full."""
    if letter is not None:
        show(Api().call("GET", f"/v1/admin/dead-letters/{quote(letter, safe='')}").json(), as_json)
        return
    asked: dict[str, Any] = {"code": code, "source": source, "project": project, "from": since, "to": until}
    asked |= {"limit": limit or 100, "cursor": cursor}
    page = Api().call("GET", "/v1/admin/dead-letters", **asked).json()
    if as_json:
        show(page, as_json)
        return
    for each in page["dead_letters"]:
        where = f" ({each['field']})" if each["field"] else ""
        print(visible(f"{each['received_at']}  {each['id']}  {each['code']}{where}: {each['detail']}"))
    if page["next_cursor"]:
        print(f"there is more: --cursor {page['next_cursor']}", file=sys.stderr)
