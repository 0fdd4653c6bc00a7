"""Output of commands: results go to standard output, progress and errors to standard error.

What is printed is printed as it is. Values have brackets (`a[/x].json`, `[a-z_]+`), so no console here reads Rich's
markup: a style is given beside its text, by `styled`. But what a terminal would act on is printed as `\\x1b`, since
anybody's events may say it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

console = Console(stderr=True, highlight=False, markup=False, emoji=False)
# A cell of a table has one line; other texts may have more, and tabs.
_IN_CELLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_IN_TEXTS = {code: name for code, name in _IN_CELLS.items() if chr(code) not in "\n\t"}
# As many lines as can be read at a glance.
BRIEF_LINES_MAX = 5


def results(width: int | None = None) -> Console:
    """A console on standard output, for results that are tables; `width` in characters, else the terminal's."""
    return Console(highlight=False, markup=False, emoji=False, width=width)


def visible(text: str) -> str:
    """A text whose control characters, but for the ends of lines and tabs, are to be seen and do nothing."""
    return text.translate(_IN_TEXTS)


def styled(*parts: str | tuple[str, str]) -> Text:
    """A text of parts: each is printed as it is, in the style that stands beside it, if any."""
    return Text.assemble(*(visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts))


def working(text: str) -> Status:
    """A line that turns while a command works, as a context."""
    return console.status(Text(text))


def show(answer: Any, as_json: bool) -> None:
    """Print an answer of the API: as JSON, or as lines of `name: value`."""
    if as_json:
        print_json(answer)
        return
    print("\n".join(lines_of(answer)))


def tell(answer: dict[str, Any], brief: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Print the answer to a command that changed something: as JSON, all of it as lines, or its `brief` fields alone,
    one a line."""
    assert len(brief) <= BRIEF_LINES_MAX
    if verbose or as_json:
        show(answer, as_json)
    else:
        print("\n".join(f"{name}: {cell(answer[name])}" for name in brief))


def show_page(
    page: Any, rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, verbose: bool = False
) -> None:
    """Print a page of a list as `show_rows` does, and how to go on."""
    show_rows(page, rows, columns, as_json, verbose)
    if page["next_cursor"] and not as_json:
        print(f"there is more: --cursor {page['next_cursor']}", file=sys.stderr)


def show_rows(
    answer: Any, rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, verbose: bool = False
) -> None:
    """Print rows as columns under their names, all that the rows have where `verbose`; or the answer as JSON."""
    if as_json:
        print_json(answer)
        return
    if verbose and rows:
        columns = tuple(rows[0])
    lines = [columns, *(tuple(cell(row.get(name)) for name in columns) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    """A value as a table shows it, in one line."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ",".join(value)
    elif isinstance(value, list | dict):
        value = json.dumps(value) if value else ""
    return "-" if value in ("", None) else str(value).translate(_IN_CELLS)


def tell_failure(sentence: str) -> None:
    """Print why a command failed, on standard error."""
    console.print(styled(("error:", "red"), " ", sentence), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output, indented."""
    print(json.dumps(value, indent=2))


def lines_of(answer: Any) -> list[str]:
    """The lines that show an answer, `name: value` each."""
    return _lines(answer, "")


def _lines(value: Any, indent: str) -> list[str]:
    if isinstance(value, list):
        lines = []
        for each in value:
            inner = _lines(each, indent + "  ")
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]] if inner else []
        return lines or [f"{indent}(none)"]
    if not isinstance(value, dict):
        return [f"{indent}{'-' if value is None else visible(str(value))}"]
    lines = []
    for name, each in value.items():
        if isinstance(each, dict | list) and each:
            lines += [f"{indent}{name}:", *_lines(each, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {'-' if each in (None, [], {}, '') else visible(str(each))}")
    return lines
