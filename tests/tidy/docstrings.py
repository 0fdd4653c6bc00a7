"""Docstrings name their subject, and each package says in its `__init__.py` what it is for."""

from __future__ import annotations

import ast
import re

from tests.tidy.sources import Source

# A docstring that opens with one of these leaves its reader to look for its subject.
_PRONOUNS = """
    It Its They Their Them This That These Those He She We Our You Your I Who Whose Whom What Whatever Which Where When
    As None Both Such Same Other Others Another
"""
REFUSED = frozenset(_PRONOUNS.split())
# These may open a docstring before a noun, as in "Every account of a partition"; never before one of those below.
COUNTING = frozenset(("One", "All", "Each", "Every", "Any", "Some"))
_NO_NOUNS = """
    of that who whom whose which what is are was were has have had can may will must one ones once other others it they
    them in on at by to from for with and or as if when where while after before but not so
"""
NO_NOUNS = frozenset(_NO_NOUNS.split())
PACKAGE_LINES_MAX = 3

_WORD = re.compile(r"[A-Za-z]+")


def opens_with_pronoun(docstring: str) -> bool:
    """Whether a docstring's first words name nothing."""
    first = _WORD.match(docstring)
    if first is None or first[0] not in REFUSED | COUNTING:
        return False
    if first[0] in REFUSED:
        return True
    rest = docstring[first.end() :]
    if not rest[:1].isspace():
        return True
    # A figure or a `name` in backticks is as good as a noun.
    second = _WORD.match(rest.lstrip())
    return second is not None and second[0].lower() in NO_NOUNS


def pronouns(files: list[Source]) -> list[str]:
    """The docstrings that open with a pronoun."""
    return [
        f'{file.path}:{getattr(node, "lineno", 1)} opens with a pronoun: "{docstring.splitlines()[0]}"'
        for file in files
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (docstring := ast.get_docstring(node)) is not None
        and opens_with_pronoun(docstring)
    ]


def silent_packages(files: list[Source]) -> list[str]:
    """The packages that do not say in one to three lines what they are for; and folders that are no package."""
    packages = {file.module: file for file in files if file.is_package}
    folders = {file.module.rpartition(".")[0] for file in files if not file.is_package}
    complaints = [f"{each.replace('.', '/')}/__init__.py is missing" for each in sorted(folders - {"", *packages})]
    for file in packages.values():
        lines = len((ast.get_docstring(file.tree) or "").splitlines())
        if not 1 <= lines <= PACKAGE_LINES_MAX:
            complaints.append(f"{file.path} has a docstring of {lines} lines; of 1 to {PACKAGE_LINES_MAX} it should be")
    return complaints
