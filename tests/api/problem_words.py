"""Every error of the catalogue, from each place that tells it, in the words of its three readers.

`python -m tests.api.problem_words` writes `problem_words.txt` anew. There `…` stands for what differs from time to
time. The command line's words are those of a command that has the flags of all commands.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from api.cli.main import app
from api.cli.words import cli_words, flags_of
from schemas.problems import CODES
from streams.client.customer_words import decided_words, own_words
from streams.http_answers import problem_of
from streams.settings import PROJECT_ROOT
from tests.tidy.sources import PRODUCT, sources

GOLDEN = Path(__file__).parent / "problem_words.txt"
# The gateway says these itself: its words are for the customer.
GATEWAY = "streams/client/gateway.py"
# Only these places speak of codes without telling anybody: they look for them, or are the catalogue.
_SILENT = ("schemas/problems.py", "api/cli/words.py", "streams/client/customer_words.py", "streams/worker/")


class Place(NamedTuple):
    """A place in the code that tells an error; `detail` and `field` have `…` for what differs from time to time."""

    code: str
    path: str
    detail: str
    field: str


def places() -> list[Place]:
    """The places of the product that tell errors, in order."""
    found = {
        place
        for file in sources(PROJECT_ROOT, *PRODUCT)
        if not file.path.startswith(_SILENT)
        for function in ast.walk(file.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module)
        for place in _told_in(file.path, function)
    }
    return sorted(found)


def _told_in(path: str, function: Any) -> Iterator[Place]:
    """The places of a function. A detail in a variable is what was last put into it, in any branch."""
    said: dict[str, list[str]] = defaultdict(list)
    used: set[str] = set()
    for node in sorted(_nodes_of(function), key=lambda each: (each.lineno, each.col_offset)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in used:
                used.discard(name)
                said[name].clear()
            said[name] += _texts(node.value)
        elif isinstance(node, ast.Call) and (at := _place_of_code(node)) is not None and len(node.args) > at + 1:
            given = node.args[at + 1]
            details = said.get(given.id, ["…"]) if isinstance(given, ast.Name) else _texts(given)
            used |= {given.id} if isinstance(given, ast.Name) else set()
            field = next((each.value for each in node.keywords if each.arg == "field"), None)
            if field is None and _called(node) == "Rejection" and len(node.args) > at + 2:
                field = node.args[at + 2]
            fields = (_texts(field) or ["…"]) if field is not None else [""]
            for detail in details:
                yield Place(ast.literal_eval(node.args[at]), path, detail, fields[0])


def _nodes_of(function: ast.AST) -> Iterator[Any]:
    """The nodes of a function that have a line, without those of functions within it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if hasattr(node, "lineno"):
                yield node
            yield from _nodes_of(node)


def _place_of_code(call: ast.Call) -> int | None:
    """The number of the argument that is an error's code."""
    for number, each in enumerate(call.args):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value in CODES:
            return number
    return None


def _texts(value: ast.expr) -> list[str]:
    """The texts that an expression may have, with `…` for what is not written in it."""
    if isinstance(value, ast.Constant):
        return [value.value] if isinstance(value.value, str) else []
    if isinstance(value, ast.JoinedStr):
        return ["".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in value.values)]
    if isinstance(value, ast.IfExp):
        return [*_texts(value.body), *_texts(value.orelse)]
    return ["…"]


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def all_flags() -> dict[str, str]:
    """The flags of all commands, by the names that fields may have."""
    flags: dict[str, str] = {}
    group: Any = typer.main.get_group(app)
    waiting = [group.get_command(None, name) for name in group.list_commands(None) if name not in ("bench", "test")]
    while waiting:
        command = waiting.pop(0)
        waiting += getattr(command, "commands", {}).values()
        for name, flag in flags_of(command).items():
            flags[name] = min(flags.get(name, flag), flag)
    return flags


def told(place: Place, flags: dict[str, str]) -> dict[str, str]:
    """The words for an error that each of the three readers is told."""
    problem = problem_of("req_1", place.code, place.detail, field=place.field or None)
    words = own_words if place.path == GATEWAY else decided_words
    customer = words(place.code, place.detail)
    return {
        "customer": f"{customer.title}. {customer.detail}",
        "operator": f"{problem['title']}. {problem['detail']}" + (f" ({place.field})" if place.field else ""),
        "cli": cli_words(problem, flags),
    }


def document() -> str:
    """The golden file's text."""
    flags = all_flags()
    by_code: dict[str, list[Place]] = {code: [] for code in CODES}
    for place in places():
        by_code[place.code].append(place)
    lines = []
    for code, of_code in by_code.items():
        lines += [f"{CODES[code].status} {code}"]
        customer = ""
        for place in of_code or [Place(code, "(no place by name)", "…", "")]:
            words = told(place, flags)
            if words["customer"] != customer:
                customer = words["customer"]
                lines += [f"  customer: {customer}"]
            lines += [f"  {place.path}", f"    operator: {words['operator']}", f"    cli: {words['cli']}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(document(), encoding="utf-8")
