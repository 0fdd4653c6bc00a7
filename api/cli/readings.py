"""`meterline usage`, `ledger` and `export` read what a project used and was charged: as tables, CSV or files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.following import follow_ledger
from api.cli.options import (
    AnyEnvironmentOption,
    CursorOption,
    CustomerOption,
    DaySinceOption,
    DayUntilOption,
    JsonOption,
    LimitOption,
    ProjectArgument,
    VerboseOption,
)
from api.cli.output import console, print_json, show_page, styled, working
from api.cli.service import Api
from api.views.csv_cells import Cell, csv_pieces
from schemas.facts import ENTRY_KINDS
from streams.errors import OperatorError

app = typer.Typer()

CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV: all there is, with no --limit and no --cursor.")]
_PAGE_ENTRIES = 1_000
_LEDGER = ("booked_at", "kind", "environment", "operation", "quantity", "amount", "balance", "entry_id")
_LEDGER_CSV = (
    "entry_id",
    "kind",
    "environment",
    "operation",
    "quantity",
    "amount",
    "balance",
    "grant_id",
    "reason",
    "price_version",
    "source",
    "event_id",
    "job_id",
    "customer_id",
    "occurred_at",
    "booked_at",
    "metadata",
)
_SUMS = ("uses", "quantity", "credits")
_FILTERS = ("operation", "environment", "customer_id", "outcome")
_EXPORTED_USAGE = "day,environment,operation"


class UsageFormat(StrEnum):
    """UsageFormat is what a file of usage is written as."""

    csv = "csv"
    parquet = "parquet"


@app.command()
def usage(
    project: ProjectArgument,
    group_by: Annotated[
        str,
        typer.Option(
            "--group-by",
            help="Up to five of operation, environment, customer_id, outcome, hour, day, month, metadata.<key>.",
        ),
    ] = "operation",
    granularity: Annotated[
        str | None,
        typer.Option("--granularity", help="Show each minute, 15m, hour, day, week (from Monday) or month by itself."),
    ] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="IANA zone of those and of days; UTC if left out.")] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="booked_at, if left out: the past never changes; occurred_at: late uses change it."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="NAME=VALUE: only that operation, environment, customer_id, outcome or metadata.<key>."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, max=100, help="Only so many groups, by credits, and all others as one row."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option("--compare", help="previous: beside each row the sums of the time before, as long."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="RFC 3339 with a zone; or a day; 30 days ago if left out.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="RFC 3339 with a zone; or a day; exclusive, now if left out.")
    ] = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    as_csv: CsvOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a project used and what it cost, by operation, time, customer or metadata.

    Each day of India: meterline usage acme --granularity day --tz Asia/Kolkata --from 2026-03-01

    One customer's hours: meterline usage acme --granularity hour --where customer_id=globex

    The ten customers with most credits: meterline usage acme --group-by customer_id --top 10
    """
    _check_top(top, limit, cursor)
    asked: dict[str, Any] = {
        **_filters(where or []),
        "project": project,
        "group_by": group_by,
        "granularity": granularity,
        "tz": tz,
        "by": by,
        "top": top,
        "compare": compare,
        "from": since,
        "to": until,
    }
    if as_csv:
        _print_whole(asked, limit, cursor, as_json)
        return
    page = Api().call("GET", "/v1/usage", **asked, format="json", limit=limit or 100, cursor=cursor).json()
    _show_usage(page, as_json, verbose)


@app.command()
def ledger(
    project: ProjectArgument,
    environment: AnyEnvironmentOption = None,
    operation: Annotated[str | None, typer.Option("--operation", help="The operation; only its entries.")] = None,
    customer: CustomerOption = None,
    kind: Annotated[str | None, typer.Option("--kind", help=f"The kind; {', '.join(ENTRY_KINDS)}.")] = None,
    since: DaySinceOption = None,
    until: DayUntilOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new entries as they are decided, until Ctrl-C.")
    ] = False,
    limit: LimitOption = None,
    cursor: CursorOption = None,
    as_csv: CsvOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the entries of a project's ledger, the newest first.

    With --follow the oldest is first: the last ten (--limit), and then each new one. It comes back by itself where the
    connection is lost, and misses none. With --json each entry is a line.
    """
    asked: dict[str, Any] = {
        "project": project,
        "environment": environment,
        "operation": operation,
        "customer_id": customer,
        "kind": kind,
        "from": since,
        "to": until,
    }
    if follow:
        if as_csv or cursor or since or until or verbose:
            raise typer.BadParameter("--follow goes with no --csv, --cursor, --from, --to and --verbose")
        follow_ledger(Api(), asked, 10 if limit is None else limit, _LEDGER, as_json)
        return
    if as_csv:
        _check_whole(limit, cursor, as_json)
        for piece in csv_pieces(_LEDGER_CSV, map(_cells, _entries(Api(), asked))):
            print(piece.decode(), end="")
        return
    page = Api().call("GET", "/v1/ledger", **asked, limit=limit or 100, cursor=cursor).json()
    show_page(page, page["entries"], _LEDGER, as_json, verbose)


@app.command()
def export(
    project: ProjectArgument,
    folder: Annotated[Path, typer.Argument(help="The folder to write to; made where it is missing.")],
    usage_format: Annotated[
        UsageFormat, typer.Option("--format", help="The format; csv or parquet, of the usage.")
    ] = UsageFormat.csv,
    as_json: JsonOption = False,
) -> None:
    """Export a project: its terms, both balances, the whole ledger, and all usage by day, as files in a folder.

    A file that is there already is left as it is, and nothing is written.
    """
    service = Api()
    usage_name = f"usage.{usage_format.value}"
    names = ("project.json", "balance.json", usage_name, "ledger.csv")
    if there := [name for name in names if (folder / name).exists()]:
        raise OperatorError(f"{folder / there[0]} is there already: name another folder")
    about = service.call("GET", f"/v1/admin/projects/{project}").json()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "project.json", [_json(about)])
    balances = {
        each: service.call("GET", "/v1/balance", project=project, environment=each).json()
        for each in ("production", "preview")
    }
    _write(folder / "balance.json", [_json(balances)])
    asked: dict[str, Any] = {
        "project": project,
        "group_by": _EXPORTED_USAGE,
        # What was backfilled happened before the project was opened.
        "from": "1971-01-01",
        "format": usage_format.value,
    }
    entries = rows = size = 0
    with working("usage") as status:

        def measured() -> Iterator[bytes]:
            nonlocal size, rows
            for piece in service.download("/v1/usage", **asked):
                size, rows = size + len(piece), rows + piece.count(b"\n")
                is_csv = usage_format is UsageFormat.csv
                status.update(styled(f"{rows:,} rows of usage" if is_csv else f"{size / 1e6:,.1f} MB of usage"))
                yield piece

        _write(folder / usage_name, measured())

        def counted() -> Iterator[list[Cell]]:
            nonlocal entries
            for entry in _entries(service, {"project": project}):
                entries += 1
                if not entries % _PAGE_ENTRIES:
                    status.update(styled(f"{entries:,} ledger entries"))
                yield _cells(entry)

        _write(folder / "ledger.csv", csv_pieces(_LEDGER_CSV, counted()))
    if as_json:
        print_json({"project": project, "files": [str(folder / name) for name in names], "ledger_entries": entries})
    else:
        print("\n".join(str(folder / name) for name in names))


def _print_whole(asked: dict[str, Any], limit: int | None, cursor: str | None, as_json: bool) -> None:
    _check_whole(limit, cursor, as_json)
    print(Api().call("GET", "/v1/usage", **asked, format="csv").text, end="")


def _show_usage(page: dict[str, Any], as_json: bool, verbose: bool) -> None:
    columns = [*page["group_by"], *(["other"] if page["top"] else []), *_SUMS]
    if page["previous_from"]:
        columns += [f"previous_{name}" for name in _SUMS]
    show_page(page, list(map(_usage_row, page["rows"])), tuple(columns), as_json, verbose)
    if not as_json and page["as_of"] and (verbose or console.is_terminal):
        told = f"all that was decided {page['lag_ms'] / 1000:.1f} s before; {page['rows_read']:,} rows read"
        console.print(styled((told, "dim")))


def _usage_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of usage as a table shows it. All but the top groups are marked, since a group may be called other."""
    previous = {f"previous_{name}": each for name, each in row.get("previous", {}).items()}
    other = "yes" if row.get("other") else ""
    return {**row["group"], "other": other, **{name: row[name] for name in _SUMS}, **previous}


def _filters(given: list[str]) -> dict[str, str]:
    filters: dict[str, str] = {}
    for name, value in map(_filter, given):
        if name in filters:
            raise typer.BadParameter(f"a use has one {name}; filter by one value", param_hint="--where")
        filters[name] = value
    return filters


def _filter(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or (name not in _FILTERS and not name.startswith("metadata.")):
        what = f"NAME=VALUE, where NAME is {', '.join(_FILTERS)} or metadata.<key>"
        raise typer.BadParameter(what, param_hint="--where")
    return name, value


def _check_top(top: int | None, limit: int | None, cursor: str | None) -> None:
    if top is not None and (limit is not None or cursor is not None):
        raise typer.BadParameter("--top shows all rows at once: it goes with no --limit and no --cursor")


def _check_whole(limit: int | None, cursor: str | None, as_json: bool) -> None:
    if limit is not None or cursor is not None or as_json:
        raise typer.BadParameter("--csv prints all there is: it goes with no --limit, no --cursor and no --json")


def _entries(service: Api, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every entry of a ledger that is asked for, the newest first, read a page at a time."""
    cursor = None
    while True:
        page = service.call("GET", "/v1/ledger", **asked, limit=_PAGE_ENTRIES, cursor=cursor).json()
        yield from page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _cells(entry: dict[str, Any]) -> list[Cell]:
    numbers = {"amount": Decimal(entry["amount"]), "balance": Decimal(entry["balance"])}
    texts = {"metadata": json.dumps(entry["metadata"]) if entry["metadata"] else ""}
    cells = entry | numbers | texts
    return [cells[name] for name in _LEDGER_CSV]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _write(path: Path, pieces: Any) -> None:
    """Write a file whole: one that was cut short does not have its name."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    part.rename(path)
