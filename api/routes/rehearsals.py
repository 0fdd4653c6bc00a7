"""Rehearsals of prices: what a new price book would have done in the recorded days."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AdminDep, ServicesDep, problems
from api.reads import json_of
from api.routes.prices import book_of
from schemas.http.rehearsals import NewRehearsal, RehearsalResult, RehearsalTotals, RehearsedProject
from schemas.times import utc
from streams.core.booking import format_credits
from streams.core.price_list import NOTICE_DAYS
from streams.kafka.clock import now_ms
from streams.rehearsals.prices import PriceOutcome, Rehearsal, rehearse

router = APIRouter(
    prefix="/v1/admin",
    tags=["administration"],
    responses=problems(401, 403, 422, 503),
)

# A rehearsal reads the history of all projects. One at a time leaves room for everybody else.
one_at_a_time = asyncio.Lock()


@router.post("/rehearsals", response_model=RehearsalResult)
async def rehearse_prices(services: ServicesDep, caller: AdminDep, asked: NewRehearsal) -> Response:
    """Rehearse a price book: replay the last days of every project under it, by the rules that decide.

    Top-ups and plans stay as they were; a use that would have been refused is not tried again later.
    """
    now = now_ms()
    prices = services.accounts.prices()
    book = book_of(asked.book, prices.books[-1], 0, 0)
    async with one_at_a_time:
        rehearsal = await asyncio.to_thread(
            rehearse,
            services.clickhouse,
            prices,
            book,
            asked.days,
            now,
            asked.worst_max,
        )
    return await asyncio.to_thread(lambda: json_of(result_of(asked.book.version, asked.days, rehearsal)))


def result_of(version: str, days: int, rehearsal: Rehearsal) -> RehearsalResult:
    """The result of a rehearsal of prices, in the form in which answers show it."""
    total = rehearsal.total
    named = ", ".join(rehearsal.needs_notice)
    return RehearsalResult(
        version=version,
        days=days,
        since=utc(rehearsal.since_ms),
        until=utc(rehearsal.until_ms),
        projects=rehearsal.projects,
        projects_hurt=rehearsal.projects_hurt,
        totals=RehearsalTotals(
            charged=format_credits(total.charged),
            charged_proposed=format_credits(total.charged_proposed),
            difference=format_credits(total.difference),
            refused=total.refused,
            refused_proposed=total.refused_proposed,
        ),
        needs_notice=rehearsal.needs_notice,
        notice=f"Announcing this needs {NOTICE_DAYS} days: {named}" if named else "Announcing this needs no notice",
        worst=[_project(outcome) for outcome in rehearsal.worst],
    )


def _project(outcome: PriceOutcome) -> RehearsedProject:
    return RehearsedProject.model_validate(
        {
            "project": outcome.project,
            "plan": outcome.plan,
            "charged": format_credits(outcome.charged),
            "charged_proposed": format_credits(outcome.charged_proposed),
            "difference": format_credits(outcome.difference),
            "refused": outcome.refused,
            "refused_proposed": outcome.refused_proposed,
            "first_out_at": None if outcome.first_out_at_ms is None else utc(outcome.first_out_at_ms),
        }
    )
