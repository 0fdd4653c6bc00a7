"""Usage: rollups of what was charged, by operation, environment, time or metadata, as pages of JSON or one CSV file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import (
    CallerDep,
    ProjectQuery,
    ServicesDep,
    account_for,
    environment_for,
    instant,
    problems,
    project_for,
)
from api.negotiation import AcceptHeader, preferred
from api.views.csv_cells import Cell, csv_pieces, number_or_text
from schemas.http.usage import USAGE_ROWS_MAX, UsageReport, UsageRow
from streams.clickhouse.client import ClickHouse
from streams.core.booking import format_credits
from streams.history.usage import CURSOR_CHARS_MAX, UsageCursor, UsageQuestion, usage_page, usage_rows

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 406, 422, 503))


_UNTIL_NOW = "RFC 3339 with a zone; exclusive"


@router.get(
    "/usage",
    response_model=UsageReport,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def usage(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    group_by: Annotated[
        str,
        Query(
            max_length=400,
            description="Comma-separated: operation, customer_id, environment, hour, day, month, metadata.<key>",
        ),
    ] = "operation",
    since: Annotated[datetime | None, Query(alias="from", description="RFC 3339 with a zone; 30 days ago")] = None,
    until: Annotated[datetime | None, Query(alias="to", description=_UNTIL_NOW)] = None,
    limit: Annotated[int, Query(ge=1, le=USAGE_ROWS_MAX, description="Of JSON; a CSV has all rows")] = USAGE_ROWS_MAX,
    cursor: Annotated[
        str | None, Query(max_length=CURSOR_CHARS_MAX, description="Of JSON; it also stands for `from` and `to`")
    ] = None,
    format: Annotated[str | None, Query(pattern="^(json|csv)$", description="Goes before Accept")] = None,
    accept: AcceptHeader = "",
) -> Response:
    """Sum up what was charged, by group, as JSON or CSV. Times are those of booking, so a past period never changes.
    A preview key's usage is that of its own environment."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    place = None if cursor is None else UsageCursor.parse(cursor)
    # The pages of one report are about one time, which is said with the first.
    if place is not None:
        since, until = since or place.since, until or place.until
    end = instant(until, "to") if until else datetime.now(UTC) + timedelta(seconds=1)
    begin = instant(since, "from") if since else end - timedelta(days=30)
    groups = [group for group in group_by.split(",") if group]
    question = UsageQuestion(name, groups, begin, end, environment_for(caller, None))
    if place is not None:
        question.check(place)
    question.sql()  # refuses what can't be asked before a thread is taken
    if format == "csv" or (format is None and preferred(accept, ("application/json", "text/csv")) == "text/csv"):
        columns = [*groups, "uses", "quantity", "credits"]

        def pieces(history: ClickHouse) -> Iterator[bytes]:
            # Metadata may have numbers as well as texts.
            rows: Iterator[list[Cell]] = (
                [*map(number_or_text, group), int(uses), int(quantity), Decimal(credits)]
                for *group, uses, quantity, credits in usage_rows(history, question)
            )
            return csv_pieces(columns, rows, quotes_texts=True)

        return await services.reads.csv(caller.name, f"usage-{name}", pieces)
    paged = replace(question, limit=limit, after=None if place is None else place.values)
    return await services.reads.json(caller.name, lambda history: _report(history, paged))


def _report(clickhouse: ClickHouse, question: UsageQuestion) -> UsageReport:
    rows, next_cursor = usage_page(clickhouse, question)
    return UsageReport(
        project=question.project,
        group_by=question.group_by,
        since=question.since,
        until=question.until,
        rows=[
            UsageRow(group=group, uses=uses, quantity=quantity, credits=format_credits(microcredits))
            for group, uses, quantity, microcredits in rows
        ],
        next_cursor=next_cursor,
    )
