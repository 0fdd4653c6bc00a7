"""Files of the pages: style sheets and scripts, ours and vendored ones, under an address that changes with them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

PREFIX = "/dashboard/static"
# All of them in one file, so that none is ever in force without the others: of Pico alone a page would ask for images
# that the policy refuses. Pico is the ground: what we say ourselves, in no layer, counts for more.
SHEET = "sheet.css"
_SHEET_PARTS = ("tokens.css", "vendor/pico.min.css", "meterline.css")
_LAYERS = {"vendor/pico.min.css": "pico"}
# In one file too: htmx looks over the page right after its own script, and of what comes later it would not know that
# a ledger is live, nor we that it is connected.
SCRIPT = "script.js"
_SCRIPT_PARTS = ("vendor/htmx.min.js", "vendor/hx-sse.min.js", "meterline.js", "ledger.js", "lines.js")
MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file: its content, the same compressed, and its media type."""

    content: bytes
    compressed: bytes
    media_type: str


@cache
def static_files() -> Mapping[str, StaticFile]:
    """The files by their names, as in "vendor/uPlot.min.css"; only those of known types are there for a browser."""
    found = {}
    for name, file in _walk(files("api.dashboard") / "static", ""):
        media_type = MEDIA_TYPES.get(f".{name.rpartition('.')[2]}")
        if media_type is not None:
            found[name] = _static_file(file.read_bytes(), media_type)
    sheet = b"\n".join(_in_its_layer(name, found.pop(name).content) for name in _SHEET_PARTS)
    found[SHEET] = _static_file(sheet, MEDIA_TYPES[".css"])
    script = b"\n;".join(found.pop(name).content for name in _SCRIPT_PARTS)
    found[SCRIPT] = _static_file(script, MEDIA_TYPES[".js"])
    return found


@cache
def version() -> str:
    """The version of all files together, by their contents: a browser keeps each for as long as it has this."""
    digest = sha256()
    for name, file in sorted(static_files().items()):
        digest.update(name.encode() + b"\0" + sha256(file.content).digest())
    return digest.hexdigest()[:12]


def static_path(name: str) -> str:
    """The path of a file, for a page. Raises KeyError where there is none of this name."""
    static_files()[name]
    return f"{PREFIX}/{version()}/{name}"


def _static_file(content: bytes, media_type: str) -> StaticFile:
    return StaticFile(content, gzip.compress(content, 9, mtime=0), media_type)


def _in_its_layer(name: str, content: bytes) -> bytes:
    # A charset can't be told within a layer; all of a file's is told by its media type.
    content = content.removeprefix(b"\xef\xbb\xbf").removeprefix(b'@charset "UTF-8";')
    return b"@layer %b {%b}" % (_LAYERS[name].encode(), content) if name in _LAYERS else content


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _walk(each, f"{prefix}{each.name}/")
        else:
            yield prefix + each.name, each
