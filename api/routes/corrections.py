"""Corrections: putting an event right that was billed wrongly, or never."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from api.dependencies import AdminDep, IdempotencyKey, ServicesDep, account_for, problems
from api.views.dry_runs import DRY_RUN_RESPONSE, DryRunQuery, dry_run_answer
from schemas.events import PROJECT_ID_PATTERN
from schemas.http.common import request_schema
from schemas.http.corrections import CorrectionRequest, CorrectionResult
from schemas.problems import Rejection
from streams.core.foreign import decoded
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
    responses=DRY_RUN_RESPONSE,
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
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> CorrectionResult | Response:
    """Correct an event: void its charge, amend it, or charge an event that came too late. Entries are added, none is
    changed.

    Credits go back to the grants they came from. Where those are of a month that is over, the credits come back as a
    promotional grant until the next renewal. An amended or late event costs what the price book of its own time says.
    """
    asked = decoded(_decode, await request.body())
    settings, clickhouse, reads = services.settings, services.clickhouse, services.reads
    partition = partition_of(project, settings.partitions)
    account = account_for(services, project)
    await wait_for(settings, clickhouse, partition, account.last_offset, settings.reply_timeout_seconds)
    charged = await reads.ask(caller.name, lambda history: charged_for(history, project, asked.source, asked.id))
    done = done_before(charged, hash_of(asked, idempotency_key))
    if done is None:
        prices, addressing = services.accounts.prices(), services.commands.addressing(idempotency_key, caller.key_id)
        command = await reads.ask(
            caller.name,
            lambda history: correction_of(
                history, account, asked, charged, prices, caller.key_id, idempotency_key, addressing
            ),
        )
        if dry_run:
            return dry_run_answer(services, command)
        reply, offset = await services.commands.decide(command)
        if reply.code:
            raise Rejection(reply.code, reply.detail)
        await services.accounts.wait_for(project, offset, settings.reply_timeout_seconds)
        await wait_for(settings, clickhouse, partition, offset, settings.reply_timeout_seconds)
    else:
        offset = done.facts[0].offset
    return await reads.ask(caller.name, lambda history: result_of(history, project, partition, offset))
