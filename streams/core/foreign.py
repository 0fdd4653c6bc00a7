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
from streams.errors import OperatorError

T = TypeVar("T")
S = TypeVar("S")

# Work in steps: whoever runs it lets others have their turn after each, or runs it to its end (`finished`).
Steps = Generator[None, None, T]

_ERROR_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`")
_QUANTITY_FIELDS = ("quantity", "target_languages", "attempts", "networks")
_REQUIRED = ("specversion", "id", "source", "type", "subject", "data")
_TOO_LARGE = ("length <=", "`int` ", "out of range")
_DETAIL_CHARS_MAX = 300

# What tells an array's elements apart, read so tolerantly that a fault within one does not hide the next: strings, many
# at once; within an element, pairs of brackets with nothing nested in them, many at once; runs of brackets; commas
# between elements; a quote that begins a string whose end is not in sight. The names are those of groups.
_IN_STRING = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_PAIR = r'(?:\[[^"\[\]{}]*+\]|\{[^"\[\]{}]*+\})'
_RUNS = r'(?P<open>[\[{]+)|(?P<close>[\]}]{1,4000})|(?P<quote>")'
_BETWEEN = re.compile(
    rf'[^"\[\]{{}},]*+(?:(?:"{_IN_STRING}"[^"\[\]{{}},]*+){{1,1000}}+|{_RUNS}|(?P<comma>,))'.encode(), re.DOTALL
)
_WITHIN = re.compile(
    rf'[^"\[\]{{}}]*+(?:(?:"{_IN_STRING}"[^"\[\]{{}}]*+){{1,1000}}+|(?:{_PAIR}[^"\[\]{{}}]*+){{1,1000}}+|{_RUNS})'.encode(),
    re.DOTALL,
)
_TO_QUOTE = re.compile(_IN_STRING.encode(), re.DOTALL)
_OPENERS = bytes.maketrans(b"]}", b"[{")
# So far is looked at once: a hostile megabyte may take a hundred nanoseconds a byte.
_WINDOW_BYTES = 64 * 1024
# Steps between which others have their turn. After so many in all, about half a second, the rest of an array is taken
# for one element; ten thousand events take half of them.
_STEPS_AT_ONCE = 2_000
_STEPS_MAX = 160_000


class UnreadableError(Exception):
    """Bytes that can't be read, and why."""


def decoded(decode: Callable[[S], T], value: S) -> T:
    """The value that `decode` reads in a caller's bytes. Raises Rejection, whatever `decode` raises."""
    try:
        return decode(value)
    except Exception as error:
        raise decoding_rejection(error) from None


def read(decode: Callable[[S], T], value: S) -> T:
    """The value that `decode` reads in a record or a file. Raises UnreadableError, whatever `decode` raises; but where
    another version of Meterline wrote it, the error that says so."""
    try:
        return decode(value)
    except OperatorError:
        raise
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


def split_array(value: bytes, elements_max: int) -> Steps[tuple[list[bytes], bytes | None]]:
    """Tell an array's elements apart, by strings and brackets alone; gives their texts, and what is left of `value`.

    `value` begins with `[`, after white space. Nothing is decoded. What is left is None where the array ends and
    nothing follows; otherwise it is what follows, or what can't be told apart. Of an array with more than
    `elements_max` elements, the first `elements_max + 1` are given.
    """
    start = position = value.index(b"[") + 1
    brackets = _Brackets()
    texts: list[bytes] = []
    steps = 0
    pause_at = pause_position = 0
    while position < len(value) and brackets.depth and steps < _STEPS_MAX and len(texts) <= elements_max:
        if steps >= pause_at or position >= pause_position:
            yield
            pause_at, pause_position = steps + _STEPS_AT_ONCE, position + _WINDOW_BYTES
        steps += 1
        window_end = min(position + _WINDOW_BYTES, len(value))
        found = (_WITHIN if brackets.depth > 1 else _BETWEEN).match(value, position, window_end)
        if found is None:
            position = window_end
            continue
        position = found.end()
        if found.lastgroup == "comma":
            texts.append(value[start : position - 1].strip())
            start = position
        elif found.lastgroup == "open":
            brackets.open(found["open"])
        elif found.lastgroup == "close":
            closed, taken = brackets.close(found["close"])
            steps += taken
            if not brackets.depth:
                position = found.start("close") + closed
                if (last := value[start : position - 1].strip()) or texts:
                    texts.append(last)
                start = position
        elif found.lastgroup == "quote":
            position = yield from _string_end(value, position)
    rest = value[start:].strip()
    return texts, rest if rest or brackets.depth else None


def _string_end(value: bytes, position: int) -> Steps[int]:
    """The place behind the string that `position` is in, or the end of `value`."""
    while found := _TO_QUOTE.match(value, position, position + _WINDOW_BYTES):
        position = found.end()
        if value[position : position + 1] == b'"':
            return position + 1
        if position + 1 >= len(value):
            break
        yield
    return len(value)


class _Brackets:
    """The brackets that are open, the array's own first."""

    def __init__(self) -> None:
        self._open = bytearray(b"[")
        self._counts = {ord("["): 1, ord("{"): 0}

    @property
    def depth(self) -> int:
        """The number of open brackets; 0 once the array is closed."""
        return len(self._open)

    def open(self, brackets: bytes) -> None:
        """Open these, in order."""
        self._open += brackets
        self._count(brackets, 1)

    def close(self, brackets: bytes) -> tuple[int, int]:
        """Close brackets, until none is open; gives how many of `brackets` that took, and in how many steps.

        One that closes nothing is passed over, and one that closes an outer bracket closes those within it.
        """
        openers = brackets.translate(_OPENERS)
        taken = min(len(openers), len(self._open))
        if self._open.endswith(openers[:taken][::-1]):
            self._close_from(len(self._open) - taken)
            return taken, 0
        for number, opener in enumerate(openers, 1):
            if self._counts[opener]:
                self._close_from(self._open.rindex(opener))
            if not self._open:
                return number, number
        return len(openers), len(openers)

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
