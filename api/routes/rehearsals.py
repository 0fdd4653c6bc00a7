"""Rehearsals of prices: what a new price book would have done in the recorded days."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from api.dependencies import AdminDep, ServicesDep, problems
from api.errors import problem_of_failure, problem_of_rejection, request_id_of
from api.negotiation import AcceptHeader, preferred
from api.reads import json_of
from api.routes.prices import book_of
from api.services import Services
from schemas.http.problems import Problem
from schemas.http.rehearsals import (
    LimitRehearsalResult,
    NewRehearsal,
    RehearsalProgress,
    RehearsalResult,
    RehearsalTotals,
    RehearsedProject,
)
from schemas.prices import PriceBook
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.booking import format_credits
from streams.core.price_list import NOTICE_DAYS
from streams.kafka.clock import now_ms
from streams.rehearsals.prices import PriceOutcome, Rehearsal, rehearse

router = APIRouter(
    prefix="/v1/admin",
    tags=["administration"],
    responses=problems(401, 403, 406, 422, 503),
)

# A rehearsal reads the history of all projects. One at a time leaves room for everybody else.
one_at_a_time = asyncio.Lock()


LINES = "application/x-ndjson"
PROGRESS_SECONDS = 0.5

OnProgress = Callable[[int, int], None]
AnyRehearsalResult = RehearsalResult | LimitRehearsalResult


@router.post(
    "/rehearsals",
    response_model=RehearsalResult,
    responses={200: {"content": {LINES: {"schema": {"type": "string"}}}}},
)
async def rehearse_prices(
    request: Request, services: ServicesDep, caller: AdminDep, asked: NewRehearsal, accept: AcceptHeader = ""
) -> Response:
    """Rehearse a price book: replay the last days of every project under it, by the rules that decide.

    Top-ups and plans stay as they were; a use that would have been refused is not tried again later.

    As application/x-ndjson it is a JSON object a line: `done` of `all` projects; the last one has the `result`, or a
    `problem`.
    """
    book = book_of(asked.book, services.accounts.prices().books[-1], 0, 0)
    if preferred(accept, ("application/json", LINES)) == LINES:
        lines = progress_lines(request, lambda on_progress: _rehearsed(services, asked, book, on_progress))
        return StreamingResponse(lines, media_type=LINES)
    result = await _rehearsed(services, asked, book, lambda _done, _all: None)
    return await asyncio.to_thread(json_of, result)


async def progress_lines(
    request: Request, run: Callable[[OnProgress], Coroutine[Any, Any, AnyRehearsalResult]]
) -> AsyncIterator[bytes]:
    """The lines of a streamed rehearsal: its progress now and then, and at last its result or problem. Once nobody
    reads the lines, the rehearsal ends with the page of history that it is at."""
    line = RehearsalProgress(done=0, all=0)
    nobody_reads = threading.Event()

    def on_progress(done: int, of: int) -> None:
        if nobody_reads.is_set():
            raise _NobodyReads
        line.done, line.all = done, of

    running = asyncio.create_task(run(on_progress))
    # Where the reader has left, the outcome is fetched and dropped, so that no unread exception is logged.
    running.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        while not running.done():
            yield _encoded(line)
            await asyncio.wait([running], timeout=PROGRESS_SECONDS)
        try:
            line.result = running.result()
        except Rejection as rejection:
            line.problem = Problem.model_validate(problem_of_rejection(request_id_of(request), rejection))
        except Exception as error:
            line.problem = Problem.model_validate(problem_of_failure(request_id_of(request), error))
        yield _encoded(line)
    finally:
        nobody_reads.set()


class _NobodyReads(Exception):
    """Raised to end a rehearsal whose reader has left."""


def _encoded(line: RehearsalProgress) -> bytes:
    return line.model_dump_json(exclude_defaults=True).encode() + b"\n"


async def _rehearsed(
    services: Services, asked: NewRehearsal, book: PriceBook, on_progress: OnProgress
) -> RehearsalResult:
    async with one_at_a_time:
        rehearsal = await asyncio.to_thread(
            rehearse,
            services.clickhouse,
            services.accounts.prices(),
            book,
            asked.days,
            now_ms(),
            asked.worst_max,
            on_progress,
        )
    return await asyncio.to_thread(result_of, asked.book.version, asked.days, rehearsal)


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
