"""CSV that a spreadsheet can open without running any of its cells as a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence


def harmless(text: str) -> str:
    """The text of a cell, with an apostrophe before it where a spreadsheet would run it as a formula."""
    # Full-width signs begin a formula in some locales; white space before a sign is passed over by some programs.
    begins_formula = text.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    return f"'{text}" if begins_formula or text.startswith(("\t", "\r", "\n")) else text


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """A CSV file (RFC 4180) of a header and these rows, each cell made harmless."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([harmless(row[column]) for column in columns])
    return file.getvalue()
