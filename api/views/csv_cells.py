"""CSV that a spreadsheet can open without running anything of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence


def harmless(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    # Full-width signs begin a formula in some locales; white space before a sign is passed over by some programs.
    begins_formula = text.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    return f"'{text}" if begins_formula or text.startswith(("\t", "\r", "\n")) else text


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Rows under a header, RFC 4180, each text made harmless."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([harmless(row[column]) for column in columns])
    return file.getvalue()
