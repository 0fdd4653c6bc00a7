"""Balances: what a project has, now or at an earlier time."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import (
    CurrentCallerDep,
    ProjectQuery,
    ServicesDep,
    account_for,
    environment_for,
    problems,
    project_for,
)
from api.lean import LeanRoute
from api.services import Services
from api.views.accounts import balance_of
from api.views.past_balance import account_as_of
from schemas.accounts import Account
from schemas.http.common import PAGE_ITEMS_MAX, EnvironmentName, GivenTime
from schemas.http.credits import Balance
from schemas.problems import Rejection
from streams.core.ledger import settled
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_json

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503), route_class=LeanRoute)


@router.get("/balance", response_model=Balance)
async def balance(
    services: ServicesDep,
    caller: CurrentCallerDep,
    project: ProjectQuery = None,
    environment: EnvironmentName | None = None,
    min_offset: Annotated[
        int | None, Query(ge=0, description="Wait until the answer holds this intake offset (read your writes)")
    ] = None,
    at: Annotated[GivenTime | None, Query(description="RFC 3339 with a zone: as it was then")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX, description="How many grants to list at most")] = 100,
    cursor: Annotated[str | None, Query(max_length=200, description="Grants after those of an earlier page")] = None,
) -> bytes:
    """Show the balance of one budget as it is now, and how fresh that is; or as it was `at` an earlier time."""
    caller.require("content:read")
    name = project_for(caller, project)
    account = account_for(services, name)
    budget = environment_for(caller, environment) or caller.environment
    if at is not None:
        past, at_ms, lag_ms = await account_as_of(services, caller, name, at)
        return encode_json(balance_of(past, budget, at_ms, lag_ms, limit, cursor))
    if min_offset is not None:
        account = await _awaited(services, account, min_offset)
    lag_ms, now = services.accounts.lag_ms(name), now_ms()
    settled(account, now, services.accounts.prices())
    return encode_json(balance_of(account, budget, now, lag_ms, limit, cursor, is_now=True))


async def _awaited(services: Services, account: Account, min_offset: int) -> Account:
    """The account once it holds an intake offset. Raises Rejection: `invalid_request` at once where the log has not
    come that far, so that nobody was told of such an offset, and `not_ready` where time is up."""
    project = account.project
    if account.last_offset >= min_offset:
        return account
    end = await services.accounts.intake_end(project, services.settings.count_wait_seconds)
    if end is not None and min_offset >= end:
        raise Rejection("invalid_request", f"`min_offset`: the log has no offset {min_offset} yet", "min_offset")
    timeout_seconds = services.settings.reply_timeout_seconds
    if not await services.accounts.wait_for(project, min_offset, timeout_seconds):
        raise Rejection("not_ready", f"Offset {min_offset} was not reached within {timeout_seconds:g} seconds")
    return account_for(services, project)
