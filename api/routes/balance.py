"""Balances: what a project has, now or at an earlier time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import CurrentCallerDep, ProjectQuery, ServicesDep, account_for, problems, project_for
from api.views.accounts import balance_of
from api.views.past_balance import account_as_of
from schemas.http.common import EnvironmentName
from schemas.http.credits import Balance
from schemas.problems import Rejection
from streams.core.ledger import settled
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))


@router.get("/balance", response_model=Balance)
async def balance(
    services: ServicesDep,
    caller: CurrentCallerDep,
    project: ProjectQuery = None,
    environment: EnvironmentName | None = None,
    min_offset: Annotated[
        int | None, Query(ge=0, description="Wait until the answer holds this intake offset (read your writes)")
    ] = None,
    at: Annotated[datetime | None, Query(description="RFC 3339 with a zone: as it was then")] = None,
) -> Balance:
    """Show the balance of one budget as it is now, and how fresh that is; or as it was `at` an earlier time."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    if at is not None:
        past, at_ms, lag_ms = await account_as_of(services, name, at)
        return balance_of(past, environment or caller.environment, at_ms, lag_ms)
    if min_offset is not None:
        timeout_seconds = services.settings.reply_timeout_seconds
        if not await services.accounts.wait_for(name, min_offset, timeout_seconds):
            raise Rejection("not_ready", f"Offset {min_offset} was not reached within {timeout_seconds:g} seconds")
    lag_ms = services.accounts.lag_ms(name)
    now = now_ms()
    account = settled(account_for(services, name), now, services.accounts.prices())
    return balance_of(account, environment or caller.environment, now, lag_ms)
