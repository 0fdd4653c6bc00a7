"""Modules: each is imported by another or is an entry point, and stands in its room; no two classes share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from tests.tidy.sources import PRODUCT, Source

# What every process needs is a file of `streams/` itself; all else is in a package.
FILES_OF_STREAMS = frozenset(
    {
        "__init__",
        "settings",
        "errors",
        "logs",
        "collector",
        "open_files",
        "slices",
        "space",
        "http_answers",
        "limit_headers",
    }
)

# Modules that run without being imported, each with how.
ENTRY_POINTS: Mapping[str, str] = {
    "api.cli.__main__": "python -m api.cli",
    "api.openapi_document": "python -m api.openapi_document writes the committed document anew",
    "api.client_distribution": "python -m api.client_distribution builds the distribution meterline-client",
}


def dead_modules(files: list[Source], entry_points: frozenset[str]) -> list[str]:
    """The modules that nobody imports. A module of the product is not alive by its tests; `entry_points` are alive."""
    imported_by: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for name in _imported(file):
            imported_by[name].add(file.module)
    complaints = []
    for file in files:
        name = PurePosixPath(file.path).name
        if file.is_package or file.module in entry_points or name.startswith("test_") or name == "conftest.py":
            continue
        of_product = file.path.split("/")[0] in PRODUCT
        importers = {
            each for each in imported_by[file.module] if each != file.module and not (of_product and _is_test(each))
        }
        if not importers:
            complaints.append(f"{file.path} is imported by nobody" + (" but tests" if imported_by[file.module] else ""))
    return complaints


def strays(files: list[Source]) -> list[str]:
    """The files of `streams/` that should be in one of its packages."""
    return [
        f"{file.path} is outside the packages of streams/; only {', '.join(sorted(FILES_OF_STREAMS))} may be"
        for file in files
        if file.path.count("/") == 1
        and file.path.startswith("streams/")
        and PurePosixPath(file.path).stem not in FILES_OF_STREAMS
    ]


def shared_class_names(files: list[Source]) -> list[str]:
    """The class names that stand for two things."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file.path}:{node.lineno}")
    return [f"{name} is in {' and '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]


def _is_test(module: str) -> bool:
    return module.startswith("tests.") and not module.startswith("tests.benchmarks.")


def _imported(file: Source) -> set[str]:
    """The modules that a file imports, as far as their names say; `from package import module` is both."""
    found = set()
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return found
