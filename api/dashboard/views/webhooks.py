"""Webhooks: the endpoints that hear of a project's notices, or, where an admin names no project, of everybody's; what
became of what was sent to them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.dashboard.asking import ApiAnswer, ShownProblem, api_path
from api.dashboard.forms import Fields, done_of, key_of, led_to, new_key, next_key
from api.dashboard.view import PageRoute, View, ViewDep
from streams.core.endpoints import HEARD_OF

router = APIRouter(prefix="/webhooks", include_in_schema=False, route_class=PageRoute)

_HERE: Final = "/dashboard/webhooks"
_ATTEMPTS: Final = 25
_DONE: Final = {
    "tested": "A test notice is on its way; its attempt is listed below within seconds.",
    "replayed": "The notices are on their way again; their attempts are listed below as they are made.",
    "paused": "The endpoint is paused: notices wait until it is resumed.",
    "resumed": "The endpoint is active again. What it missed can be sent again below.",
    "changed": "The endpoint was changed.",
    "deleted": "The endpoint was deleted: nothing more is sent to it.",
}
# What a form names, without what it is called in the API.
_UNKNOWN_ACT = ShownProblem(422, "invalid_request", "Nothing was done", "The form names no act that there is.")

EndpointIdPath = Annotated[str, Path(max_length=64)]


@router.get("")
async def endpoints(view: ViewDep) -> Response:
    """Show the endpoints, and a form for another."""
    return await _endpoints(view)


@router.post("")
async def create(view: ViewDep) -> Response:
    """Make an endpoint. Its secret is shown in the answer to this very form, and nowhere else."""
    fields = await view.form()
    body = _terms(fields) | {"kind": fields.get("kind", ""), "target": fields.get("target", "").strip()}
    key = key_of(fields)
    made = await view.call("POST", _base(view), body, key)
    if made.problem is not None:
        return await _endpoints(view, fields, made.problem, next_key(key, made.problem))
    if made.data["secret"] is None:
        return led_to(view, f"{_HERE}/{made.data['id']}", done="tested")
    return view.page("webhook_secret.html", endpoint=made.data, secret=made.data["secret"], previous_until=None)


@router.get("/cards")
async def cards(view: ViewDep) -> Response:
    """Answer with the part of the page that has a card for each endpoint, with its health from the history."""
    asked = await view.get(_base(view))
    if asked.problem is not None:
        return view.error(asked.problem)
    # One after the other: a reader has few places for questions to the history.
    healths = {each["id"]: await view.get(_one(view, each["id"]) + "/health") for each in asked.data["endpoints"]}
    return view.fragment("partials/webhook_cards.html", endpoints=asked.data["endpoints"], healths=healths)


@router.get("/{endpoint_id}")
async def endpoint(view: ViewDep, endpoint_id: EndpointIdPath) -> Response:
    """Show one endpoint, its health and its attempts, and what can be done with it."""
    return await _endpoint(view, endpoint_id)


@router.get("/{endpoint_id}/health")
async def health(view: ViewDep, endpoint_id: EndpointIdPath) -> Response:
    """Answer with the part of a page that tells an endpoint's health, from the history."""
    asked = await view.get(_one(view, endpoint_id) + "/health")
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.fragment("partials/webhook_health.html", health=asked.data)


@router.get("/{endpoint_id}/attempts")
async def attempts(
    view: ViewDep,
    endpoint_id: EndpointIdPath,
    outcome: Annotated[str, Query(max_length=16)] = "",
    notice: Annotated[str, Query(max_length=80)] = "",
    cursor: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """Answer with the part of an endpoint's page that lists its attempts, a page at a time."""
    asked = await view.get(
        _one(view, endpoint_id) + "/deliveries", outcome=outcome, notice_id=notice, limit=_ATTEMPTS, cursor=cursor
    )
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.fragment(
        "partials/webhook_attempts.html",
        endpoint_id=endpoint_id,
        attempts=asked.data["deliveries"],
        next_cursor=asked.data["next_cursor"],
        outcome=outcome,
        notice=notice,
        may_replay=_may(view, "POST", "/{endpoint_id}/replay"),
        new_key=new_key,
    )


@router.post("/{endpoint_id}")
async def act(view: ViewDep, endpoint_id: EndpointIdPath) -> Response:
    """Test, pause, resume, change or delete an endpoint, send notices to it again, or give it another secret, which is
    shown in the answer to this very form."""
    fields = await view.form()
    what, one, key = fields.get("act", ""), _one(view, endpoint_id), key_of(fields)
    match what:
        case "test":
            done, answer = "tested", await view.call("POST", f"{one}/test", None, key)
        case "pause" | "resume":
            state = "paused" if what == "pause" else "active"
            done, answer = f"{what}d", await view.call("PATCH", one, {"state": state}, key)
        case "change":
            body = _terms(fields) | ({"target": target} if (target := fields.get("target", "").strip()) else {})
            done, answer = "changed", await view.call("PATCH", one, body, key)
        case "replay":
            done, answer = "replayed", await view.call("POST", f"{one}/replay", _replayed(view, fields), key)
        case "rotate":
            done, answer = "", await view.call("POST", f"{one}/rotate", None, key)
        case "delete":
            done, answer = "deleted", await view.call("DELETE", one, None, key)
        case _:
            done, answer = "", ApiAnswer(422, problem=_UNKNOWN_ACT)
    if answer.problem is not None:
        return await _endpoint(view, endpoint_id, fields, answer.problem)
    if what == "rotate":
        known = await view.get(one)
        return view.page(
            "webhook_secret.html",
            endpoint=known.data or {"id": endpoint_id},
            secret=answer.data["secret"],
            previous_until=answer.data["previous_until"],
        )
    return led_to(view, _HERE if what == "delete" else f"{_HERE}/{endpoint_id}", done=done)


async def _endpoints(
    view: View, fields: Mapping[str, str] | None = None, wrong: ShownProblem | None = None, key: str = ""
) -> Response:
    asked = await view.get(_base(view))
    if asked.problem is not None:
        return view.error(asked.problem)
    return view.page(
        "webhooks.html",
        status=wrong.status if wrong is not None else 200,
        endpoints=asked.data["endpoints"],
        parts=await view.parts(cards=view.url(f"{_HERE}/cards")) if asked.data["endpoints"] else None,
        may_make=_may(view, "POST", ""),
        heard_of=HEARD_OF,
        fields=Fields(fields if fields is not None else {"kind": "webhook", "hears-*": "on"}),
        wrong=wrong,
        key=key or new_key(),
        done=done_of(view, _DONE),
    )


async def _endpoint(
    view: View, endpoint_id: str, fields: Mapping[str, str] | None = None, wrong: ShownProblem | None = None
) -> Response:
    asked = await view.get(_one(view, endpoint_id))
    if asked.problem is not None:
        return view.error(asked.problem)
    known = asked.data
    filters = {name: view.query.get(name, "") for name in ("outcome", "notice", "cursor")}
    here = f"{_HERE}/{known['id']}"
    is_changing = wrong is not None and fields is not None and fields.get("act") == "change"
    return view.page(
        "webhook.html",
        status=wrong.status if wrong is not None else 200,
        endpoint=known,
        heard_of=HEARD_OF,
        fields=Fields(fields or {}),
        changed=Fields(fields or {} if is_changing else _fields_of(known)),
        is_changing=is_changing,
        wrong=wrong,
        may_change=_may(view, "PATCH", "/{endpoint_id}"),
        filters=filters,
        parts=await view.parts(health=view.url(f"{here}/health"), attempts=view.url(f"{here}/attempts", **filters)),
        new_key=new_key,
        done=done_of(view, _DONE),
    )


def _base(view: View) -> str:
    """The path of the endpoints that the view is about: a project's, or the platform's."""
    return "/v1/webhook-endpoints" if view.project is not None else "/v1/admin/webhook-endpoints"


def _one(view: View, endpoint_id: str) -> str:
    return api_path(_base(view) + "/{endpoint_id}", endpoint_id=endpoint_id)


def _may(view: View, method: str, rest: str) -> bool:
    return view.may(f"{method} {_base(view)}{rest}", "webhooks:write")


def _terms(fields: Mapping[str, str]) -> dict[str, Any]:
    """The terms of an endpoint that a form has: what it hears of, where, in which order, and its description."""
    environment = fields.get("environment", "")
    return {
        "event_types": [name for name in HEARD_OF if f"hears-{name}" in fields],
        "environments": [environment] if environment else [],
        "ordered": "ordered" in fields,
        "description": fields.get("description", "").strip(),
    }


def _fields_of(endpoint: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a form that changes nothing of an endpoint."""
    fields = {f"hears-{name}": "on" for name in endpoint["event_types"]}
    fields["environment"] = endpoint["environments"][0] if len(endpoint["environments"]) == 1 else ""
    fields["description"] = endpoint["description"]
    return fields | ({"ordered": "on"} if endpoint["ordered"] else {})


def _replayed(view: View, fields: Mapping[str, str]) -> dict[str, Any]:
    """The replay that a form asks for: of one notice, or of those since a time, which is the reader's."""
    if notice := fields.get("notice", "").strip():
        return {"notice_id": notice}
    since = fields.get("since", "").strip()
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        return {"since": since or "missing", "only_failed": fields.get("which") == "failed"}
    at = at if at.tzinfo is not None else at.replace(tzinfo=view.session.tz)
    return {"since": at.isoformat(), "only_failed": fields.get("which") == "failed"}
