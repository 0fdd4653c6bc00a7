"""Foreign bytes: what strangers send is decoded here, and whatever is raised becomes a Rejection.

A decoder raises more than its documented error: RecursionError for deep nesting, MemoryError for a length that is
claimed, OverflowError for a number. A list of known errors has always lacked one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from schemas.problems import Rejection
from streams.errors import OperatorError

T = TypeVar("T")

_ERROR_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`")
_QUANTITY_FIELDS = ("quantity", "target_languages", "attempts", "networks")
_REQUIRED = ("specversion", "id", "source", "type", "subject", "data")
_TOO_LARGE = ("length <=", "`int` ", "out of range")
_DETAIL_CHARS_MAX = 300

# What tells an array's elements apart, read so tolerantly that a fault within one does not hide the next: strings, many
# at once; within an element, pairs of brackets with nothing nested in them, many at once; runs of brackets; commas
# between elements; a quote that begins a string without an end. The names are those of groups.
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_RUNS = r'|(?P<open>[\[{]+)|(?P<close>[\]}]+)|(?P<unended>")'
_BETWEEN = re.compile(rf'(?:{_STRING}[^"\[\]{{}},]*){{1,1000}}{_RUNS}|(?P<comma>,)'.encode(), re.DOTALL)
_PAIR = r'(?:\[[^"\[\]{}]*\]|\{[^"\[\]{}]*\})'
_WITHIN = re.compile(
    rf'(?:{_STRING}[^"\[\]{{}}]*){{1,1000}}|(?:{_PAIR}[^"\[\]{{}}]*){{1,1000}}{_RUNS}'.encode(), re.DOTALL
)
_OPENER_OF = bytes.maketrans(b"]}", b"[{")
# After so many steps, about a quarter of a second, the rest of an array is not told apart: 10,000 faulty events need
# half as many.
_STEPS_MAX = 150_000


def decoded(decode: Callable[[bytes], T], value: bytes) -> T:
    """The value that `decode` reads in foreign bytes. Raises Rejection, whatever `decode` raises; but where they are
    another version's of Meterline, the error that says so."""
    try:
        return decode(value)
    except OperatorError:
        raise
    except Exception as error:
        raise decoding_rejection(error) from None


def why_unreadable(error: BaseException) -> str:
    """The reason why bytes could not be read, in words that a sender understands; at most some 300 characters."""
    if isinstance(error, RecursionError):
        return "It is nested too deeply"
    return (str(error) or type(error).__name__)[:_DETAIL_CHARS_MAX]


def split_array(value: bytes, elements_max: int) -> tuple[list[bytes], bytes | None]:
    """The texts of an array's elements, told apart by strings and brackets alone, and what is left of `value`.

    `value` begins with `[`, after white space. Nothing is decoded. What is left is None where the array ends and
    nothing follows; otherwise it is what follows, or what can't be told apart. Of an array with more than
    `elements_max` elements, the first `elements_max + 1` are given.
    """
    start = position = value.index(b"[") + 1
    stack = bytearray(b"[")
    texts: list[bytes] = []
    steps = 0
    while stack and steps < _STEPS_MAX and len(texts) <= elements_max:
        found = (_BETWEEN if len(stack) == 1 else _WITHIN).search(value, position)
        if found is None or found.lastgroup == "unended":
            break
        position = found.end()
        steps += 1
        if found.lastgroup == "comma":
            texts.append(value[start : found.start()].strip())
            start = position
        elif found.lastgroup == "open":
            stack += found[0]
        elif found.lastgroup == "close":
            closed_at, taken = _close(stack, found[0], _STEPS_MAX - steps)
            steps += taken
            if not stack:
                position = found.start() + closed_at
                text = value[start:position].strip()
                if text or texts:
                    texts.append(text)
                start = position + 1
    rest = value[start:].strip()
    return texts, rest if rest or stack else None


def _close(stack: bytearray, closers: bytes, steps_max: int) -> tuple[int, int]:
    """Take from the stack what these brackets close, until it is empty or too many steps are taken; gives the place of
    the last bracket that did, and the steps.

    A bracket that closes nothing is passed over, and one that closes an outer bracket closes those within it.
    """
    expected = closers.translate(_OPENER_OF)[::-1]
    if stack.endswith(expected):
        del stack[-len(expected) :]
        return len(closers) - 1, 0
    steps = 0
    for place, opener in enumerate(reversed(expected)):
        if stack[-1] == opener:
            stack.pop()
            steps += 1
        else:
            steps += 1 + len(stack) // 2000
            if (at := stack.rfind(opener)) >= 0:
                del stack[at:]
        if not stack or steps > steps_max:
            return place, steps
    return len(closers) - 1, steps


def decoding_rejection(error: Exception) -> Rejection:
    """The Rejection for an error that was raised while decoding; the field at fault decides the code."""
    text = why_unreadable(error)
    if not isinstance(error, msgspec.ValidationError):
        return Rejection("malformed_json", text)
    path_match = _ERROR_PATH.search(text)
    path = path_match.group(1) if path_match else ""
    detail = text[: path_match.start()] if path_match else text
    if path in _REQUIRED and text.endswith(f"got `null` - at `$.{path}`"):
        # As JSON's format of CloudEvents has it, an attribute that is null is one that is not set.
        return Rejection("missing_id" if path == "id" else "missing_field", f"`{path}` is missing", path)
    if missing := _MISSING.search(text):
        field = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return Rejection("missing_id" if field == "id" else "missing_field", f"`{field}` is missing", field)
    if unknown := _UNKNOWN_FIELD.search(text):
        field = f"{path}.{unknown.group(1)}" if path else unknown.group(1)
        return Rejection("invalid_event", f"`{field[:120]}` is not a field of a usage event", field[:120])
    if path == "id" and "length >= 1" in text:
        return Rejection("missing_id", "`id` is empty", "id")
    name = path.removeprefix("data.")
    if name in _QUANTITY_FIELDS:
        return Rejection("invalid_quantity", f"`{path}`: {detail}", path)
    if name.startswith("metadata") and any(word in text for word in _TOO_LARGE):
        path = path.removesuffix("[...]")
        return Rejection("metadata_too_large", f"`{path}`: {detail}", path)
    return Rejection("invalid_event", f"`{path}`: {detail}" if path else detail, path or None)
