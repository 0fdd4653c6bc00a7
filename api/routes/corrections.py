"""Corrections: putting an event right that was billed wrongly, or never."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request

from api.dependencies import AdminDep, IdempotencyKey, ServicesDep, account_for, problems
from schemas.events import PROJECT_ID_PATTERN
from schemas.http.common import request_schema
from schemas.http.corrections import CorrectionRequest, CorrectionResult
from schemas.problems import Rejection
from streams.core.acceptance import decoding_rejection
from streams.history.corrections import charged_for, correction_of, done_before, hash_of, result_of
from streams.history.facts import wait_for
from streams.kafka.topics import partition_of

router = APIRouter(
    prefix="/v1/admin",
    tags=["administration"],
    responses=problems(400, 401, 402, 403, 404, 409, 422, 503),
)

_decode = msgspec.json.Decoder(CorrectionRequest).decode


@router.post(
    "/projects/{project}/corrections",
    status_code=201,
    response_model=CorrectionResult,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request_schema(CorrectionRequest)}},
        }
    },
)
async def correct(
    request: Request,
    services: ServicesDep,
    caller: AdminDep,
    project: Annotated[str, Path(pattern=PROJECT_ID_PATTERN)],
    idempotency_key: IdempotencyKey = "",
) -> CorrectionResult:
    """Correct an event: void its charge, amend it, or charge an event that came too late. Entries are added, none is
    changed.

    Credits go back to the grants they came from. Where those are of a month that is over, the credits come back as a
    promotional grant until the next renewal. An amended or late event costs what the price book of its own time says.
    """
    try:
        asked = _decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise decoding_rejection(error) from None
    settings, clickhouse = services.settings, services.clickhouse
    partition = partition_of(project, settings.partitions)
    account = account_for(services, project)
    await wait_for(settings, clickhouse, partition, account.last_offset, settings.reply_timeout_seconds)
    charged = await asyncio.to_thread(charged_for, clickhouse, project, asked.source, asked.id)
    done = done_before(charged, hash_of(asked, idempotency_key))
    if done is None:
        command = await asyncio.to_thread(
            correction_of,
            clickhouse,
            account,
            asked,
            charged,
            services.accounts.prices(),
            caller.key_id,
            idempotency_key,
            services.commands.addressing(idempotency_key, caller.key_id),
        )
        reply, offset = await services.commands.decide(command)
        if reply.code:
            raise Rejection(reply.code, reply.detail)
        await services.accounts.wait_for(project, offset, settings.reply_timeout_seconds)
        await wait_for(settings, clickhouse, partition, offset, settings.reply_timeout_seconds)
    else:
        offset = done.facts[0].offset
    return await asyncio.to_thread(result_of, clickhouse, project, partition, offset)
