"""CSV files that a spreadsheet can open without running any of their cells as a formula. Every CSV passes here."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Literal

CSV_TYPE = "text/csv; charset=utf-8; header=present"

_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
# Compatibility forms of the first four (full-width, small, raised) begin a formula in some locales, and so does the
# minus sign.
_SIGNS = frozenset("=+-@\N{MINUS SIGN}")
# Letters and symbols that nobody sees, beside the characters that Unicode calls separators, marks, controls or formats.
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_ROWS_A_PIECE = 200


def harmless(text: str) -> str:
    """The text of a cell, with an apostrophe before it where a spreadsheet may run it as a formula."""
    if text[:1].isascii() and text[:1].isalnum():
        return text
    for character in text:
        if unicodedata.category(character) == "Cc":
            # A tab or a line's end moves what follows it to the beginning of another cell.
            return f"'{text}"
        if not _is_seen(character):
            continue
        begins_formula = not _SIGNS.isdisjoint(unicodedata.normalize("NFKC", character))
        return f"'{text}" if begins_formula else text
    return text


class Number(str):
    """A number as text, to be written as it is: its sign begins no formula."""


Cell = str | int | Decimal


def number_or_text(text: str) -> str:
    """The cell of a value whose kind is not known: a number where it is nothing but one."""
    return Number(text) if _NUMBER.fullmatch(text) else text


def _is_seen(character: str) -> bool:
    # What has no category yet (`Cn`) or is of private use is drawn by no program, or nobody knows by which.
    return unicodedata.category(character)[0] not in "CZM" and character not in _FILLERS


def csv_pieces(columns: Sequence[str], rows: Iterable[Iterable[Cell]], quotes_texts: bool = False) -> Iterator[bytes]:
    """A CSV file as RFC 4180 has it, in pieces: a header and these rows, lines ended by CRLF. Each text is made
    harmless; a number stays as it is. With `quotes_texts` every text is in quotes, also one that needs none."""
    yield _lines([columns], quotes_texts)
    left = iter(rows)
    while piece := list(islice(left, _ROWS_A_PIECE)):
        yield _lines(piece, quotes_texts)


# Texts that are left as they are, as `harmless` leaves them; all others are looked at one by one. Nothing is tried a
# second time (`*+`): a piece is read once, whatever is in it.
_TEXT = rb'"(?:[A-Za-z0-9][^"]*+(?:""[^"]*+)*+)?+"'
_PLAIN = rb"-?\d++(?:\.\d++)?+"
_CELL = rb'(?:"(?:[^"]++|"")*+"|[^",\r\n]*+)'


def checked_csv(columns: Sequence[str], texts: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A CSV file, in pieces: a header, and rows that ClickHouse wrote as CSV with CRLF, in pieces of any length. The
    first `texts` cells of a row are texts. It is what `csv_pieces` would make of the same cells, with `quotes_texts`
    and `number_or_text`."""
    yield next(csv_pieces(columns, [], quotes_texts=True))
    numbers = len(columns) - texts
    safe = re.compile(rb"(?:" + b",".join([_TEXT] * texts + [_PLAIN] * numbers) + rb"\r\n)*+")
    # Where one is not left as it is, the next ones seldom are.
    others = re.compile(rb"(?:" + b",".join([_CELL] * len(columns)) + rb"\r\n){1,%d}+" % _ROWS_A_PIECE)
    rest = b""
    for piece in pieces:
        rest, at = rest + piece, 0
        while True:
            found = safe.match(rest, at)
            assert found is not None, "also no line is a match"
            if found.end() > at:
                yield rest[at : found.end()]
            looked_at = others.match(rest, found.end())
            if looked_at is None:
                rest = rest[found.end() :]
                break
            at = looked_at.end()
            rows = csv.reader(io.StringIO(looked_at[0].decode("utf-8", "replace"), newline=""), strict=True)
            cells: Iterator[list[Cell]] = (
                [*map(number_or_text, row[:texts]), *map(Decimal, row[texts:])] for row in rows
            )
            yield _lines(cells, quotes_texts=True)
    assert not rest, "the last line has an end"


def _lines(rows: Iterable[Iterable[Cell]], quotes_texts: bool) -> bytes:
    file = io.StringIO(newline="")
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if quotes_texts else csv.QUOTE_MINIMAL
    writer = csv.writer(file, lineterminator="\r\n", quoting=quoting)
    writer.writerows(map(_written, row) for row in rows)
    return file.getvalue().encode()


def _written(cell: Cell) -> Cell:
    return harmless(cell) if isinstance(cell, str) and not isinstance(cell, Number) else cell


def as_csv(columns: Sequence[str], rows: Iterable[Iterable[Cell]]) -> str:
    """A CSV file of a header and these rows, as `csv_pieces` gives it."""
    return b"".join(csv_pieces(columns, rows)).decode()
