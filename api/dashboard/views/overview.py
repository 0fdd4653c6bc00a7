"""The overview of a project: what it has, what that is made of, and for how long it lasts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.figures import credits_sum, instant, share
from api.dashboard.view import PageRoute, ProjectViewDep, ViewDep
from api.dashboard.views.portal import customer_overview

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class BalancePart:
    """A part of a balance, as the burn-down bar shows it: its credits, its share of the bar in percent, and a note."""

    kind: str
    label: str
    credits: str
    percent: int
    note: str = ""
    ends_at: str | None = None


@router.get("")
async def overview(view: ViewDep) -> Response:
    """Show the overview of a project; an admin who has named none is led to the projects."""
    if view.project is None:
        return view.led_to("/dashboard/projects")
    if view.caller.customer is not None:
        return await customer_overview(view)
    return await _overview(view)


async def _overview(view: ProjectViewDep) -> Response:
    balance, me = await asyncio.gather(
        view.get("/v1/balance", environment=view.environment),
        view.get("/v1/projects/me"),
    )
    if balance.problem is not None:
        return view.error(balance.problem)
    return view.page(
        "overview.html",
        balance=balance.data,
        project=me.data,
        parts=parts_of(balance.data),
        lag_ms=balance.data["lag_ms"],
        as_of=instant(balance.data["as_of"]),
    )


def parts_of(balance: dict[str, Any]) -> list[BalancePart]:
    """The parts of a balance in the order in which they are spent, and what is held last."""
    allowance = balance["allowance"]
    whole = credits_sum(balance["available"], balance["held"])
    parts = []
    if allowance is not None:
        parts.append(
            ("allowance", "Allowance", allowance["remaining"], f"of {allowance['granted']}", allowance["renews_at"])
        )
    if balance["promotional_count"]:
        ends = [each["expires_at"] for each in balance["promotional"]]
        parts.append(("promotional", "Promotional", balance["promotional_remaining"], "", min(ends, default=None)))
    if balance["top_ups_count"]:
        parts.append(("topup", "Bundles", balance["top_ups_remaining"], f"{balance['top_ups_count']} · no end", None))
    parts.append(("held", "Held", balance["held"], "for jobs", None))
    return [
        BalancePart(kind, label, amount, share(amount, whole), note, ends) for kind, label, amount, note, ends in parts
    ]
