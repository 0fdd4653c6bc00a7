"""`meterline analysts` makes users of a ClickHouse server who may read the history and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from api.cli.options import JsonOption
from api.cli.output import show, show_rows
from streams.clickhouse.analysts import Analyst, Quota, add_analyst, analysts, check_server, remove_analyst
from streams.clickhouse.client import ClickHouse
from streams.errors import OperatorError
from streams.settings import Settings

_DEFAULTS = Quota()
NameArgument = Annotated[str, typer.Argument(help="The analyst's name: small letters, digits, _ and -.")]
app = typer.Typer(
    help="Make users of a ClickHouse server who may read the history and nothing else. Needs METERLINE_CLICKHOUSE_URL.",
    no_args_is_help=True,
)


@app.command("add")
def add(
    name: NameArgument,
    project: Annotated[
        str | None, typer.Option("--project", help="A project's id; its rows alone may be read.")
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Give one that is there a new password, and the rights of this version.")
    ] = False,
    password_from: Annotated[
        str | None,
        typer.Option("--password-from", help="The environment variable that has the password; else one is made up."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries-per-hour", min=1, help=f"Queries an hour; {_DEFAULTS.queries} if left out.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows-per-hour", min=1, help=f"Rows read an hour; {_DEFAULTS.rows} if left out.")
    ] = None,
    seconds: Annotated[
        int | None,
        typer.Option("--seconds-per-hour", min=1, help=f"Seconds of queries an hour; {_DEFAULTS.seconds} if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an analyst: a user that may read the history, all of it or one project's, within a quota, and not change it.

    The password is printed once. It goes to ClickHouse as a salted SHA-256."""
    asked = Quota(queries or _DEFAULTS.queries, rows or _DEFAULTS.rows, seconds or _DEFAULTS.seconds)
    given = None if password_from is None else _password_of(password_from)
    with _server() as clickhouse:
        analyst, password = add_analyst(
            clickhouse,
            name,
            project=project,
            password=given,
            quota=asked if any((queries, rows, seconds)) else None,
            rotate=rotate,
        )
    answer = _row(analyst)
    show(answer if given is not None else answer | {"password": password}, as_json)


@app.command("list")
def list_analysts(as_json: JsonOption = False) -> None:
    """List the analysts, what each may read, and its quota."""
    with _server() as clickhouse:
        rows = [_row(each) for each in analysts(clickhouse)]
    columns = ("name", "project", "queries_per_hour", "rows_per_hour", "seconds_per_hour")
    show_rows({"analysts": rows}, rows, columns, as_json)


@app.command("remove")
def remove(name: NameArgument, as_json: JsonOption = False) -> None:
    """Take an analyst away, with its rights and its quota."""
    with _server() as clickhouse:
        remove_analyst(clickhouse, name)
    show({"name": name, "removed": True}, as_json)


def _row(analyst: Analyst) -> dict[str, Any]:
    queries, rows, seconds = analyst.quota
    return {
        "name": analyst.name,
        "project": analyst.project or None,
        "queries_per_hour": queries,
        "rows_per_hour": rows,
        "seconds_per_hour": seconds,
    }


def _password_of(variable: str) -> str:
    password = os.environ.get(variable, "")
    if not password:
        raise OperatorError(f"{variable} is not set: --password-from takes the password from it")
    return password


@contextmanager
def _server() -> Iterator[ClickHouse]:
    settings = Settings()
    check_server(settings)
    clickhouse = ClickHouse(settings)
    try:
        yield clickhouse
    finally:
        clickhouse.close()
