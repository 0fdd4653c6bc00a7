"""Alerts: at which thresholds a project is told, what it was told, and where that is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dashboard.asking import ShownProblem, api_path
from api.dashboard.forms import PAGE_ROWS, Fields, done_of, key_of, led_to, new_key, plain_number
from api.dashboard.spans import midnight
from api.dashboard.view import PageRoute, ProjectViewDep, View
from schemas.commands import RULES_MAX
from schemas.notices import NOTICE_TYPES
from schemas.problems import Rejection

router = APIRouter(prefix="/alerts", include_in_schema=False, route_class=PageRoute)

_HERE: Final = "/dashboard/alerts"
_DONE: Final = {
    "added": "The threshold was added.",
    "removed": "The threshold was removed.",
    "tested": "A test notice is on its way. The endpoint's own page shows whether it was taken.",
}
LISTED_TYPES: Final = {name: says for name, says in NOTICE_TYPES.items() if name != "webhook.test"}


@router.get("")
async def alerts(view: ProjectViewDep) -> Response:
    """Show the thresholds of an environment, the notices so far, and the endpoints that hear of them."""
    return await _alerts(view)


@router.get("/notices")
async def notices(
    view: ProjectViewDep,
    type: Annotated[str, Query(max_length=64)] = "",
    since: Annotated[str, Query(alias="from", max_length=10)] = "",
    until: Annotated[str, Query(alias="to", max_length=10)] = "",
    cursor: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Answer with the part of the page that lists the notices so far, a page at a time."""
    bounds = {"from": _day(view, since, "from"), "to": _day(view, until, "to")}
    asked = await view.get(
        "/v1/notices", environment=view.environment, type=type, limit=PAGE_ROWS, cursor=cursor, **bounds
    )
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.fragment(
        "partials/alerts_notices.html",
        notices=asked.data["notices"],
        next_cursor=asked.data["next_cursor"],
        is_filtered=bool(type or since or until),
        said=said_of,
        types=NOTICE_TYPES,
    )


@router.post("/rules")
async def set_rules(view: ProjectViewDep) -> Response:
    """Add a threshold, or remove one; the others stay."""
    fields = await view.form()
    known = await view.get("/v1/notice-rules", environment=view.environment)
    if known.problem is not None:
        return await _alerts(view, fields, known.problem)
    own = [each for each in known.data["rules"] if not each["is_default"]]
    if removed := fields.get("remove", ""):
        rules, done = [_rule(each) for each in own if each["id"] != removed], "removed"
    else:
        rules, done = [_rule(each) for each in own], "added"
        amount = plain_number(fields.get("amount", "")).removesuffix("%")
        if fields.get("unit") == "percent":
            if not (amount.isascii() and amount.isdecimal() and len(amount) <= 3 and 1 <= int(amount) <= 100):
                wrong = ShownProblem(422, "invalid_request", "No such percentage", "Give whole percent, 1 to 100.")
                return await _alerts(view, fields, wrong)
            rules.append({"percent": int(amount)})
        else:
            rules.append({"credits": amount})
    body = {"environment": view.environment, "rules": rules}
    answer = await view.call("PUT", "/v1/notice-rules", body, key_of(fields))
    if answer.problem is not None:
        return await _alerts(view, fields, answer.problem)
    return led_to(view, _HERE, done=done)


@router.post("/test")
async def test(view: ProjectViewDep) -> Response:
    """Send a test notice to one endpoint."""
    fields = await view.form()
    path = api_path("/v1/webhook-endpoints/{endpoint_id}/test", endpoint_id=fields.get("endpoint", "") or "-")
    answer = await view.call("POST", path, None, key_of(fields))
    if answer.problem is not None:
        return await _alerts(view, fields, answer.problem)
    return led_to(view, _HERE, done="tested")


async def _alerts(view: View, fields: Mapping[str, str] | None = None, wrong: ShownProblem | None = None) -> Response:
    rules, balance, endpoints = await asyncio.gather(
        view.get("/v1/notice-rules", environment=view.environment),
        view.get("/v1/balance", environment=view.environment),
        view.get("/v1/webhook-endpoints"),
    )
    if rules.problem is not None:
        return view.error(rules.problem)
    shown = rules.data["rules"]
    armed = [each for each in shown if not each["is_crossed"]]
    filters = {name: view.query.get(name, "") for name in ("type", "from", "to")}
    notices = view.url(f"{_HERE}/notices", cursor=view.query.get("cursor"), **filters)
    return view.page(
        "alerts.html",
        status=wrong.status if wrong is not None else 200,
        rules=shown,
        next_rule=armed[0] if armed else None,
        own_count=sum(not each["is_default"] for each in shown),
        own_max=RULES_MAX,
        balance=balance.data,
        as_of=balance.data["as_of"] if balance else None,
        lag_ms=balance.data["lag_ms"] if balance else None,
        endpoints=[_with_heard(each, view.environment) for each in endpoints.data["endpoints"]] if endpoints else [],
        endpoints_problem=endpoints.problem,
        types=LISTED_TYPES,
        filters=filters,
        parts=await view.parts(notices=notices),
        fields=Fields(fields or {}),
        wrong=wrong,
        new_key=new_key,
        done=done_of(view, _DONE),
    )


def said_of(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The (name, kind, value) triples that a notice's data tells; a kind is figure, dollars, time or text."""
    told = []
    for name, value in data.items():
        text = str(value)
        if name == "cents":
            told.append(("paid", "dollars", text))
            continue
        kind = "time" if name.endswith("_at") else "figure" if _is_figure(text) and name != "price_version" else "text"
        told.append((name.replace("_", " "), kind, text))
    return told


def _is_figure(text: str) -> bool:
    whole, _, fraction = text.removeprefix("-").partition(".")
    return whole.isdecimal() and (not fraction or fraction.isdecimal())


def _rule(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"credits": info["threshold"]} if info["percent"] is None else {"percent": info["percent"]}


def _with_heard(endpoint: dict[str, Any], environment: str) -> dict[str, Any]:
    """An endpoint, with whether it hears of crossings in an environment."""
    is_in = not endpoint["environments"] or environment in endpoint["environments"]
    names = {"*", "project.*", "project.credits_low"}
    return endpoint | {"hears": is_in and bool(names & set(endpoint["event_types"]))}


def _day(view: View, text: str, field: str) -> str | None:
    """The begin of a day in the reader's zone, or the end of the day that `to` names; None where no day is given.
    Raises Rejection."""
    if not text:
        return None
    begin = midnight(text, field, view.session.tz)
    if begin == text:
        raise Rejection("invalid_request", f"`{field}` is a day, such as 2026-03-01", field)
    return begin
