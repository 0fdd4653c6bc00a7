"""Projects for admins: finding one, opening one, and one with its state and the acts there are for it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.acts import OPEN_PROJECT, PROJECT, project_act
from api.dashboard.asking import ApiAnswer, api_path
from api.dashboard.doing import ActPage, answer_facts
from api.dashboard.figures import instant
from api.dashboard.view import AdminViewDep, PageRoute
from api.dashboard.views.acts import acts_offered

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_PAGE = 50
# What was refused would hide what was done.
_LOOKED_AT = 200
_FILTERS = ("search", "plan", "state", "balance_below")


@router.get("/projects")
async def projects(view: AdminViewDep) -> Response:
    """List the projects that the page's filters fit, a page at a time."""
    asked = {name: view.query.get(name) for name in (*_FILTERS, "cursor")}
    found = await view.get("/v1/admin/projects", limit=_PAGE, **asked)
    if found.problem is not None and found.problem.status not in (400, 422):
        return view.error(found.problem)
    return view.page(
        "projects.html",
        status=found.status,
        found=found.data or {"projects": [], "next_cursor": None},
        problem=found.problem,
        is_filtered=any(asked[name] for name in _FILTERS),
        may_open=view.may(OPEN_PROJECT.operation),
    )


@router.get("/new-project")
async def new_project(view: AdminViewDep) -> Response:
    """Show the form for a new project."""
    return await _new_project_page(view).form()


@router.post("/new-project")
async def open_project(view: AdminViewDep) -> Response:
    """Open a project, and make its first key, which this page alone shows."""
    given, page = await view.form(), _new_project_page(view)
    opened = await page.done(given)
    if not isinstance(opened, ApiAnswer):
        return opened
    project: str = opened.data["project"]
    key = await view.call("POST", api_path(f"{PROJECT}/keys", project=project), {}, f"{given['idempotency_key']} key")
    return view.page("project_opened.html", project=opened.data, key=key.data, problem=key.problem)


@router.get("/projects/{project}")
async def project_page(view: AdminViewDep, project: str) -> Response:
    """Show a project: what it has, what holds for it, and what can be done."""
    here = api_path(PROJECT, project=project)
    info, balance, preview, limits, recharge, items, rules = await asyncio.gather(
        view.get(here),
        view.get("/v1/balance", environment="production", limit=1),
        view.get("/v1/balance", environment="preview", limit=1),
        view.get(f"{here}/limits"),
        view.get(f"{here}/auto-recharge"),
        view.get("/v1/items"),
        view.get("/v1/notice-rules"),
    )
    for each in (info, balance, preview, limits, recharge, items, rules):
        if each.problem is not None:
            return view.error(each.problem)
    done = project_act(view.query.get("done", ""))
    page = api_path("/dashboard/projects/{project}", project=project)
    return view.page(
        "project.html",
        parts=await view.parts(keys=f"{page}/parts/keys", past=f"{page}/parts/past"),
        info=info.data,
        balance=balance.data,
        preview=preview.data,
        limits=limits.data,
        recharge=recharge.data,
        items=items.data["items"],
        rules=rules.data["rules"],
        groups=acts_offered(view, info.data),
        done=done,
        as_of=instant(balance.data["as_of"]),
        lag_ms=balance.data["lag_ms"],
    )


@router.get("/projects/{project}/parts/keys")
async def project_keys(view: AdminViewDep, project: str) -> Response:
    """Give the part of the page with a project's keys, each with its last use."""
    keys = await view.get(api_path(f"{PROJECT}/keys", project=project))
    if keys.problem is not None:
        return view.error(keys.problem)
    return view.fragment("partials/project_keys.html", keys=keys.data["keys"])


@router.get("/projects/{project}/parts/past")
async def project_past(view: AdminViewDep, project: str) -> Response:
    """Give the part of the page with what happened last: notices, and what was done, without requests."""
    notices, audit = await asyncio.gather(view.get("/v1/notices", limit=8), view.get("/v1/audit", limit=_LOOKED_AT))
    return view.fragment(
        "partials/project_past.html",
        notices=_rows(notices, "notices"),
        notices_problem=notices.problem,
        audit=[each for each in _rows(audit, "entries") if not each["action"].startswith("request.")][:12],
        audit_problem=audit.problem,
    )


@router.get("/projects/{project}/erasures/{entry_id}")
async def erasure(view: AdminViewDep, project: str, entry_id: str) -> Response:
    """Show how far an erasure is; the page asks again while it goes on."""
    path = api_path(f"{PROJECT}/erasures/{{entry_id}}", project=project, entry_id=entry_id)
    progress = await view.get(path)
    if progress.problem is not None:
        return view.error(progress.problem)
    is_part = "hx-request" in view.request.headers
    return view.page(
        "partials/erasure.html" if is_part else "erasure.html",
        progress=progress.data,
        facts=answer_facts(progress.data),
    )


def _rows(answer: ApiAnswer, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = answer.data[name] if answer else []
    return rows


def _new_project_page(view: AdminViewDep) -> ActPage:
    return ActPage(view, OPEN_PROJECT, {}, "/dashboard/projects", "Projects")
