"""The state of the whole system for admins, which the page asks for again every few seconds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.view import AdminViewDep, PageRoute, View

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/system")
async def system(view: AdminViewDep) -> Response:
    """Show the state of the system."""
    state, parts = await asyncio.gather(_state(view), view.parts(endpoints="/dashboard/system/endpoints"))
    return view.page("system.html", parts=parts, **state)


@router.get("/system/now")
async def system_now(view: AdminViewDep) -> Response:
    """Give the part of the page that moves."""
    return view.fragment("partials/system.html", **await _state(view))


@router.get("/system/endpoints")
async def failing_endpoints(view: AdminViewDep) -> Response:
    """Give the part of the page with the endpoints that fail: of the platform, and those that were disabled."""
    own, done = await asyncio.gather(
        view.get("/v1/admin/webhook-endpoints"), view.get("/v1/audit", kind="endpoints", limit=500)
    )
    problem = own.problem or done.problem
    if problem is not None:
        return view.error(problem)
    disabled = [each for each in done.data["entries"] if each["action"] == "endpoint.disabled"]
    return view.fragment("partials/system_endpoints.html", own=own.data["endpoints"], disabled=disabled[:20])


async def _state(view: View) -> dict[str, Any]:
    answer = await view.get("/v1/admin/status")
    return {"told": answer.data, "problem": answer.problem, "as_of": datetime.now(UTC)}
