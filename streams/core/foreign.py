"""Foreign bytes: what others send is decoded here, and whatever is raised becomes a Rejection, or an UnreadableError.

A decoder raises more than its documented error: RecursionError for deep nesting, OverflowError for a number, ValueError
for half an emoji. A list of known errors has always lacked one. `tests/tidy/foreign.py` refuses such lists elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

import msgspec

from schemas.problems import Rejection

T = TypeVar("T")
S = TypeVar("S")

# Work in steps: whoever runs it lets others have their turn after each, or runs it to its end (`finished`).
Steps = Generator[None, None, T]

_ERROR_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`")
_QUANTITY_FIELDS = ("quantity", "target_languages", "attempts", "networks")
_DETAIL_CHARS_MAX = 300

# What tells an array's elements apart, read so tolerantly that a fault within one does not hide the next: strings, many
# at once; within an element, pairs of brackets with nothing nested in them, many at once; runs of brackets; commas
# between elements; a quote that begins a string without an end. The names are those of groups.
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_RUNS = r'|(?P<open>[\[{]+)|(?P<close>[\]}]+)|(?P<unended>")'
_BETWEEN = re.compile(rf'(?:{_STRING}[^"\[\]{{}},]*){{1,1000}}{_RUNS}|(?P<comma>,)'.encode(), re.DOTALL)
_WITHIN = re.compile(
    rf'(?:{_STRING}[^"\[\]{{}}]*){{1,1000}}|(?:[\[{{][^"\[\]{{}}]*[\]}}][^"\[\]{{}}]*){{1,1000}}{_RUNS}'.encode(),
    re.DOTALL,
)
_OPENERS = bytes.maketrans(b"]}", b"[{")
# After so many steps, about half a second, the rest of an array is taken for one element.
_STEPS_MAX = 400_000
_STEPS_AT_ONCE = 2_000


class UnreadableError(Exception):
    """Bytes that can't be read, and why."""


def decoded(decode: Callable[[S], T], value: S) -> T:
    """The value that `decode` reads in a caller's bytes. Raises Rejection, whatever `decode` raises."""
    try:
        return decode(value)
    except Exception as error:
        raise decoding_rejection(error) from None


def read(decode: Callable[[S], T], value: S) -> T:
    """The value that `decode` reads in a record or a file. Raises UnreadableError, whatever `decode` raises."""
    try:
        return decode(value)
    except Exception as error:
        raise UnreadableError(why_unreadable(error)) from None


def why_unreadable(error: BaseException) -> str:
    """The reason why bytes could not be read, in words that a sender understands; at most some 300 characters."""
    if isinstance(error, RecursionError):
        return "It is nested too deeply"
    return (str(error) or type(error).__name__)[:_DETAIL_CHARS_MAX]


def finished(steps: Steps[T]) -> T:
    """The result of work in steps, all taken at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def split_array(value: bytes, elements_max: int) -> Steps[list[bytes]]:
    """Tell an array's elements apart, by strings and brackets alone, and give their texts; none of them is decoded.

    `value` begins with `[`, after white space. Of more than `elements_max` elements there are `elements_max + 1` texts.
    What can't be told apart, and what follows the array's end, is the last text; it is empty where the array just
    stops.
    """
    start = position = value.index(b"[") + 1
    stack = _Brackets()
    texts: list[bytes] = []
    steps = pause_at = 0
    while stack.is_open and steps < _STEPS_MAX and len(texts) < elements_max:
        if steps >= pause_at:
            yield
            pause_at = steps + _STEPS_AT_ONCE
        found = (_WITHIN if stack.is_nested else _BETWEEN).search(value, position)
        if found is None or found.lastgroup == "unended":
            break
        position = found.end()
        steps += 1
        if found.lastgroup == "comma":
            texts.append(value[start : found.start()].strip())
            start = position
        elif found.lastgroup == "open":
            stack.open(found[0])
        elif found.lastgroup == "close":
            closed, taken = stack.close(found[0])
            steps += taken
            if not stack.is_open:
                position = found.start() + closed
                texts.append(value[start : position - 1].strip())
                start = position
    rest = value[start:].strip()
    if rest or stack.is_open:
        texts.append(rest)
    return [] if texts == [b""] and not stack.is_open else texts


class _Brackets:
    """The brackets that are open, the array's own first."""

    def __init__(self) -> None:
        self._open = bytearray(b"[")
        self._counts = {ord("["): 1, ord("{"): 0}

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    @property
    def is_nested(self) -> bool:
        return len(self._open) > 1

    def open(self, brackets: bytes) -> None:
        self._open += brackets
        self._count(brackets, 1)

    def close(self, brackets: bytes) -> tuple[int, int]:
        """Close brackets, until none is open; gives how many of `brackets` that took, and in how many steps.

        One that closes nothing is passed over, and one that closes an outer bracket closes those within it.
        """
        mirrored = brackets[::-1].translate(_OPENERS)
        if len(self._open) > len(mirrored) and self._open.endswith(mirrored):
            self._close_from(len(self._open) - len(mirrored))
            return len(brackets), 0
        for number, opener in enumerate(brackets.translate(_OPENERS), 1):
            if self._counts[opener]:
                self._close_from(self._open.rindex(opener))
            if not self._open or number > _STEPS_MAX:
                return number, number
        return len(brackets), len(brackets)

    def _close_from(self, place: int) -> None:
        self._count(self._open[place:], -1)
        del self._open[place:]

    def _count(self, brackets: bytes | bytearray, sign: int) -> None:
        curly = brackets.count(b"{")
        self._counts[ord("{")] += sign * curly
        self._counts[ord("[")] += sign * (len(brackets) - curly)


def decoding_rejection(error: Exception) -> Rejection:
    """The Rejection for an error that was raised while decoding; the field at fault decides the code."""
    text = why_unreadable(error)
    if not isinstance(error, msgspec.ValidationError):
        return Rejection("malformed_json", text)
    path_match = _ERROR_PATH.search(text)
    path = path_match.group(1) if path_match else ""
    detail = text[: path_match.start()] if path_match else text
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
    if name.startswith("metadata") and "length <=" in text:
        path = path.removesuffix("[...]")
        return Rejection("metadata_too_large", f"`{path}`: {detail}", path)
    return Rejection("invalid_event", f"`{path}`: {detail}" if path else detail, path or None)
