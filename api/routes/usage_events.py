"""Usage events: sending them by HTTP."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dependencies import CallerDep, ServicesDep, origin_of, problems
from api.errors import request_id_of
from api.services import Services
from schemas.events import Usage, UsageEvent
from schemas.http.common import request_schema
from schemas.http.problems import EventError
from schemas.http.usage import EventsAccepted
from schemas.problems import Rejection
from streams.core.acceptance import accepting, event_id_of
from streams.core.cloudevents import accept_binary, http_attributes
from streams.http_answers import problem_response
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_json
from streams.kafka.envelopes import Envelopes
from streams.slices import in_slices

router = APIRouter(prefix="/v1", tags=["usage"])

_SINGLE = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_MEDIA_TYPES = (_SINGLE, _BATCH, "application/json")


@router.post(
    "/events",
    status_code=202,
    response_model=EventsAccepted,
    responses=problems(400, 401, 403, 413, 415, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                _SINGLE: {"schema": request_schema(UsageEvent)},
                _BATCH: {"schema": request_schema(list[UsageEvent])},
            },
        }
    },
)
async def send_events(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Take usage events, one or a batch. 202 says that they are on the log; events that were refused are named.

    One event may come in binary mode too: its attributes in `ce-` headers, its data as the body.

    An event of one (source, id) is billed once, however often it is sent: repeat the whole request after any failure.
    """
    caller.require("content:write")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    attributes = http_attributes(request.headers.raw)
    if media_type not in _MEDIA_TYPES and not (attributes is not None and not media_type):
        raise Rejection("unsupported_media_type", f"{media_type or 'No content type'} is not taken here")
    body = await request.body()
    asked = now_ms(), services.accounts.prices().operations(), origin_of(caller)
    if attributes is not None:
        accepted, rejected = accept_binary(attributes, body, *asked)
    else:
        accepted, rejected = await in_slices(accepting(body, *asked, services.settings.events_per_request_max))
    if not accepted and len(rejected) == 1 and rejected[0][2].code in ("malformed_json", "too_many_events"):
        raise rejected[0][2]
    errors = [
        EventError(index=index, id=event_id_of(text), code=each.code, detail=each.detail, field=each.field)
        for index, text, each in rejected
    ]
    await _publish(services, accepted)
    if errors and not accepted:
        first, told = errors[0], [each.model_dump(exclude_none=True) for each in errors]
        return problem_response(request_id_of(request), first.code, first.detail, field=first.field, errors=told)
    answer = EventsAccepted(accepted=len(accepted), rejected=len(errors), errors=errors)
    return Response(encode_json(answer.model_dump(exclude_none=True)), 202, media_type="application/json")


async def _publish(services: Services, usages: list[Usage]) -> None:
    envelopes = Envelopes(services.settings.partitions)
    envelopes.add(usages)
    await asyncio.gather(
        *(
            services.publisher.send_all(services.topics.intake, partition, records)
            for partition, records in envelopes.records().items()
        )
    )
