"""The page of the API's documents at /docs: Swagger UI, served by this process alone, so that it is whole without the
internet. FastAPI's own page loads it from a public server, and runs a script that stands in the page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from schemas.problems import Rejection

router = APIRouter(include_in_schema=False)

# Swagger UI sets styles on what it draws, and has its icons in the style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Meterline API</title>
<link rel="icon" href="./docs/favicon-32x32.png">
<link rel="stylesheet" href="./docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="./docs/swagger-ui-bundle.js"></script>
<script src="./docs/start.js"></script>
</html>
"""
# No badge: it would ask a public server whether the document is valid.
_START = b"""SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
"""
_TYPES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon-32x32.png": "image/png"}
_KEPT = {"cache-control": "public, max-age=3600", "x-content-type-options": "nosniff"}


@router.get("/docs")
async def docs() -> Response:
    """Show the API's documents."""
    return Response(_PAGE, media_type="text/html", headers={"content-security-policy": _POLICY, **_KEPT})


@router.get("/docs/{name}")
async def docs_file(name: Annotated[str, Path(max_length=64)]) -> Response:
    """Give a file of the page."""
    content, media_type = _files().get(name, (None, ""))
    if content is None:
        raise Rejection("not_found", f"This page has no file {name!r}")
    return Response(content, media_type=media_type, headers=_KEPT)


@cache
def _files() -> Mapping[str, tuple[bytes, str]]:
    folder = files("fastapi_swagger") / "resources"
    found = {name: ((folder / name).read_bytes(), media_type) for name, media_type in _TYPES.items()}
    return found | {"start.js": (_START, "text/javascript")}
