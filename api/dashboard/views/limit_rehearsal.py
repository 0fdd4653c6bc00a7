"""The rehearsal of limits: what other limits would have done to the recorded requests, with its progress."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.form_fields import FormField, body_of, fields_of
from api.dashboard.rehearsing import rehearsed
from api.dashboard.view import AdminViewDep, PageRoute
from schemas.http.rehearsals import NewLimitRehearsal

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/limit-rehearsal")
async def limit_rehearsal(view: AdminViewDep) -> Response:
    """Show the form for a rehearsal; where the address has one, the page runs it."""
    fields = _fields()
    is_asked = any(view.query.get(each.name) for each in fields if each.name not in ("days", "with_events", "plan"))
    shown = {each.name: view.query.get(each.name, "" if is_asked else each.default) for each in fields}
    return view.page(
        "limit_rehearsal.html",
        fields=fields,
        shown=shown,
        is_asked=is_asked,
        wrong_field="",
        zone=view.session.zone,
        here=view.url("/dashboard/limit-rehearsal/run", **{each.name: view.query.get(each.name) for each in fields}),
    )


@router.get("/limit-rehearsal/run")
async def run(view: AdminViewDep) -> Response:
    """Run the rehearsal that the address names: a stream of fragments, its progress and at last its result."""
    asked = body_of(_fields(), view.query, view.session.tz) | {"worst_max": 50}
    return await rehearsed(view, "/v1/admin/rehearsals/limits", asked, "partials/limit_rehearsal.html")


def _fields() -> list[FormField]:
    hidden = ("worst_max",)
    return [each for each in fields_of(NewLimitRehearsal.model_json_schema()) if each.name not in hidden]
