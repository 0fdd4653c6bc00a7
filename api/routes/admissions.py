"""Admissions: may this project do this now? One request is decided by a call, or a batch of them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from api.callers.calls import Call, call_of, count, find_full, note_entry, operation_of, refuse_at_edge
from api.callers.keys import Caller
from api.dependencies import IdempotencyKey, ServicesDep, UncountedCallerDep, origin_of, project_for
from api.errors import Refused, problem_of_failure, problem_of_rejection, request_id_of
from api.lean import LeanRoute, body_of
from api.services import Services
from schemas.accounts import Account
from schemas.commands import ADMISSION_SOURCE, HOLD_SECONDS_DEFAULT, Admit
from schemas.events import Usage, UsageEvent
from schemas.http.admissions import (
    BATCH_REQUESTS_MAX,
    Admission,
    AdmissionAnswer,
    AdmissionBatch,
    AdmissionDecisions,
    AdmissionProblem,
    AdmissionRequest,
    BatchAdmissionRequest,
    RateAnswer,
)
from schemas.http.common import request_schema
from schemas.http.problems import Problem
from schemas.problems import Rejection
from schemas.replies import RateState, Reply
from schemas.times import utc
from streams.core.acceptance import to_usage
from streams.core.booking import format_credits
from streams.core.foreign import decoded, split_array
from streams.core.replies import check_key
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_json
from streams.limit_headers import retry_after_seconds
from streams.slices import in_slices

router = APIRouter(prefix="/v1", tags=["admission"], route_class=LeanRoute)


class _AskedBatch(msgspec.Struct, forbid_unknown_fields=True):
    """A batch whose requests are not decoded yet."""

    requests: msgspec.Raw


_decode = msgspec.json.Decoder(AdmissionRequest).decode
_decode_batch = msgspec.json.Decoder(_AskedBatch).decode
_decode_item = msgspec.json.Decoder(BatchAdmissionRequest).decode
_BATCH_HEAD = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"requests"[ \t\r\n]*:[ \t\r\n]*(?=\[)')


def _problems(*statuses: int, model: type[Problem] = Problem) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model} for status in statuses}


def _takes(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": request_schema(kind)}}}}


@router.post(
    "/admissions",
    response_model=Admission,
    responses=_problems(400, 401, 404, 409, 413, 422, 503) | _problems(402, 403, model=AdmissionProblem),
    openapi_extra=_takes(AdmissionRequest),
)
async def admit(
    request: Request, services: ServicesDep, caller: UncountedCallerDep, idempotency_key: IdempotencyKey = ""
) -> bytes:
    """Decide one request, and charge it, or hold its credits for a job. 200 is admitted. 402 `out_of_credits` or
    `plan_required` is refused, and nothing is charged. A job's credits are held once, however often it is asked for.

    429 `rate_limited` means that the project's request window is full, or its cost ceiling reached. A full window comes
    before all else, a repeat's kept answer too. It costs nothing, and the request may be sent again under the same key:
    after `Retry-After` it passes all limits, if no other comes meanwhile. It has an `entry_id`, and so a receipt of its
    own, only where the project's owner refused it: most are refused by the API itself, and are counted.
    """
    caller.require("content:write")
    asked = decoded(_decode, await body_of(request))
    call, operation = call_of(request.scope), operation_of(request.scope)
    admission = await _admitted(services, call, caller, operation, asked, idempotency_key)
    return encode_json(admission)


@router.post(
    "/admissions/batch",
    response_model=AdmissionDecisions,
    responses=_problems(400, 401, 403, 413, 422, 503),
    openapi_extra=_takes(AdmissionBatch),
)
async def admit_batch(
    request: Request, services: ServicesDep, caller: UncountedCallerDep, idempotency_key: IdempotencyKey = ""
) -> bytes:
    """Decide a batch of requests, each by itself, as POST /v1/admissions would. The answers are in the requests' order.

    Each request counts as one of its project; the call itself does not count. A request that is refused or malformed
    changes nothing for its neighbours. A request without an `idempotency_key` is sent under the call's Idempotency-Key
    and its place in the batch.
    """
    caller.require("content:write")
    items = await _items_of_batch(await body_of(request))
    call, request_id, operation = call_of(request.scope), request_id_of(request), operation_of(request.scope)
    call.is_counted = True
    calls = [Call(caller, account=call.account, full=call.full) for _ in items]

    async def decision(place: int) -> AdmissionAnswer | dict[str, Any]:
        mine = calls[place]
        try:
            admission = await _admitted_of_batch(
                services, mine, caller, operation, items[place], place, idempotency_key
            )
        except Exception as error:
            problem = await _problem(services, mine, operation, request_id, error)
            return problem | ({"rate": _rate_of(mine.rate)} if mine.rate is not None else {})
        admission.status = 200
        admission.rate = _rate_of(mine.rate) if mine.rate is not None else None
        return admission

    decisions = await asyncio.gather(*map(decision, range(len(items))))
    if call.project is not None:
        rates = [each.rate for each in calls if each.rate is not None]
        call.rate = min(rates, key=lambda rate: rate.remaining, default=None)
    return encode_json({"decisions": decisions})


async def _items_of_batch(body: bytes) -> list[bytes]:
    """The requests of a batch, each still as it came, so that a malformed one spoils none of the others. Raises
    Rejection."""
    head = _BATCH_HEAD.match(body)
    if head is None:
        # It may be another way of writing the same, such as a name with escapes in it.
        array = bytes(decoded(_decode_batch, body).requests)
        if array[:1] != b"[":
            raise Rejection("invalid_request", "`requests` is an array of requests", "requests")
        items, _ = await in_slices(split_array(array, BATCH_REQUESTS_MAX))
    else:
        items, rest = await in_slices(split_array(body[head.end() :], BATCH_REQUESTS_MAX))
        if rest != b"}" and len(items) <= BATCH_REQUESTS_MAX:
            decoded(_decode_batch, body)
            raise Rejection("malformed_json", "The batch does not end where its requests do")
    if not 1 <= len(items) <= BATCH_REQUESTS_MAX:
        raise Rejection("invalid_request", f"A batch is of 1 to {BATCH_REQUESTS_MAX} requests", "requests")
    return items


async def _admitted_of_batch(
    services: Services,
    call: Call,
    caller: Caller,
    operation: str,
    item: bytes,
    place: int,
    idempotency_key: str,
) -> AdmissionAnswer:
    asked = decoded(_decode_item, item)
    key = f"{idempotency_key}:{place}" if idempotency_key else ""
    if asked.idempotency_key is not None:
        key = asked.idempotency_key
        check_key(key, "idempotency_key")
    return await _admitted(services, call, caller, operation, asked, key)


async def _problem(services: Services, call: Call, operation: str, request_id: str, error: Exception) -> dict[str, Any]:
    """The problem that answers one request of a batch. A request that was not decided is counted here."""
    try:
        await count(services, call, operation)
    except Rejection as limited:
        error = limited
    if isinstance(error, Rejection):
        return problem_of_rejection(request_id, error)
    return problem_of_failure(request_id, error)


async def _admitted(
    services: Services, call: Call, caller: Caller, operation: str, asked: AdmissionRequest, idempotency_key: str
) -> AdmissionAnswer:
    """Have one request decided, and note the state of its window in `call`. Raises Rejection where it is refused."""
    if asked.hold and not asked.job_id:
        raise Rejection("missing_field", "A hold is for a job: `job_id` is missing", "job_id")
    if asked.hold_seconds is not None and not asked.hold:
        raise Rejection("invalid_request", "`hold_seconds` belongs to a `hold`", "hold_seconds")
    hold_seconds = (asked.hold_seconds or HOLD_SECONDS_DEFAULT) if asked.hold else 0
    project = project_for(caller, asked.project)
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    event_id = asked.id or (f"key:{idempotency_key}" if idempotency_key else addressing["correlation"])
    usage = _usage_of(services, caller, project, asked, event_id)
    if caller.project is None:
        find_full(services, call, services.accounts.get(project))
    is_repeat = bool(idempotency_key) and services.decided_keys.has(project, idempotency_key)
    refuse_at_edge(services, call, operation, None if is_repeat else usage, is_job=asked.hold)
    # From here on the admission counts in the window by itself, whether or not there is a reply in time.
    call.is_counted = True
    reply, offset = await services.commands.decide(
        Admit(project=project, usage=_not_before(usage, call.account), hold_seconds=hold_seconds, **addressing)
    )
    if idempotency_key and reply.code != "rate_limited":
        services.decided_keys.add(project, idempotency_key)
    note_entry(reply.entry_id)
    call.rate = reply.rate
    call.is_counted = reply.rate is not None
    if reply.code:
        raise Refused(reply.code, reply.detail, _refusal_members(project, reply), reply.field or None)
    return AdmissionAnswer(
        allowed=True,
        project=project,
        operation=usage.operation,
        credits=format_credits(reply.amount),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
        already_decided=reply.already_decided,
        hold_id=reply.hold_id or None,
        hold_expires_at=utc(reply.hold_expires_at_ms) if reply.hold_id else None,
        shadow_code=reply.shadow or None,
    )


def _usage_of(services: Services, caller: Caller, project: str, asked: AdmissionRequest, event_id: str) -> Usage:
    event = UsageEvent(
        "1.0",
        event_id,
        asked.source or ADMISSION_SOURCE,
        "",
        project,
        asked,
    )
    try:
        return to_usage(event, now_ms(), services.accounts.prices().operations(), origin_of(caller))
    except Rejection as rejection:
        # An admission request has the fields of an event's `data` at its top level.
        field = rejection.field.removeprefix("data.") if rejection.field else None
        raise Rejection(rejection.code, rejection.detail.replace("`data.", "`"), field) from None


def _not_before(usage: Usage, account: Account | None) -> Usage:
    """The use, as of no earlier than what the account is known to have gone through. An admission occurs now, and this
    API's clock may be behind the log's: a plan that was changed a moment ago counts, and so does a closing."""
    if account is None or usage.occurred_at_ms >= account.last_at_ms:
        return usage
    return msgspec.structs.replace(usage, occurred_at_ms=account.last_at_ms)


def _refusal_members(project: str, reply: Reply) -> dict[str, Any]:
    members: dict[str, Any] = {}
    if reply.entry_id:
        members = {"project": project, "available": format_credits(reply.available), "entry_id": reply.entry_id}
    if reply.shadow:
        members["shadow_code"] = reply.shadow
    return members


def _rate_of(rate: RateState) -> RateAnswer:
    return RateAnswer(
        limit=rate.limit,
        remaining=rate.remaining,
        reset_at=utc(rate.reset_at_ms),
        retry_after_seconds=retry_after_seconds(rate) if rate.retry_at_ms else None,
    )
