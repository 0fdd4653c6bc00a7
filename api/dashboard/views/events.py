"""The event explorer: what became of the event of one source and id."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.asking import api_path
from api.dashboard.view import AdminViewDep, PageRoute

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/events")
async def events(view: AdminViewDep) -> Response:
    """Show what became of an event, by its source and id, which may have any characters."""
    source, id = view.query.get("source", ""), view.query.get("id", "")
    if not source or not id:
        return view.page("events.html", report=None, problem=None)
    found = await view.get(api_path("/v1/events/{source}/{id}", source=source, id=id))
    return view.page("events.html", status=found.status, report=found.data, problem=found.problem)
