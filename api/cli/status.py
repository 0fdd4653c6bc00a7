"""`meterline status` tells the state of the whole system, and what is wrong, in one look."""

from __future__ import annotations

from typing import Any

import typer

from api.cli.options import JsonOption
from api.cli.output import print_json, tell_failure
from api.cli.service import Api
from streams.errors import OperatorError

app = typer.Typer()


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show the state of the system: parts, versions, workers and their partitions, lags, restarts, disks.

    The first line says what is wrong. Exit code 0 where nothing is, 1 where something is, 2 where the API does not say.
    """
    try:
        told = Api().call("GET", "/v1/admin/status").json()
    except OperatorError as error:
        tell_failure(str(error))
        raise typer.Exit(2) from None
    if as_json:
        print_json(told)
    else:
        print(status_text(told))
    if told["wrong"]:
        raise typer.Exit(1)


def status_text(told: dict[str, Any]) -> str:
    """The state of the system for people to read, from its JSON."""
    lines = [f"WRONG: {'; '.join(told['wrong'])}" if told["wrong"] else "All is well"]
    lines.append("")
    lines.append(f"meterline {told['version']}, ClickHouse {told['clickhouse_version'] or 'does not answer'}")
    lines.append(f"{told['api_name']} is up since {told['up_since']}")
    last = told["last_decision_seconds"]
    lines.append(f"last decision: {f'{last} s ago' if last is not None else 'none seen yet'}")
    lines.append(f"workers started since then: {told['worker_starts']}")
    lines.append("")
    lines += _columns(
        ("part", "state"), [(each["name"], "ready" if each["is_ready"] else each["why"]) for each in told["parts"]]
    )
    lines.append("")
    lines += _columns(
        ("worker", "version", "host", "partitions"),
        [
            (each["name"], each["version"] or "-", each["host"], _spans(each["partitions"]) or "none")
            for each in told["workers"]
        ],
    )
    lines.append(
        f"historians: {told['historians']}, cashiers: {told['cashiers']}, couriers: {told['couriers']}, "
        f"partitions: {told['partitions']}"
    )
    lines.append("")
    lines += _columns(
        ("waits in", "records", "oldest", "stands still"),
        [
            (each["topic"], str(each["records"]), f"{each['oldest_seconds']} s", f"{each['still_seconds']} s")
            for each in told["lags"]
        ],
    )
    lines.append(f"this API's copy of the accounts is {told['accounts_lag_seconds']} s old at most")
    lines.append("")
    lines += _columns(
        ("disk of", "used", "free"),
        [(each["name"], _size(each["used_bytes"]), _size(each["free_bytes"])) for each in told["disks"]],
    )
    return "\n".join(lines)


def _columns(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, *rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _spans(numbers: list[int]) -> str:
    """Numbers in order, neighbours together: 0-3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1024**3:.1f} GiB"
