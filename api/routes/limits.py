"""Limits of a project: those a contract sets over its plan's, raises for a window of time, limits on trial."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dependencies import (
    AdminDep,
    CurrentCallerDep,
    IdempotencyKey,
    ProjectPath,
    ProjectQuery,
    ServicesDep,
    decided,
    instant,
    problems,
    project_for,
)
from api.services import Services
from api.views.accounts import settled_account
from schemas.accounts import Account, Limits
from schemas.commands import EndRaise, RaiseLimits, SetLimits
from schemas.http.limits import (
    LimitRaiseInfo,
    LimitRaiseResult,
    LimitStanding,
    NewLimitRaise,
    NewLimits,
    OwnLimits,
    ProjectLimits,
    SomeLimits,
)
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.booking import format_credits, parse_credits
from streams.core.limits import limits_of
from streams.core.plans import PLANS
from streams.core.windows import advance, burst_left, rested
from streams.history.limit_words import limit_values, some_limits
from streams.kafka.clock import now_ms

own_router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))
router = APIRouter(
    prefix="/v1/admin/projects/{project}",
    tags=["limits"],
    responses=problems(401, 403, 404, 409, 422, 503),
)


@own_router.get("/limits", response_model=OwnLimits)
async def own_limits(services: ServicesDep, caller: CurrentCallerDep, project: ProjectQuery = None) -> OwnLimits:
    """Show the limits of a project, where they come from, and how it stands in them now. It is one window for all of
    the project, and this call counts in it."""
    caller.require("content:read")
    name = project_for(caller, project)
    account = settled_account(services, name)
    lag_ms = services.accounts.lag_ms(name)
    return OwnLimits(standing=_standing(account, now_ms(), lag_ms), **_shown(account).model_dump())


@router.get("/limits", response_model=ProjectLimits)
async def get_limits(services: ServicesDep, caller: AdminDep, project: ProjectPath) -> ProjectLimits:
    """Show a project's limits: those in force now, the plan's, the contract's, raises on and planned, and those on
    trial."""
    return limits_shown(services, project)


@router.put("/limits", response_model=ProjectLimits)
async def set_limits(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewLimits,
    idempotency_key: IdempotencyKey = "",
) -> ProjectLimits:
    """Set limits that hold over the plan's from now on, or limits on trial; with no limit given, end them. They replace
    those that were set before: a limit that is left out is the plan's again."""
    command = SetLimits(
        project=project,
        limits=_limits(asked),
        is_shadow=asked.is_shadow,
        reason=asked.reason,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return limits_shown(services, project)


@router.post("/limit-raises", status_code=201, response_model=LimitRaiseResult)
async def raise_limits(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewLimitRaise,
    idempotency_key: IdempotencyKey = "",
) -> LimitRaiseResult:
    """Raise a project's limits for a window of time, such as a launch. Send an Idempotency-Key: without one, a repeat
    is another raise."""
    command = RaiseLimits(
        project=project,
        limits=_limits(asked),
        starts_at_ms=0 if asked.starts_at is None else _at_ms(asked.starts_at, "starts_at"),
        ends_at_ms=_at_ms(asked.ends_at, "ends_at"),
        reason=asked.reason,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    reply, offset = await decided(services, command)
    return LimitRaiseResult(id=reply.entry_id, offset=offset, limits=limits_shown(services, project))


@router.delete("/limit-raises/{raise_id}", status_code=204)
async def end_raise(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    raise_id: Annotated[str, Path(max_length=80)],
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """End a raise now, or take back one that has not begun."""
    command = EndRaise(
        project=project, raise_id=raise_id, **services.commands.addressing(idempotency_key, caller.key_id)
    )
    await decided(services, command)
    return Response(status_code=204)


def limits_shown(services: Services, project: str) -> ProjectLimits:
    """A project's limits as of now, as answers show them. Raises Rejection `unknown_project` or `not_ready`."""
    return _shown(settled_account(services, project))


def _standing(account: Account, at_ms: int, lag_ms: int) -> LimitStanding:
    window, limits = account.window or rested(at_ms), limits_of(account)
    advance(window, limits, at_ms)
    return LimitStanding(
        requests_60s=window.requests,
        burst_left=burst_left(window, limits),
        credits_60s=format_credits(window.cost),
        as_of=utc(at_ms - max(lag_ms, 0)),
        lag_ms=lag_ms,
    )


def _shown(account: Account) -> ProjectLimits:
    return ProjectLimits(
        project=account.project,
        plan=account.plan,
        plan_limits=limit_values(PLANS[account.plan].limits),
        contract=None if account.limits is None else some_limits(account.limits),
        raises=[
            LimitRaiseInfo(
                id=each.id,
                starts_at=utc(each.starts_at_ms),
                ends_at=utc(each.ends_at_ms),
                is_on=each.is_on,
                **some_limits(each.limits).model_dump(),
            )
            for each in account.raises
        ],
        in_force=limit_values(limits_of(account)),
        shadow=None if account.shadow is None else some_limits(account.shadow.limits),
    )


def _at_ms(at: datetime, field: str) -> int:
    return round(instant(at, field).timestamp() * 1000)


def _limits(asked: SomeLimits) -> Limits:
    ceiling = 0
    if asked.cost_ceiling is not None:
        ceiling = parse_credits(asked.cost_ceiling, "cost_ceiling")
        if not ceiling:
            raise Rejection("invalid_request", "A cost ceiling is above 0; leave it out for none", "cost_ceiling")
    return Limits(asked.requests_per_minute or 0, asked.burst or 0, ceiling)
