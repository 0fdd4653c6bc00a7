"""`meterline keys` lists, makes, rotates and revokes API keys: those of projects, and the operator's own."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from api.callers.keys import new_admin_key
from api.cli.asking import DryRunOption, YesOption, may
from api.cli.options import EnvironmentOption, JsonOption, ProjectArgument, VerboseOption, seconds_of
from api.cli.output import console, print_json, show, show_rows
from api.cli.service import Api
from streams.errors import OperatorError
from streams.settings import Admin

app = typer.Typer(help="List, make, rotate and revoke API keys.", no_args_is_help=True)

KeyIdArgument = Annotated[str, typer.Argument(help="The key's id, from `keys list`.")]


@app.command("admin")
def keys_admin(
    name: Annotated[
        str | None, typer.Option("--name", help="A name for people; the audit shows it, as in `ada`")
    ] = None,
    role: Annotated[
        str | None, typer.Option("--role", help="What its admin may do: owner, finance, support or read-only")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an admin key, and what METERLINE_ADMINS needs of it: a name, a role, and the hash. Without both, it is for
    METERLINE_ADMIN_KEY_HASHES, and an owner's. The key is shown only now."""
    if (name is None) != (role is None):
        raise OperatorError("An admin has both: a --name, and a --role of owner, finance, support or read-only")
    key, key_hash = new_admin_key()
    if name is not None:
        try:
            admin = Admin.model_validate({"name": name, "role": role, "key_hash": key_hash}).model_dump()
        except ValidationError as error:
            wrong = error.errors()[0]
            raise OperatorError(f"--{wrong['loc'][0]}: {wrong['msg']}") from None
        if as_json:
            print_json({"key": key, "hash": key_hash, "admin": admin})
            return
        print(key)
        console.print(f"add this to the list METERLINE_ADMINS of the API:\n{json.dumps(admin)}", soft_wrap=True)
        return
    if as_json:
        print_json({"key": key, "hash": key_hash})
        return
    print(key)
    console.print(f"hash: {key_hash}\nrun the API with METERLINE_ADMIN_KEY_HASHES='[\"{key_hash}\"]'", soft_wrap=True)


@app.command("create")
def keys_create(
    project: ProjectArgument,
    environment: EnvironmentOption = "production",
    name: Annotated[str, typer.Option("--name", help="A name for people.")] = "",
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
    body = {"environment": environment, "scopes": scope or None, "name": name}
    answer = Api(url, admin_key).call("POST", f"/v1/admin/projects/{project}/keys", body).json()
    _show_key(answer, as_json)


def _show_key(answer: Any, as_json: bool) -> None:
    """Print a new key alone, so that a shell can take it: `KEY=$(meterline keys create acme)`."""
    if as_json:
        print_json(answer)
        return
    print(answer["key"])
    console.print(f"key_id: {answer['key_id']}", soft_wrap=True, markup=False)


@app.command("list")
def keys_list(project: ProjectArgument, verbose: VerboseOption = False, as_json: JsonOption = False) -> None:
    """List a project's keys, the oldest first, with their last use; those that have ended too."""
    answer = Api().call("GET", f"/v1/admin/projects/{project}/keys").json()
    columns = ("key_id", "name", "environment", "scopes", "last_used_at", "ends_at", "revoked_at")
    show_rows(answer, answer["keys"], columns, as_json, verbose)


@app.command("rotate")
def keys_rotate(
    project: ProjectArgument,
    key_id: KeyIdArgument,
    grace: Annotated[
        str, typer.Option("--grace", help="How long the old key works still: 90s, 30m, 24h or 7d; 0s is not at all.")
    ] = "24h",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rotate a key: make another of its name, environment and scopes, shown only now. The old one ends after the
    grace."""
    service, url = Api(), f"/v1/admin/projects/{project}/keys/{key_id}/rotation"
    body = {"grace_seconds": seconds_of(grace, "--grace")}

    def plan() -> Any:
        return service.call("POST", url, body, dry_run=True).json()

    if may("rotate", plan, yes=yes, dry_run=dry_run, as_json=as_json):
        _show_key(service.call("POST", url, body).json(), as_json)


@app.command("revoke")
def keys_revoke(
    project: ProjectArgument,
    key_id: KeyIdArgument,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: it ends at once, for good."""
    service, url = Api(), f"/v1/admin/projects/{project}/keys/{key_id}"

    def plan() -> Any:
        return service.call("DELETE", url, dry_run=True).json()

    if may("revoke", plan, yes=yes, dry_run=dry_run, as_json=as_json):
        service.call("DELETE", url)
        show({"project": project, "key_id": key_id, "revoked": True}, as_json)
