"""Dead letters for admins: those there are, by code, producer, project and time, and one with its text."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.asking import api_path
from api.dashboard.form_fields import instant_text
from api.dashboard.view import AdminViewDep, PageRoute
from schemas.problems import CODES

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_PAGE = 50
# A letter may name a project that there can't be, so its filter is no `project` that the page would be about.
_FILTERS: Final = {"code": "code", "source": "source", "subject": "project"}


@router.get("/dead-letters")
async def dead_letters(view: AdminViewDep) -> Response:
    """List dead letters, the newest first."""
    asked = {asked: view.query.get(name) or None for name, asked in _FILTERS.items()}
    times = {name: instant_text(view.query.get(name, ""), view.session.tz) for name in ("from", "to")}
    found = await view.get("/v1/admin/dead-letters", limit=_PAGE, cursor=view.query.get("cursor"), **asked, **times)
    return view.page(
        "dead_letters.html",
        status=found.status,
        found=found.data,
        problem=found.problem,
        is_filtered=any(view.query.get(name) for name in (*_FILTERS, "from", "to")),
        codes=sorted(CODES),
    )


@router.get("/dead-letters/{dead_letter_id}")
async def dead_letter(view: AdminViewDep, dead_letter_id: str) -> Response:
    """Show one dead letter, with as much of its text as is kept."""
    found = await view.get(api_path("/v1/admin/dead-letters/{id}", id=dead_letter_id))
    if found.problem is not None:
        return view.error(found.problem)
    return view.page("dead_letter.html", letter=found.data)
