"""Bytes from outside are decoded in one place: `streams/core/foreign.py` makes one error of all that decoders raise."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

from tests.tidy.sources import Source

PLACE = "streams/core/foreign.py"

# Errors of decoders. Whoever catches some of them forgets one.
ERRORS = frozenset({"DecodeError", "JSONDecodeError", "UnicodeDecodeError", "UnicodeError", "RecursionError"})
DECODERS = frozenset(
    {
        "msgspec.json.decode",
        "msgspec.msgpack.decode",
        "msgspec.convert",
        "json.loads",
        "json.load",
        "orjson.loads",
    }
)

# Files that decode what no stranger wrote, and why that holds.
OURS = {
    "streams/core/notices.py": "metadata of facts, as the owner encoded it",
    "streams/core/waits.py": "an account, encoded in the same line to have a copy of it",
    "streams/clickhouse/erasures.py": "metadata of facts, as the owner encoded it",
    "streams/core/erasures.py": "metadata of an open hold, as it was encoded when its event was accepted",
    "streams/clickhouse/historian.py": "rows of a pack that has been decoded",
    "streams/embedded/front/native_blocks.py": "what the embedded engine says of its own columns",
    "streams/embedded/clickhouse_front.py": "an analyst's statement, which goes to the engine as it came",
    "streams/embedded/broker.py": "the list of jars that we wrote beside them",
    "streams/history/audit.py": "metadata of facts, as the owner encoded it",
    "streams/history/corrections.py": "metadata of facts, as the owner encoded it",
    "streams/history/fact_words.py": "metadata of facts, as the owner encoded it",
    "streams/history/past_limits.py": "metadata of facts, as the owner encoded it",
    "streams/rehearsals/prices.py": "metadata of facts, as the owner encoded it",
}


def naked(files: Iterable[Source], ours: Mapping[str, str] = OURS) -> list[str]:
    """The places that call a decoder by itself, rather than through `decoded` or `read`, or that catch some of its
    errors; and the entries of `ours` that are needed no more."""
    files = [file for file in files if file.path != PLACE]
    found = {file.path: [*_naked_calls(file), *_known_errors(file)] for file in files}
    unneeded = [f"{path} calls no decoder by itself: it needs no exception" for path in ours if not found.get(path)]
    return [line for path, lines in found.items() if path not in ours for line in lines] + unneeded


def _naked_calls(file: Source) -> Iterator[str]:
    decoders = DECODERS | {
        target.id
        for node in file.tree.body
        if isinstance(node, ast.Assign) and _is_decode(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and (ast.unparse(node.func) in decoders or _is_decode(node.func)):
            called = ast.unparse(node.func)
            yield f"{file.path}:{node.lineno} calls {called} by itself: use `decoded` or `read` of {PLACE}"


def _is_decode(node: ast.expr) -> bool:
    """Whether this is `….Decoder(…).decode`."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "decode"
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).endswith("Decoder")
    )


def _known_errors(file: Source) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.ExceptHandler) or node.type is None:
            continue
        for each in ast.walk(node.type):
            name = each.attr if isinstance(each, ast.Attribute) else each.id if isinstance(each, ast.Name) else ""
            if name in ERRORS or ast.unparse(each) == "msgspec.ValidationError":
                yield f"{file.path}:{node.lineno} catches {name}: a decoder raises more than that"
