"""Pages: the templates, what all of them share, and the headers under which a browser shows them."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from api.dashboard import figures
from api.dashboard.static_files import static_path

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # A form says where it came from, to us; nobody else hears of a page's address.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "cache-control": "no-store",
}
_COMPRESSED_BYTES_MIN = 1024


def html(request: Request, text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with HTML, compressed where the browser takes that."""
    content, more = text.encode(), {"vary": "accept-encoding"}
    if len(content) >= _COMPRESSED_BYTES_MIN and "gzip" in request.headers.get("accept-encoding", ""):
        content, more = gzip.compress(content, 5), more | {"content-encoding": "gzip"}
    return Response(content, status, HEADERS | more | dict(headers or {}), media_type="text/html; charset=utf-8")


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """A template with its context; what it writes is escaped."""
    return templates().get_template(template).render(context)


@cache
def templates() -> Environment:
    """The templates, with the filters and functions that they use."""
    made = Environment(
        loader=PackageLoader("api.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "figure": figures.figure,
        "signed": figures.signed_figure,
        "dollars": figures.dollars,
        "words": figures.in_words,
        "instant": figures.instant,
        "field_type": figures.field_type,
    }
    made.globals |= {
        "static": static_path,
        "share": figures.share,
        "credits_sum": figures.credits_sum,
        "now": time.time,
    }
    return made
