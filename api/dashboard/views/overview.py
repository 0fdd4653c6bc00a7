"""The overview of a project: what it has, what that is made of, and for how long it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dashboard.charts import shares
from api.dashboard.figures import credits_sum, instant, microcredits
from api.dashboard.spans import PRESETS, ShownPeriod, periods_in, preset_begin
from api.dashboard.usage_figures import COLOURED_MAX, usage_chart
from api.dashboard.view import PageRoute, ProjectViewDep, View, ViewDep
from api.dashboard.views.portal import customer_overview
from streams.core.booking import format_credits

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_TOP_CUSTOMERS = 5
_NEWEST_ENTRIES = 8
_SHORT_PRESETS = ("24h", "7d", "30d")
_FIRST_USE = "chat.message"

RangeQuery = Annotated[str, Query(alias="range", pattern=f"^({'|'.join(_SHORT_PRESETS)})$")]


@dataclass(frozen=True, slots=True)
class BalancePart:
    """A part of a balance, as the burn-down bar shows it: credits that can be spent, or are `held`, a note, the next
    end; `x` and `width` are its place in the bar."""

    kind: str
    label: str
    credits: str
    note: str = ""
    ends_at: str | None = None
    x: str = "0%"
    width: str = "0%"


@router.get("")
async def overview(view: ViewDep, span: RangeQuery = "7d") -> Response:
    """Show the overview of a project; an admin who has named none is led to the projects."""
    if view.project is None:
        return view.led_to("/dashboard/projects")
    if view.caller.customer is not None:
        return await customer_overview(view)
    asked = view.parts(
        operations=view.url("/dashboard/overview/operations", range=span),
        customers=view.url("/dashboard/overview/customers"),
        entries=view.url("/dashboard/ledger/rows", limit=_NEWEST_ENTRIES, brief="true"),
    )
    found, parts = await asyncio.gather(_now(view), asked)
    if isinstance(found, Response):
        return found
    presets = [(name, PRESETS[name][0]) for name in _SHORT_PRESETS]
    return view.page("overview.html", span=span, presets=presets, parts=parts, **found)


@router.get("/overview/now")
async def overview_now(view: ProjectViewDep) -> Response:
    """Show the part of the overview that is asked for again and again: how things stand now."""
    found = await _now(view)
    return found if isinstance(found, Response) else view.fragment("partials/overview_now.html", **found)


async def _now(view: View) -> dict[str, Any] | Response:
    """The state of a project, its balance and how it stands in its limits; or the answer that tells what is wrong."""
    balance, me, limits = await asyncio.gather(
        view.get("/v1/balance", environment=view.environment, limit=1000),
        view.get("/v1/projects/me"),
        view.get("/v1/limits"),
    )
    for asked in (balance, me, limits):
        if asked.problem is not None:
            return view.error(asked.problem)
    held_for = balance.data["holds_count"]
    return {
        "balance": balance.data,
        "project": me.data,
        "limits": limits.data,
        "balance_parts": parts_of(balance.data),
        "pace": pace_of(balance.data),
        "held_for": held_for,
        "lag_ms": balance.data["lag_ms"],
        "as_of": instant(balance.data["as_of"]),
    }


@router.get("/overview/operations")
async def operations(view: ProjectViewDep, span: RangeQuery = "7d") -> Response:
    """Show the credits by operation; or, where nothing was ever used, what to do first."""
    now, zone, granularity = datetime.now(UTC), view.session.tz, PRESETS[span][2]
    since = preset_begin(span, now, zone)
    report = await view.get(
        "/v1/usage",
        environment=view.environment,
        group_by="operation",
        granularity=granularity,
        tz=zone.key,
        top=COLOURED_MAX,
        **{"from": since.isoformat()},
    )
    if report.problem is not None:
        return view.error(report.problem)
    if not report.data["rows"] and await _is_unused(view):
        return view.fragment("partials/first_steps.html", operation=await _first_operation(view), base=_base(view))

    def link(period: ShownPeriod) -> str:
        finer = {"day": "hour", "hour": "15m"}[granularity]
        return view.url("/dashboard/usage", granularity=finer, **{"from": period.since, "to": period.until})

    periods = periods_in(granularity, since, now, zone)
    chart = usage_chart(report.data, periods, "credits", link)
    return view.fragment("partials/overview_operations.html", usage=chart, span=PRESETS[span][0])


@router.get("/overview/customers")
async def customers(view: ProjectViewDep) -> Response:
    """Show the customers who used most in the last 7 days."""
    since = preset_begin("7d", datetime.now(UTC), view.session.tz)
    report = await view.get(
        "/v1/usage",
        environment=view.environment,
        group_by="customer_id",
        top=_TOP_CUSTOMERS,
        **{"from": since.isoformat()},
    )
    if report.problem is not None:
        return view.error(report.problem)
    return view.fragment("partials/overview_customers.html", rows=report.data["rows"])


async def _is_unused(view: View) -> bool:
    """Whether nothing was ever charged in this environment."""
    since = datetime(1971, 1, 2, tzinfo=UTC).isoformat()
    report = await view.get("/v1/usage", environment=view.environment, group_by="operation", top=1, **{"from": since})
    return bool(report) and not report.data["rows"]


async def _first_operation(view: View) -> str:
    """The name of an operation that the price list has, for a first call."""
    prices = await view.get("/v1/prices")
    listed = prices.data["prices"] if prices else []
    names = [each["operation"] for each in listed if each["plan_required"] is None]
    return _FIRST_USE if _FIRST_USE in names or not names else names[0]


def _base(view: View) -> str:
    return str(view.request.base_url).rstrip("/")


@dataclass(frozen=True, slots=True)
class SpendingPace:
    """The pace of the last 24 hours. `lasts_seconds` None is for good; `before_renewal_seconds` is how long before the
    renewal the credits end, where they do."""

    spent: str
    lasts_seconds: float | None
    empty_at: str | None
    before_renewal_seconds: float | None
    is_empty: bool


def pace_of(balance: Mapping[str, Any]) -> SpendingPace:
    """The pace at which a balance is spent, and how far it goes."""
    is_empty = microcredits(balance["available"]) <= 0
    empty_at = balance["empty_at"]
    if empty_at is None:
        return SpendingPace(balance["spent_24h"], None, None, None, is_empty)
    at = instant(empty_at)
    early: timedelta = instant(balance["renews_at"]) - at
    return SpendingPace(
        balance["spent_24h"],
        (at - instant(balance["as_of"])).total_seconds(),
        empty_at,
        early.total_seconds() if early > timedelta(0) else None,
        is_empty,
    )


def parts_of(balance: Mapping[str, Any]) -> list[BalancePart]:
    """The parts of a balance in the order in which they are spent: what can be spent of each kind of grant, and last
    what jobs hold. They add up to what is available and held."""
    parts, allowance = [], balance["allowance"]
    if allowance is not None:
        left = _free(allowance["remaining"], allowance["held"])
        parts.append(BalancePart("allowance", "Allowance", left, allowance["granted"], allowance["renews_at"]))
    if balance["promotional_count"]:
        left = _free(balance["promotional_remaining"], balance["promotional_held"])
        listed = [each for each in balance["promotional"] if each["remaining"] != "0"]
        ends_at = listed[0]["expires_at"] if listed else None
        next_end = credits_sum(*(each["remaining"] for each in listed if each["expires_at"] == ends_at))
        note = "" if next_end == balance["promotional_remaining"] else next_end
        parts.append(BalancePart("promotional", "Promotional", left, note, ends_at))
    if balance["top_ups_count"]:
        left = _free(balance["top_ups_remaining"], balance["top_ups_held"])
        parts.append(BalancePart("topup", "Bundles", left, str(balance["top_ups_count"])))
    parts.append(BalancePart("held", "Held", balance["held"]))
    places = shares(microcredits(part.credits) for part in parts)
    return [
        BalancePart(part.kind, part.label, part.credits, part.note, part.ends_at, x, width)
        for part, (x, width) in zip(parts, places, strict=True)
    ]


def _free(remaining: str, held: str) -> str:
    return format_credits(microcredits(remaining) - microcredits(held))
