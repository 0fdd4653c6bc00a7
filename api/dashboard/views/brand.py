"""The logo of the brand, from our own origin."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dashboard.brand import LOGO_PATH, Brand
from schemas.problems import Rejection

router = APIRouter(include_in_schema=False)
# Its address changes with it.
_HEADERS = {
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'",
}


@router.get(f"{LOGO_PATH.removeprefix('/dashboard')}/{{name}}")
async def logo(request: Request, name: str) -> Response:
    """Give the logo."""
    brand: Brand = request.app.state.brand
    if not brand.logo or not brand.mark.endswith(f"/{name}"):
        raise Rejection("not_found", "There is no such logo")
    return Response(brand.logo, headers=_HEADERS, media_type=brand.media_type)
