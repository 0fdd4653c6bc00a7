"""`meterline keys` makes and revokes API keys: those of projects, and the operator's own."""

from __future__ import annotations

from typing import Annotated

import typer

from api.callers.keys import new_admin_key
from api.cli.options import JsonOption
from api.cli.output import console, print_json
from api.cli.service import Api

app = typer.Typer(help="Make and revoke API keys.", no_args_is_help=True)


@app.command("admin")
def keys_admin(as_json: JsonOption = False) -> None:
    """Make an admin key, and the hash of it that METERLINE_ADMIN_KEY_HASHES needs. The key is shown only now."""
    key, key_hash = new_admin_key()
    if as_json:
        print_json({"key": key, "hash": key_hash})
        return
    print(key)
    console.print(f"hash: {key_hash}\nrun the API with METERLINE_ADMIN_KEY_HASHES='[\"{key_hash}\"]'", soft_wrap=True)


@app.command("create")
def keys_create(
    project: Annotated[str, typer.Argument(help="The project's id.")],
    environment: Annotated[str, typer.Option("--environment", help="production or preview")] = "production",
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="A scope, such as content:read. If left out: *, or content:* for preview."),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="The API's URL; a running `meterline up` if left out.")
    ] = None,
    admin_key: Annotated[
        str | None, typer.Option("--admin-key", envvar="METERLINE_ADMIN_KEY", help="An admin key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a project. The key is shown only now."""
    body = {"environment": environment, "scopes": scope or None}
    answer = Api(url, admin_key).call("POST", f"/v1/admin/projects/{project}/keys", body).json()
    if as_json:
        print_json(answer)
    else:
        print(answer["key"])


@app.command("revoke")
def keys_revoke(
    project: Annotated[str, typer.Argument(help="The project's id.")],
    key_id: Annotated[str, typer.Argument(help="The key's id, from `projects show`.")],
) -> None:
    """Revoke a key: it ends at once."""
    Api().call("DELETE", f"/v1/admin/projects/{project}/keys/{key_id}")
    console.print(f"{key_id} is revoked")
