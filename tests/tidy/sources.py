"""The Python files of a tree, read and parsed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PRODUCT = ("schemas", "streams", "api")
EVERYWHERE = (*PRODUCT, "tests")


@dataclass(frozen=True)
class Source:
    """A Python file. `path` is below the tree's root, with slashes."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """The file, parsed."""
        return parsed(self.text)

    @property
    def module(self) -> str:
        """The name that the file is imported by; of a package's `__init__.py` the package's."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_package(self) -> bool:
        """Whether the file is the `__init__.py` of a package."""
        return self.path.endswith("/__init__.py")


@lru_cache(maxsize=4096)
def parsed(text: str) -> ast.Module:
    """The syntax tree of a text. Each is parsed once, however many checks ask for it."""
    return ast.parse(text)


def sources(root: Path, *folders: str) -> list[Source]:
    """The Python files below these folders of a tree, in order."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return [Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def names_used(tree: ast.AST) -> set[str]:
    """The names that code refers to; to import a name is not to use it."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of a tree, methods and functions within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def read(root: Path, path: str) -> str:
    """The text of a file of a tree, or "" where it is missing."""
    file = root / path
    return file.read_text(encoding="utf-8") if file.is_file() else ""
