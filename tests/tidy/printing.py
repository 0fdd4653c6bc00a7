"""Consoles print text as it is: none of ours reads Rich's markup, which values may look like."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.sources import Source

# Rich reads markup in whatever these are given, unless they are told not to.
_READERS = {"Console": ("markup", "emoji"), "TextColumn": ("markup",)}
# Rich reads markup in these however they are called.
_MARKUP = frozenset({"from_markup", "render_markup"})
# The one module that makes a status line, of a text without markup.
OUTPUT = "api/cli/output.py"


def markup_readers(files: list[Source]) -> list[str]:
    """The places that have Rich read markup in what they print."""
    return [
        f"{file.path}:{call.lineno} {why}"
        for file in files
        for call in ast.walk(file.tree)
        if isinstance(call, ast.Call)
        for why in _complaints(file.path, call)
    ]


def _complaints(path: str, call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    for what in _READERS.get(name, ()):
        if not any(each.arg == what and _is_off(each) for each in call.keywords):
            yield f"makes a {name} that reads {what}: say {what}=False, or use {OUTPUT}"
    if name in _MARKUP:
        yield f"reads markup by {name}: use `styled` of {OUTPUT}"
    if name == "status" and ast.unparse(call.func).endswith("console.status") and path != OUTPUT:
        yield f"shows a status that reads markup: use `working` of {OUTPUT}"


def _is_off(keyword: ast.keyword) -> bool:
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is False
