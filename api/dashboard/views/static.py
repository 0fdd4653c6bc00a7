"""The files of the pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from api.dashboard.static_files import static_files, version
from schemas.problems import Rejection

router = APIRouter(include_in_schema=False)
_KEPT = "public, max-age=31536000, immutable"


@router.get("/static/{asked}/{name:path}")
async def static_file(
    request: Request,
    asked: Annotated[str, Path(max_length=32)],
    name: Annotated[str, Path(max_length=100)],
) -> Response:
    """Give a file, to be kept for as long as its address is named."""
    file = static_files().get(name)
    if file is None:
        raise Rejection("not_found", f"The dashboard has no file {name!r}")
    headers = {
        "cache-control": _KEPT if asked == version() else "no-cache",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
        "vary": "accept-encoding",
    }
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = file.compressed, "gzip"
    return Response(content, headers=headers, media_type=file.media_type)
