"""Dead letters: what was sent and could not be taken, for operators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.dependencies import AdminDep, ServicesDep, instant, problems
from api.instants import check_order
from schemas.http.common import PAGE_ITEMS_MAX, GivenTime
from schemas.http.dead_letters import DeadLetterPage, DeadLetterSummary
from streams.clickhouse.client import ClickHouse
from streams.history.dead_letters import DeadLetterQuestion, dead_letter_of, dead_letter_page

router = APIRouter(prefix="/v1/admin/dead-letters", tags=["administration"], responses=problems(401, 403, 422, 503))

DAYS = 30
# What is no event may name anything.
TEXT_CHARS_MAX = 512


@router.get("", response_model=DeadLetterPage)
async def dead_letters(
    services: ServicesDep,
    caller: AdminDep,
    code: Annotated[str | None, Query(pattern="^[a-z_]{1,64}$", description="Those of this error code alone")] = None,
    source: Annotated[
        str | None, Query(max_length=TEXT_CHARS_MAX, description="Those whose events name this source alone")
    ] = None,
    project: Annotated[
        str | None,
        Query(max_length=TEXT_CHARS_MAX, description="Those whose events name this project alone, be there one or not"),
    ] = None,
    since: Annotated[
        GivenTime | None, Query(alias="from", description=f"RFC 3339 with a zone; {DAYS} days ago if left out")
    ] = None,
    until: Annotated[GivenTime | None, Query(alias="to", description="RFC 3339 with a zone; exclusive")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)] = 100,
    cursor: Annotated[str | None, Query(min_length=1, max_length=1000)] = None,
) -> Response:
    """List what was sent and could not be taken, newest first, each with its reason and the remedy; filters go
    together.

    A text is cut here; GET /v1/admin/dead-letters/{id} has all that is kept of it.
    """
    end = datetime.now(UTC) + timedelta(seconds=1) if until is None else instant(until, "to")
    begin = end - timedelta(days=DAYS) if since is None else instant(since, "from")
    check_order(since, until)
    question = DeadLetterQuestion(begin, end, limit, code, source, project, cursor)

    def page(clickhouse: ClickHouse) -> DeadLetterPage:
        found, following = dead_letter_page(clickhouse, question)
        return DeadLetterPage(since=begin, until=end, dead_letters=found, next_cursor=following)

    return await services.reads.json(caller.name, page)


@router.get("/{dead_letter_id}", response_model=DeadLetterSummary, responses=problems(404))
async def dead_letter(
    services: ServicesDep, caller: AdminDep, dead_letter_id: Annotated[str, Path(max_length=400)]
) -> DeadLetterSummary:
    """Give one dead letter, with as much of its text as is kept."""
    return await services.reads.ask(caller.name, lambda history: dead_letter_of(history, dead_letter_id))
