"""Output of commands: results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

console = Console(stderr=True, highlight=False)


def show(answer: Any, as_json: bool) -> None:
    """Print an answer of the API: as JSON, or as lines of `name: value`."""
    if as_json:
        print_json(answer)
        return
    for line in _lines(answer, ""):
        print(line)


def show_page(page: Any, rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Print a page of a list as JSON, or as columns under their names."""
    if as_json:
        print_json(page)
        return
    lines = [
        columns,
        *(tuple(str(row[name]) if row[name] not in ("", None) else "-" for name in columns) for row in rows),
    ]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if page["next_cursor"]:
        print(f"there is more: --cursor {page['next_cursor']}", file=sys.stderr)


def tell_failure(sentence: str) -> None:
    """Print why a command failed, on standard error. What it quotes may have brackets, which are no styles."""
    console.print("[red]error:[/]", escape(sentence), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output, indented."""
    print(json.dumps(value, indent=2))


def _lines(value: Any, indent: str) -> list[str]:
    if isinstance(value, list):
        lines = []
        for each in value:
            inner = _lines(each, indent + "  ")
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]] if inner else []
        return lines or [f"{indent}(none)"]
    if not isinstance(value, dict):
        return [f"{indent}{'-' if value is None else value}"]
    lines = []
    for name, each in value.items():
        if isinstance(each, dict | list) and each:
            lines += [f"{indent}{name}:", *_lines(each, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {'-' if each in (None, [], {}, '') else each}")
    return lines
