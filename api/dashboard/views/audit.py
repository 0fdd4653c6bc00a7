"""The audit log for admins: what was done and refused, and what keys were used for."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.form_fields import instant_text
from api.dashboard.view import AdminViewDep, PageRoute, View
from schemas.http.audit import AuditKind

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_PAGE = 50


@router.get("/audit")
async def audit(view: AdminViewDep) -> Response:
    """List what was done and refused, in one project or in all, the newest first."""
    return await _page(view, "/v1/audit", "audit.html", {"kind": view.query.get("kind")})


@router.get("/audit/keys")
async def key_uses(view: AdminViewDep) -> Response:
    """List what keys were used for, by the hour."""
    return await _page(view, "/v1/audit/keys", "audit_keys.html", {})


async def _page(view: View, path: str, template: str, more: dict[str, Any]) -> Response:
    times = {name: instant_text(view.query.get(name, ""), view.session.tz) for name in ("from", "to")}
    asked = {"project": view.project, **times, **more}
    if view.query.get("format") == "csv":
        return view.passed_on(path, "text/csv", **asked, format="csv")
    found = await view.get(path, limit=_PAGE, cursor=view.query.get("cursor"), **asked)
    return view.page(
        template,
        status=found.status,
        found=found.data,
        problem=found.problem,
        kinds=get_args(AuditKind),
    )
