"""Acts about one project: the form of each, what it would change, and doing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.acts import PROJECT_ACTS, Act, operations_of, project_act
from api.dashboard.asking import ApiAnswer
from api.dashboard.doing import ActPage
from api.dashboard.view import AdminViewDep, PageRoute, View
from schemas.problems import Rejection

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_PATH = "/projects/{project}/acts/{name}"


@router.get(_PATH)
async def act_form(view: AdminViewDep, project: str, name: str) -> Response:
    """Show the form of an act about a project."""
    return await _act_page(view, project, name).form()


@router.post(_PATH)
async def do_act(view: AdminViewDep, project: str, name: str) -> Response:
    """Show what an act would change, or do it; a secret in its answer is in this page alone."""
    page = _act_page(view, project, name)
    answer = await page.done(await view.form())
    if not isinstance(answer, ApiAnswer):
        return answer
    if entry_id := name == "erasure" and answer.data["entry_id"]:
        return view.led_to(f"{page.back}/erasures/{entry_id}")
    return page.answered(answer) if page.act.has_answer else page.led_back()


def acts_offered(view: View, project: Mapping[str, Any]) -> list[tuple[str, list[Act]]]:
    """The acts that this reader may do about a project as it is now, by group, in order."""
    operations, groups = operations_of(view.request.app), dict[str, list[Act]]()
    for act in PROJECT_ACTS:
        if act.operation in operations and view.may(act.operation) and act.is_offered(project):
            groups.setdefault(act.group, []).append(act)
    return list(groups.items())


def _act_page(view: View, project: str, name: str) -> ActPage:
    act = project_act(name)
    if act is None:
        raise Rejection("not_found", f"There is no act {name[:64]!r}")
    return ActPage(view, act, {"project": project}, f"/dashboard/projects/{project}", project)
