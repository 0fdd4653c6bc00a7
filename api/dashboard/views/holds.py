"""Holds: what is kept for jobs that run, and each hold with what happened to it. What is held is not spent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.dashboard.asking import ShownProblem, api_path
from api.dashboard.figures import credits_sum, instant
from api.dashboard.forms import PAGE_ROWS, Fields, done_of, key_of, led_to, new_key, plain_number
from api.dashboard.spans import midnight
from api.dashboard.view import PageRoute, ProjectViewDep, View
from schemas.facts import PLACE_ID
from schemas.http.holds import HoldState
from schemas.problems import Rejection

router = APIRouter(prefix="/holds", include_in_schema=False, route_class=PageRoute)

_HERE: Final = "/dashboard/holds"
_HOLDS_READ: Final = 1000
_SOON_SECONDS: Final = 600
# The part of the address that says which settled holds are listed.
_FILTERS: Final = ("state", "customer_id", "from", "to")
_DONE: Final = {
    "captured": "The hold was captured: its job was charged.",
    "captured_before": "The hold had been captured before; nothing was charged now.",
    "released": "The hold was released: its credits are available again.",
    "extended": "The hold lasts longer now.",
}
# What can be chosen for an extension, in seconds.
EXTENSIONS: Final = (
    (900, "15 minutes"), (3_600, "1 hour"), (21_600, "6 hours"), (86_400, "1 day"), (604_800, "7 days"),
)  # fmt: skip


HoldIdPath = Annotated[str, Path(max_length=80)]


@router.get("")
async def holds(
    view: ProjectViewDep,
    job: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> Response:
    """Show the open holds of an environment, those of a job alone where one is searched for."""
    _check_environment(view)
    asked, balance = await asyncio.gather(
        view.get("/v1/holds", limit=_HOLDS_READ), view.get("/v1/balance", environment=view.environment)
    )
    if asked.problem is not None:
        return view.error(asked.problem)
    filters = {name: view.query.get(name, "") for name in _FILTERS}
    cursor = view.query.get("cursor", "")
    every = [each for each in asked.data["holds"] if each["environment"] == view.environment]
    job = job.strip()
    found = [each for each in every if job in (each["job_id"], each["hold_id"])] if job else every
    now = datetime.now(UTC)
    begin = (page - 1) * PAGE_ROWS
    return view.page(
        "holds.html",
        job=job,
        is_hold_id=PLACE_ID.fullmatch(job) is not None,
        holds=found[begin : begin + PAGE_ROWS],
        found=len(found),
        count=len(every),
        held=credits_sum(*(each["credits"] for each in every)),
        soon=sum((instant(each["expires_at"]) - now).total_seconds() < _SOON_SECONDS for each in every),
        now=now,
        page=page,
        pages=-(-len(found) // PAGE_ROWS),
        seconds_left=lambda hold: (instant(hold["expires_at"]) - now).total_seconds(),
        done=done_of(view, _DONE),
        asked=filters,
        cursor=cursor,
        parts=await view.parts(settled=view.url(f"{_HERE}/settled", job=job, cursor=cursor, **filters)),
        states=get_args(HoldState),
        as_of=balance.data["as_of"] if balance else None,
        lag_ms=balance.data["lag_ms"] if balance else None,
    )


@router.get("/settled")
async def settled(view: ProjectViewDep) -> Response:
    """Answer with the part of the page that lists holds that were captured, were released or have expired."""
    asked = {name: view.query.get(name) for name in ("state", "customer_id", "cursor")}
    times = {name: midnight(view.query.get(name), name, view.session.tz) for name in ("from", "to")}
    found = await view.get("/v1/holds/settled", environment=view.environment, limit=PAGE_ROWS, **asked, **times)
    if found.problem is not None:
        return view.error(found.problem)
    return view.fragment(
        "partials/holds_settled.html",
        found=found.data,
        asked={name: view.query.get(name, "") for name in ("job", *_FILTERS)},
        is_filtered=any(view.query.get(name) for name in _FILTERS),
    )


@router.get("/{hold_id}")
async def hold(view: ProjectViewDep, hold_id: HoldIdPath) -> Response:
    """Show one hold: open, with what can be done with it; or settled."""
    return await _hold(view, hold_id)


@router.get("/{hold_id}/story")
async def story(view: ProjectViewDep, hold_id: HoldIdPath) -> Response:
    """Answer with the part of a hold's page that tells what happened to it, from the history."""
    placed = await view.get(api_path("/v1/receipts/{id}", id=hold_id))
    if placed.problem is not None:
        is_open = placed.problem.code == "unknown_receipt" and await view.get(_path(hold_id))
        return view.fragment("partials/hold_story.html", placed=None) if is_open else view.error(placed.problem)
    inputs = placed.data.get("inputs")
    decisions: list[dict[str, Any]] = []
    if inputs and inputs["event_id"]:
        asked = await view.get("/v1/receipts", event_id=inputs["event_id"], source=inputs["source"])
        if asked.problem is not None:
            return view.error(asked.problem)
        decisions = asked.data["decisions"]
    return view.fragment("partials/hold_story.html", placed=placed.data, decisions=decisions)


@router.post("/{hold_id}")
async def act(view: ProjectViewDep, hold_id: HoldIdPath) -> Response:
    """Capture, release or extend a hold."""
    fields = await view.form()
    what = fields.get("act", "")
    bodies: dict[str, Any] = {
        "capture": {"credits": plain_number(fields["credits"])} if fields.get("credits", "").strip() else {},
        "release": {"reason": fields.get("reason", "")},
        "extend": {"seconds": int(fields["seconds"][:9]) if fields.get("seconds", "").isdecimal() else 0},
    }
    if what not in bodies:
        what = "release"
        wrong = ShownProblem(422, "invalid_request", "Nothing was done", "Choose to capture, release or extend.")
        return await _hold(view, hold_id, fields, wrong)
    answer = await view.call("POST", f"{_path(hold_id)}/{what}", bodies[what], key_of(fields))
    if answer.problem is not None:
        return await _hold(view, hold_id, fields, answer.problem)
    done = "captured_before" if answer.data["already_decided"] else answer.data["outcome"]
    return led_to(view, f"{_HERE}/{hold_id}", done=done)


async def _hold(
    view: View, hold_id: str, fields: Mapping[str, str] | None = None, wrong: ShownProblem | None = None
) -> Response:
    asked = await view.get(_path(hold_id))
    if asked.problem is not None and asked.problem.code != "unknown_hold":
        return view.error(asked.problem)
    hold = asked.data
    left = (instant(hold["expires_at"]) - datetime.now(UTC)).total_seconds() if hold else 0.0
    return view.page(
        "hold.html",
        status=wrong.status if wrong is not None else 200,
        hold_id=hold_id,
        parts=await view.parts(story=view.url(f"{_HERE}/{hold_id}/story")),
        hold=hold,
        seconds_left=left,
        extensions=EXTENSIONS,
        fields=Fields(fields or {}),
        wrong=wrong,
        keys={name: new_key() for name in ("capture", "release", "extend")},
        done=done_of(view, _DONE),
    )


def _path(hold_id: str) -> str:
    return api_path("/v1/holds/{hold_id}", hold_id=hold_id)


def _check_environment(view: View) -> None:
    """Check that a key looks at its own environment, whose holds alone it is shown. Raises Rejection."""
    if not view.is_admin and view.environment != view.caller.environment:
        detail = f"This key sees the holds of {view.caller.environment}, not of {view.environment}"
        raise Rejection("wrong_environment", detail, "environment")
