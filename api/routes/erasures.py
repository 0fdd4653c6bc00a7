"""Erasures: what events said of themselves leaves the history, for a project or for one customer of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path

from api.dependencies import AdminDep, IdempotencyKey, ProjectPath, ServicesDep, account_for, decided, problems
from api.views.dry_runs import DryRunQuery
from schemas.commands import Erase
from schemas.http.erasures import ErasureProgress, ErasureRequest
from streams.clickhouse.limits import LONG
from streams.history.erasures import erasable, erasure_progress
from streams.history.facts import wait_for
from streams.kafka.topics import partition_of

router = APIRouter(
    prefix="/v1/admin/projects/{project}/erasures",
    tags=["administration"],
    responses=problems(401, 403, 404, 409, 422, 503),
)


@router.post("", response_model=ErasureProgress, status_code=202)
async def erase(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: ErasureRequest,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> ErasureProgress:
    """Erase the metadata of a project's events, or of those of one customer, from the history. What comes later is not
    erased. Amounts, ids and times stay, and so does every entry; open holds forget their metadata.

    ClickHouse does it in the background: GET …/erasures/{entry_id} says how far it is. With `dry_run` the answer says
    how many rows there are to erase.
    """
    settings, clickhouse = services.settings, services.clickhouse.limited(LONG)
    customer, partition = asked.customer_id or "", partition_of(project, settings.partitions)
    account = account_for(services, project)
    await wait_for(settings, clickhouse, partition, account.last_offset, settings.reply_timeout_seconds)
    found = await asyncio.to_thread(erasable, clickhouse, project, customer, partition)
    if dry_run:
        return found
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = Erase(project=project, customer=customer, reason=asked.reason, **addressing)
    reply, offset = await decided(services, command)
    await wait_for(settings, clickhouse, partition, offset, settings.reply_timeout_seconds)
    return await asyncio.to_thread(erasure_progress, clickhouse, project, reply.entry_id)


@router.get("/{entry_id}", response_model=ErasureProgress)
async def progress(
    services: ServicesDep, caller: AdminDep, project: ProjectPath, entry_id: Annotated[str, Path(max_length=64)]
) -> ErasureProgress:
    """Say how far an erasure is."""
    clickhouse = services.clickhouse.limited(LONG)
    return await asyncio.to_thread(erasure_progress, clickhouse, project, entry_id)
