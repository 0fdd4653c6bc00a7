"""Rehearsals of limits: what other limits would have done to the recorded requests."""

from __future__ import annotations

import asyncio
from datetime import datetime

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from api.dependencies import AdminDep, ServicesDep, account_for, problems
from api.negotiation import AcceptHeader, preferred
from api.reads import json_of
from api.routes.rehearsals import LINES, OnProgress, one_at_a_time, progress_lines
from api.services import Services
from schemas.accounts import Limits
from schemas.http.rehearsals import (
    BusiestMinute,
    LimitRehearsalResult,
    LimitRehearsalTotals,
    LimitRehearsedProject,
    LimitTerms,
    NewLimitRehearsal,
    ProposedRefusals,
    RecordedRefusals,
)
from schemas.problems import Rejection
from schemas.times import DAY_MS, utc
from streams.core.booking import format_credits, parse_credits
from streams.core.limits import check_limits, contract_limits, over
from streams.kafka.clock import now_ms
from streams.rehearsals.limits import Counts, LimitOutcome, LimitRehearsal, rehearse_limits

router = APIRouter(
    prefix="/v1/admin",
    tags=["administration"],
    responses=problems(401, 403, 404, 406, 422, 503),
)


@router.post(
    "/rehearsals/limits",
    response_model=LimitRehearsalResult,
    responses={200: {"content": {LINES: {"schema": {"type": "string"}}}}},
)
async def rehearse(
    request: Request,
    services: ServicesDep,
    caller: AdminDep,
    asked: NewLimitRehearsal,
    accept: AcceptHeader = "",
) -> Response:
    """Rehearse limits: replay the recorded requests of the last days under other limits, by the rules that decide.

    Admissions and counted calls of the API are requests, and so are usage events, unless they are left out. Repeats of
    an event or a job, captures and corrections are not. A request that was limited costs what the price book says; one
    that was refused for another reason costs nothing. Callers are assumed to send the same requests, whatever the
    proposed limits would have answered them. 404 `no_traffic` where nothing was recorded.

    As application/x-ndjson it is a JSON object a line: `done` of `all`; the last one has the `result`, or a `problem`.
    """
    proposed = _proposed(asked)
    if not services.accounts.is_ready:
        raise Rejection("not_ready", "This process is still reading the accounts")
    if asked.project is not None:
        account_for(services, asked.project)
    wanted = preferred(accept, ("application/json", LINES))
    if wanted == LINES:
        lines = progress_lines(request, lambda on_progress: _rehearsed(services, asked, proposed, on_progress))
        return StreamingResponse(lines, media_type=LINES)
    result = await _rehearsed(services, asked, proposed, lambda _done, _all: None)
    return await asyncio.to_thread(json_of, result)


def result_of(days: int, rehearsal: LimitRehearsal) -> LimitRehearsalResult:
    """The result of a rehearsal of limits, in the form in which answers show it."""
    return LimitRehearsalResult(
        days=days,
        since=utc(rehearsal.since_ms),
        until=utc(rehearsal.until_ms),
        projects=rehearsal.projects,
        projects_hurt=rehearsal.projects_hurt,
        totals=_totals(rehearsal.total),
        worst=[_project(outcome) for outcome in rehearsal.worst],
    )


async def _rehearsed(
    services: Services, asked: NewLimitRehearsal, proposed: Limits, on_progress: OnProgress
) -> LimitRehearsalResult:
    def limits_for(project: str) -> tuple[str, Limits] | None:
        account = services.accounts.get(project)
        if account is None or (asked.plan is not None and account.plan != asked.plan):
            return None
        return account.plan, over(contract_limits(account), proposed)

    async with one_at_a_time:
        now = now_ms()
        rehearsal = await asyncio.to_thread(
            rehearse_limits,
            services.clickhouse,
            services.accounts.prices(),
            limits_for,
            now - asked.days * DAY_MS,
            now,
            project=asked.project,
            with_events=asked.with_events,
            worst_max=asked.worst_max,
            on_progress=on_progress,
        )
    return await asyncio.to_thread(result_of, asked.days, rehearsal)


def _proposed(asked: NewLimitRehearsal) -> Limits:
    """The limits that a rehearsal proposes; 0 where it leaves one as it is. Raises Rejection."""
    if asked.project is not None and asked.plan is not None:
        raise Rejection("invalid_request", "One project, or the projects of a plan: not both", "plan")
    if asked.requests_per_minute is None and asked.burst is None and asked.cost_ceiling is None:
        raise Rejection("invalid_request", "Say which limit is to be another", "requests_per_minute")
    ceiling = 0
    if asked.cost_ceiling is not None:
        ceiling = parse_credits(asked.cost_ceiling, "cost_ceiling")
        if not ceiling:
            raise Rejection("invalid_request", "A cost ceiling is above 0", "cost_ceiling")
    limits = Limits(asked.requests_per_minute or 0, asked.burst or 0, ceiling)
    check_limits(limits)
    if 0 < limits.burst < limits.requests_per_minute:
        raise Rejection("invalid_request", "The burst is at least the requests a minute", "burst")
    return limits


def _totals(counts: Counts) -> LimitRehearsalTotals:
    return LimitRehearsalTotals(
        requests=counts.requests,
        maybe_events=counts.maybe_events,
        recorded=RecordedRefusals(limited=counts.was_limited, over_cost_ceiling=counts.was_above_ceiling),
        proposed=ProposedRefusals(
            by_window=counts.by_window,
            by_ceiling=counts.by_ceiling,
            over_cost_ceiling=counts.above_ceiling,
            credits=format_credits(counts.amount_refused),
            first_at=_at(counts.first_at_ms),
            last_at=_at(counts.last_at_ms),
        ),
    )


def _project(outcome: LimitOutcome) -> LimitRehearsedProject:
    limits, requests, cost = outcome.limits, outcome.busiest_requests, outcome.busiest_cost
    return LimitRehearsedProject.model_validate(
        _totals(outcome.counts).model_dump()
        | {
            "project": outcome.project,
            "plan": outcome.plan,
            "limits": LimitTerms(
                requests_per_minute=limits.requests_per_minute,
                burst=limits.burst,
                cost_ceiling=format_credits(limits.cost_ceiling),
            ),
            "busiest_minute": BusiestMinute(
                requests=requests.amount,
                requests_at=_at(requests.at_ms),
                credits=format_credits(cost.amount),
                credits_at=_at(cost.at_ms),
            ),
        }
    )


def _at(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else utc(at_ms)
