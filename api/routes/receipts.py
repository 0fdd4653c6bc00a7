"""Receipts: why something was charged, or refused."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from clickhouse_connect.driver.exceptions import OperationalError
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.callers.keys import Caller
from api.dependencies import CallerDep, ProjectQuery, ServicesDep, environment_for, problems, project_for
from api.reads import json_of
from api.services import Services
from schemas.answers import Answer
from schemas.facts import is_decision_id
from schemas.http.common import EnvironmentName
from schemas.http.receipts import EventReceipts, EventReport, Receipt, RequestReceipt
from schemas.problems import Rejection
from schemas.times import utc
from streams.clickhouse.client import ClickHouseError
from streams.core.foreign import UnreadableError, read
from streams.history.answers import answers_of, request_receipt
from streams.history.events import event_report
from streams.history.receipts import find_decision, receipt_of, receipts_of_event
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["receipts"], responses=problems(401, 403, 404, 422, 503))


@router.get("/receipts/{id}", response_model=Receipt | RequestReceipt)
async def receipt(
    services: ServicesDep,
    caller: CallerDep,
    id: Annotated[
        str,
        Path(
            max_length=128,
            description="An `entry_id` (partition-offset-position), a `hold_id`, a `grant_id`, or a purchase's id; or "
            "the x-request-id of an answer",
            examples=["2-17-0"],
        ),
    ],
    project: ProjectQuery = None,
) -> Response:
    """Explain one decision: what was asked, what it cost and why, and the budget before and after it.

    An admin key finds a decision of any project; naming the project is quicker where the history is long.

    By the x-request-id of an answer it gives that answer, with the ids of what was decided for it: a refusal for as
    long as replies are kept (24 hours), and longer where it was decided. Of a flood of refusals only some are kept.
    What was answered without a valid key is found by an admin key alone.
    """
    caller.require("content:read")
    named = project if caller.project is None else project_for(caller, project)
    environment, prices = environment_for(caller, None), services.accounts.prices()
    if not is_decision_id(id):
        return json_of(request_receipt(id, *await _answers(services, caller, id, named, environment)))
    decision, position = await find_decision(
        lambda question: services.reads.ask(caller.name, question), named, id, services.settings.partitions, environment
    )
    return await services.reads.json(caller.name, lambda history: receipt_of(history, prices, decision, position))


async def _answers(
    services: Services, caller: Caller, request_id: str, project: str | None, environment: EnvironmentName | None
) -> tuple[list[Answer], list[Answer]]:
    """The answers to requests of this id, of this process and of the history. Where the history is away, those of this
    process will do."""
    recent = services.answers.find(request_id, project, environment)
    now = utc(now_ms())
    try:
        kept = await services.reads.ask(
            caller.name, lambda history: answers_of(history, request_id, project, environment, now)
        )
    except (ClickHouseError, OperationalError):
        if not recent:
            raise
        kept = []
    return recent, kept


@router.get("/receipts", response_model=EventReceipts)
async def receipts(
    services: ServicesDep,
    caller: CallerDep,
    event_id: Annotated[str, Query(min_length=1, max_length=256)],
    source: Annotated[str | None, Query(max_length=256)] = None,
    project: ProjectQuery = None,
) -> Response:
    """List what was decided on an event id: its charge, holds, repeats and corrections. An admin key is also told why
    an event of that id was not accepted."""
    caller.require("content:read")
    named = project if caller.project is None else project_for(caller, project)
    environment, prices, is_admin = environment_for(caller, None), services.accounts.prices(), caller.project is None
    return await services.reads.json(
        caller.name, lambda history: receipts_of_event(history, prices, named, event_id, source, is_admin, environment)
    )


_NAME_CHARS_MAX = 256


@router.get("/events/{source:path}/{id:path}", response_model=EventReport)
async def event(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    source: Annotated[str, Path(description="The event's `source`, percent-encoded", examples=["%2Fshop"])],
    id: Annotated[str, Path(description="The event's `id`, percent-encoded")],
    project: ProjectQuery = None,
) -> Response:
    """Tell what became of one event: decided, refused, a repeat, among the dead letters, or never seen; when, why, and
    with its receipt.

    A project's key is told of its own project's alone, and gets no dead letter's text. `not_seen` is an answer too:
    until `as_of` nothing of it had come.
    """
    caller.require("content:read")
    source, id = _event_named(request, source, id)
    named = project if caller.project is None else project_for(caller, project)
    environment, prices, is_admin = environment_for(caller, None), services.accounts.prices(), caller.project is None
    lag_ms = services.pipeline.events_lag_ms()
    as_of = None if lag_ms is None else utc(now_ms() - lag_ms)
    return await services.reads.json(
        caller.name,
        lambda history: event_report(history, prices, source, id, named, environment, is_admin, as_of),
    )


def _event_named(request: Request, source: str, id: str) -> tuple[str, str]:
    """The source and id that a path names. Both may have slashes, so they are taken from the path as it was sent; a
    source whose slashes were not encoded is read up to the last one. Raises Rejection."""
    sent = request.scope.get("raw_path", b"").rpartition(b"/v1/events/")[2].partition(b"?")[0]
    if sent.count(b"/") == 1:
        try:
            source, id = (read(bytes.decode, unquote_to_bytes(part)) for part in sent.split(b"/"))
        except UnreadableError:
            raise Rejection("invalid_request", "Percent-encode the UTF-8 of `source` and `id`", "source") from None
    for field, text in (("source", source), ("id", id)):
        if not 1 <= len(text) <= _NAME_CHARS_MAX:
            raise Rejection("invalid_request", f"`{field}` has 1 to {_NAME_CHARS_MAX} characters", field)
    return source, id
