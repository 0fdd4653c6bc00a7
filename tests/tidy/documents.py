"""Documents agree with the code: the settings, files and tests they name exist, and their figures are the code's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.tidy.sources import EVERYWHERE, PRODUCT, Source, functions, read, sources

_SETTING = re.compile(r"METERLINE_[A-Z][A-Z_]*[A-Z]")
_READ_BY_CODE = re.compile(r'(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\(|ENV_FLAG = )"(METERLINE_[A-Z_]+)"')
_GIVEN_TO_COMPOSE = re.compile(r"\$\{(METERLINE_[A-Z_]+)")
_PATH = re.compile(r"(?<![\w/.-])(?:schemas|streams|api|tests|docs|clickhouse|\.ci)/[\w./-]*\w")
_TEST = re.compile(r"`(test_\w+)(\.py|…)?`")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# curl has it since 7.82, of 2022; systems in use have older ones.
_NEW_CURL = re.compile(r"\bcurl\b(?:[^|;\n\\]|\\\n)*--json\b")
# An image of this name is no path of ours; and what tests leave behind is not here before.
_NO_PATHS = frozenset({"clickhouse/clickhouse-server", "tests/output"})


class Figure(NamedTuple):
    """A figure that a document states: `pattern` finds it, spaces for line ends, and its groups are `values`."""

    document: str
    pattern: str
    values: tuple[str, ...]


def documents(root: Path) -> list[str]:
    """The documents of a tree. The changelog is none: what it says was true once."""
    folders = (root / folder for folder in (*EVERYWHERE, "docs", "clickhouse"))
    found = [*root.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    return sorted(path.relative_to(root).as_posix() for path in found if path.name != "CHANGELOG.md")


def unknown_settings(root: Path, known: Iterable[str]) -> list[str]:
    """The METERLINE_ names in documents, messages, compose and CI that no setting has, and no code reads.

    Settings pass over a name they do not know, so a misspelt one would be taken for a default.
    """
    files = sources(root, *EVERYWHERE)
    names = {f"METERLINE_{name.upper()}" for name in known}
    names |= {name for file in files for name in _READ_BY_CODE.findall(file.text)}
    names |= set(_GIVEN_TO_COMPOSE.findall(read(root, "docker-compose.yml")))
    where = [*documents(root), "docker-compose.yml", ".ci/run"]
    where += [file.path for file in files if file.path.split("/")[0] in PRODUCT]
    return [
        f"{path} names {name}, which is no setting"
        for path in where
        for name in sorted(set(_SETTING.findall(read(root, path))) - names)
    ]


def missing_files(root: Path) -> list[str]:
    """The paths in documents, comments and docstrings that lead nowhere; a decision may be named by its number."""
    where = [*documents(root), *(file.path for file in sources(root, *EVERYWHERE)), "pyproject.toml", ".ci/run"]
    return [
        f"{path} names {named}, which does not exist"
        for path in where
        if not path.startswith("tests/tidy/") and path != "tests/test_tidy.py"
        for named in sorted(set(_PATH.findall(read(root, path))) - _NO_PATHS)
        if not (root / named).exists() and not _is_decision(root, named)
    ]


def dead_links(root: Path) -> list[str]:
    """The links between documents whose file, or whose heading in it, is not there."""
    anchors = {name: _anchors(read(root, name)) for name in documents(root)}
    return [
        f"{name} links to {path}{'#' * bool(anchor)}{anchor}, which does not exist"
        for name in anchors
        for path, anchor in _LINK.findall(read(root, name))
        if not _leads_somewhere(root, name, path, anchor, anchors)
    ]


def _leads_somewhere(root: Path, name: str, path: str, anchor: str, anchors: dict[str, set[str]]) -> bool:
    target = (root / name).parent / path if path else root / name
    known = anchors.get(target.resolve().relative_to(root.resolve()).as_posix()) if target.exists() else None
    return target.exists() and (not anchor or (known is not None and anchor in known))


def _anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    words = (heading.lower().replace(" ", "-") for heading in _HEADING.findall(_BLOCK.sub("", text)))
    return {"".join(each for each in word if each.isalnum() or each in "-_") for word in words}


def newest_curl(root: Path) -> list[str]:
    """The documents with a `curl … --json`, which needs curl 7.82."""
    return [
        f"{name} has curl --json, which needs curl 7.82"
        for name in documents(root)
        if _NEW_CURL.search(read(root, name))
    ]


def missing_tests(root: Path, document: str) -> list[str]:
    """The tests that a document names for its promises, and that are gone; `test_a_…` is any that begins so."""
    files = sources(root, "tests")
    names = {each.name for file in files for each in functions(file.tree)}
    files_by_name = {Path(file.path).name for file in files}
    return [
        f"{document} names {name}{ending}, which does not exist"
        for name, ending in _TEST.findall(read(root, document))
        if not (
            f"{name}.py" in files_by_name
            if ending == ".py"
            else any(each.startswith(name) for each in names)
            if ending
            else name in names
        )
    ]


def wrong_figures(root: Path, figures: Iterable[Figure]) -> list[str]:
    """The figures that a document states otherwise than the code, or no longer at all."""
    return [
        f"{figure.document} says {', '.join(found) if found else 'nothing'} where the code says "
        f"{', '.join(figure.values)}: /{figure.pattern}/"
        for figure in figures
        for found in _found(root, figure)
        if found != figure.values
    ]


def _found(root: Path, figure: Figure) -> Iterator[tuple[str, ...]]:
    text = " ".join(read(root, figure.document).split())
    matches = list(re.finditer(figure.pattern, text))
    if not matches:
        yield ()
    for match in matches:
        yield match.groups()


def _is_decision(root: Path, named: str) -> bool:
    return named.startswith("docs/decisions/") and any(root.glob(f"{named}-*.md"))


def modules_of(files: list[Source], folder: str) -> list[str]:
    """The modules and packages of a folder itself, in order, as its README's table should name them."""
    parts = {file.path.removeprefix(f"{folder}/").split("/")[0] for file in files if file.path.startswith(f"{folder}/")}
    return sorted(part.removesuffix(".py") for part in parts if part != "__init__.py")


def first_column(text: str) -> list[str]:
    """The first cells of a document's first table, without their backticks and slashes, in order."""
    cells = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = cells[0].splitlines()[2:] if cells is not None else []
    return sorted(row.split("|")[1].strip().strip("`").rstrip("/") for row in rows)
