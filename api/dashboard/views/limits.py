"""Limits of a project: how it stands in them now, where they come from, and what they refused in the last hour."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.figures import instant
from api.dashboard.spans import periods_in
from api.dashboard.usage_figures import usage_chart
from api.dashboard.view import PageRoute, ProjectViewDep

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_COLOURS = {"limited": 2, "refused": 4}


@router.get("/limits")
async def limits(view: ProjectViewDep) -> Response:
    """Show the limits of a project."""
    refused = view.parts(refusals=view.url("/dashboard/limits/refusals"))
    asked, me, parts = await asyncio.gather(view.get("/v1/limits"), view.get("/v1/projects/me"), refused)
    for each in (asked, me):
        if each.problem is not None:
            return view.error(each.problem)
    return view.page("limits.html", project=me.data, rows=rows_of(asked.data), parts=parts, **_standing(asked.data))


@router.get("/limits/standing")
async def standing(view: ProjectViewDep) -> Response:
    """Show how a project stands in its limits now."""
    asked = await view.get("/v1/limits")
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.fragment("partials/standing.html", limits=asked.data)


@router.get("/limits/refusals")
async def refusals(view: ProjectViewDep) -> Response:
    """Show what was limited and refused in each minute of the last hour."""
    now, zone = datetime.now(UTC), view.session.tz
    since = now.replace(second=0, microsecond=0) - timedelta(minutes=59)
    asked = [
        view.get(
            "/v1/usage", group_by="outcome", outcome=outcome, granularity="minute", tz=zone.key,
            **{"from": since.isoformat()},
        )
        for outcome in ("limited", "refused")
    ]  # fmt: skip
    found = await asyncio.gather(*asked)
    for each in found:
        if each.problem is not None:
            return view.error(each.problem)
    report = found[0].data | {"rows": [row for each in found for row in each.data["rows"]]}
    chart = usage_chart(report, periods_in("minute", since, now, zone), "uses", height=90, coloured=_COLOURS)
    return view.fragment("partials/refusals.html", usage=chart, count=sum(row["uses"] for row in report["rows"]))


def _standing(limits: Mapping[str, Any]) -> dict[str, Any]:
    now = limits["standing"]
    return {"limits": limits, "lag_ms": now["lag_ms"], "as_of": instant(now["as_of"])}


def rows_of(limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table that says where limits come from: the plan's, what is laid over them, those in force."""
    rows = [{"name": f"The {limits['plan']} plan", "limits": limits["plan_limits"], "state": ""}]
    if limits["contract"] is not None:
        rows.append({"name": "Contract", "limits": limits["contract"], "state": ""})
    rows += [
        {"name": "Raise", "limits": each, "state": "on" if each["is_on"] else "planned"} for each in limits["raises"]
    ]
    rows.append({"name": "In force now", "limits": limits["in_force"], "state": "in force"})
    if limits["shadow"] is not None:
        rows.append({"name": "On trial", "limits": limits["shadow"], "state": "refuses nothing"})
    return rows
