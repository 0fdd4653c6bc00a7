"""May this project do this now?"""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dependencies import CallerDep, IdempotencyKey, ServicesDep, origin_of, project_for, utc
from api.errors import problem_response, request_id_of
from schemas.answers import Admission, AdmissionRequest, request_schema
from schemas.commands import ADMISSION_SOURCE, Admit
from schemas.events import UsageData, UsageEvent
from schemas.ledger import RateState
from schemas.problems import CODES, Problem, Rejection
from streams.core.acceptance import decoding_rejection, to_usage
from streams.core.booking import format_credits
from streams.core.holds import HOLD_SECONDS_DEFAULT

router = APIRouter(prefix="/v1", tags=["admission"])

_decode = msgspec.json.Decoder(AdmissionRequest).decode
_DATA_FIELDS = UsageData.__struct_fields__


@router.post(
    "/admissions",
    response_model=Admission,
    responses={code: {"model": Problem} for code in (400, 401, 402, 403, 404, 409, 413, 422, 429, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request_schema(AdmissionRequest)}},
        }
    },
)
async def admit(
    request: Request, services: ServicesDep, caller: CallerDep, idempotency_key: IdempotencyKey = ""
) -> Response:
    """Decide one request and charge it, or hold its credits for a job: 200, or 402 `out_of_credits` or `plan_required`
    and nothing is charged. A job is held for once, however often it is asked for. 429 `rate_limited` where the
    project's request window is full: that comes before all else, costs nothing, and may be sent again under its key."""
    caller.require("content:write")
    body = await request.body()
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise decoding_rejection(error) from None
    if asked.hold and not asked.job_id:
        raise Rejection("missing_field", "A hold is for a job: `job_id` is missing", "job_id")
    if asked.hold_seconds is not None and not asked.hold:
        raise Rejection("invalid_request", "`hold_seconds` belongs to a `hold`", "hold_seconds")
    hold_seconds = (asked.hold_seconds or HOLD_SECONDS_DEFAULT) if asked.hold else 0
    project = project_for(caller, asked.project)
    addressing = services.commands.addressing(idempotency_key)
    event = UsageEvent(
        "1.0",
        asked.id or (f"key:{idempotency_key}" if idempotency_key else addressing["correlation"]),
        asked.source or ADMISSION_SOURCE,
        "",
        project,
        UsageData(**{name: getattr(asked, name) for name in _DATA_FIELDS}),
    )
    try:
        usage = to_usage(event, time.time_ns() // 1_000_000, services.accounts.prices().operations(), origin_of(caller))
    except Rejection as rejection:
        # Here the fields of `data` stand at the top.
        field = rejection.field.removeprefix("data.") if rejection.field else None
        raise Rejection(rejection.code, rejection.detail.replace("`data.", "`"), field) from None
    reply, offset = await services.commands.decide(
        Admit(project=project, usage=usage, hold_seconds=hold_seconds, **addressing)
    )
    headers = _rate_headers(reply.rate)
    if reply.code:
        extra = {}
        if CODES[reply.code].status in (402, 429):
            extra = {"project": project, "available": format_credits(reply.available), "entry_id": reply.entry_id}
        return problem_response(request_id_of(request), reply.code, reply.detail, extra=extra, headers=headers)
    admission = Admission(
        project=project,
        operation=usage.operation,
        credits=format_credits(reply.amount),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
        already_decided=bool(reply.detail),
        hold_id=reply.hold_id or None,
        hold_expires_at=utc(reply.hold_expires_at_ms) if reply.hold_id else None,
    )
    return Response(admission.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


def _rate_headers(rate: RateState | None) -> dict[str, str]:
    """The limit headers: Unix seconds, rounded up; `Retry-After` in seconds, where the request was limited."""
    if rate is None:
        return {}
    headers = {
        "X-RateLimit-Limit": str(rate.limit),
        "X-RateLimit-Remaining": str(rate.remaining),
        "X-RateLimit-Reset": str(-(-rate.reset_at_ms // 1000)),
    }
    if rate.retry_at_ms:
        now_ms = time.time_ns() // 1_000_000
        headers["Retry-After"] = str(max(1, -(-(rate.retry_at_ms - now_ms) // 1000)))
    return headers
