"""The client as a distribution of its own, `meterline-client`: what `streams.client` needs, as one package `meterline`.

`python -m api.client_distribution --out dist` builds its wheel and its source distribution. docs/decisions/0056 has the
reasons. The modules stay where they are in this repository; here they are copied under `meterline._inside`, and each
import of another one is rewritten.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from streams.client import __all__ as PUBLIC
from streams.errors import OperatorError
from streams.settings import PROJECT_ROOT

FACE = "streams.client"
OURS = ("streams", "schemas")
INSIDE = "meterline._inside"
# Whoever installs the client gets these, and with an extra those of the extra: nothing else may be imported.
REQUIRED = ("httpx", "msgspec")
# aiokafka packs records by zstd through cramjam, which it does not require.
EXTRAS = {"kafka": ["aiokafka>=0.14,<0.15", "cramjam>=2.11"], "gateway": ["starlette>=0.40"]}
OPTIONAL = ("aiokafka", "starlette")

_FACE_TEXT = '''"""Meterline's client: admissions, producers and a gateway for a service of yours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from {inside}.streams import client as _client

if TYPE_CHECKING:
    from {inside}.streams.client import (
{imports}
    )

__version__ = "{version}"
__all__ = [
{names}
]


def __getattr__(name: str) -> object:
    return getattr(_client, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
'''
_README = """# meterline-client

What a service needs to work with Meterline: it asks before a request runs, sends what was used, or lets a gateway do
both.

    from meterline import HttpAdmissions

    async with HttpAdmissions("https://meterline.example", key) as admissions:
        decision = await admissions.admit("acme", "image", id="req-42", source="/shop")
        if decision.allowed: ...

`verify_webhook` says whether a webhook is Meterline's, and what it tells.

`meterline-client[kafka]` has KafkaAdmissions and KafkaProducer, `meterline-client[gateway]` the ASGI middleware
Gateway. Version {version} is of the same release as the server's {version}.
"""


class DistributionError(OperatorError):
    """An error in what the client would be made of; the message says which module, and what to do."""


def closure(face: str = FACE) -> dict[str, Path]:
    """The modules that a module of ours imports, directly or not, itself among them, each with its file."""
    found: dict[str, Path] = {}
    waiting = [face]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _file_of(name)
        named = [each for each in _imported(found[name]) if each.partition(".")[0] in OURS and _exists(each)]
        waiting += [parent for each in [name, *named] for parent in _with_parents(each)]
    return dict(sorted(found.items()))


def foreign(modules: dict[str, Path]) -> dict[str, set[str]]:
    """The packages that these modules import and that are neither ours nor Python's, each with who imports it."""
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        for each in _imported(path):
            top = each.partition(".")[0]
            if top not in OURS and top not in sys.stdlib_module_names:
                found.setdefault(top, set()).add(name)
    return found


def rewritten(source: str) -> str:
    """A module's text with each `from streams… import` and `from schemas… import` of the copies. Raises
    DistributionError for `import streams…`, which would bind another name."""
    lines = source.encode().splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(each.name.partition(".")[0] in OURS for each in node.names):
            raise DistributionError(f"line {node.lineno}: write it as `from … import`, which can be rewritten")
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
            line, start = lines[node.lineno - 1], node.col_offset + len(b"from ")
            lines[node.lineno - 1] = line[:start] + f"{INSIDE}.".encode() + line[start:]
    return b"".join(lines).decode()


def write_project(directory: Path) -> None:
    """Write the distribution's project, ready to be built. Raises DistributionError."""
    modules = closure()
    for package, importers in foreign(modules).items():
        if package not in REQUIRED and package not in OPTIONAL:
            raise DistributionError(f"{min(importers)} imports {package}, which users of the client do not have")
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    _write(directory / "meterline/_inside/__init__.py", '"""The modules of the client. Import from `meterline`."""\n')
    for path in modules.values():
        text = rewritten(path.read_text(encoding="utf-8"))
        _write(directory / "meterline/_inside" / path.relative_to(PROJECT_ROOT), text)
    face = _FACE_TEXT.format(
        inside=INSIDE,
        version=project["version"],
        imports="\n".join(f"        {name} as {name}," for name in PUBLIC),
        names="\n".join(f'    "{name}",' for name in PUBLIC),
    )
    _write(directory / "meterline/__init__.py", face)
    _write(directory / "meterline/py.typed", "")
    _write(directory / "README.md", _README.format(version=project["version"]))
    shutil.copyfile(PROJECT_ROOT / "LICENSE", directory / "LICENSE")
    _write(directory / "pyproject.toml", _pyproject(project))


def build(out: Path) -> list[Path]:
    """Build the wheel and the source distribution into a directory; gives their paths. The same source gives the same
    bytes. Raises DistributionError."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_project(Path(scratch) / "project")
        made = Path(scratch) / "dist"
        command = ["uv", "build", "--quiet", "--no-config", "--out-dir", str(made), str(Path(scratch) / "project")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DistributionError(f"uv could not build the client: {done.stderr.strip()}")
        return [Path(shutil.copy(each, out)) for each in sorted(made.iterdir()) if each.suffix in (".whl", ".gz")]


def _pyproject(project: dict[str, object]) -> str:
    dependencies = project["dependencies"]
    assert isinstance(dependencies, list)
    required = [each for each in dependencies if each.split(">")[0] in REQUIRED]
    extras = "\n".join(f"{name} = {json.dumps(needed)}" for name, needed in EXTRAS.items())
    return f"""[project]
name = "meterline-client"
version = "{project["version"]}"
description = "The client of Meterline: admissions, producers and a gateway for a service of yours."
readme = "README.md"
requires-python = "{project["requires-python"]}"
license = "{project["license"]}"
license-files = ["LICENSE"]
dependencies = {json.dumps(required)}

[project.optional-dependencies]
{extras}

[build-system]
requires = ["uv_build>=0.9,<1"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-root = ""
module-name = "meterline"
"""


def _imported(path: Path) -> Iterator[str]:
    """The names that a module imports; of `from a import b` both a and a.b, which may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _file_of(name: str) -> Path:
    path = PROJECT_ROOT / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(name: str) -> bool:
    return _file_of(name).exists()


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Build the distribution, and print the paths of what was made."""
    parser = argparse.ArgumentParser(prog="python -m api.client_distribution", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("dist"), help="the directory to build into")
    try:
        for path in build(parser.parse_args().out):
            print(path)
    except OperatorError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
