"""Lengths: a function fits on a screen or two, a file is read in one sitting."""

from __future__ import annotations

from tests.tidy.sources import Source, functions

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600


def long_functions(files: list[Source]) -> list[str]:
    """The functions that are too long, signature and docstring included."""
    return [
        f"{file.path}:{each.lineno} {each.name} has {lines} lines; {FUNCTION_LINES_MAX} at most"
        for file in files
        for each in functions(file.tree)
        if (lines := (each.end_lineno or 0) - each.lineno + 1) > FUNCTION_LINES_MAX
    ]


def long_files(files: list[Source]) -> list[str]:
    """The files that are too long. Data is in files of other kinds, and does not count."""
    return [
        f"{file.path} has {lines} lines; {FILE_LINES_MAX} at most"
        for file in files
        if (lines := len(file.text.splitlines())) > FILE_LINES_MAX
    ]
