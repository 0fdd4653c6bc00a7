"""Usage: rollups of what was charged, by operation, environment, time or metadata, as JSON or CSV."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from api.dependencies import CallerDep, ProjectQuery, ServicesDep, account_for, instant, problems, project_for
from schemas.http.usage import UsageReport, UsageRow
from streams.core.booking import format_credits
from streams.history.usage import UsageQuestion, usage_csv, usage_rows

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))


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
    format: Annotated[str | None, Query(pattern="^(json|csv)$", description="Goes before Accept")] = None,
    accept: Annotated[str, Header()] = "",
) -> Response | UsageReport:
    """Sum up what was charged, by group, as JSON or CSV. Times are those of booking, so a past period never changes."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    end = instant(until, "to") if until else datetime.now(UTC) + timedelta(seconds=1)
    question = UsageQuestion(
        name,
        [group for group in group_by.split(",") if group],
        instant(since, "from") if since else end - timedelta(days=30),
        end,
    )
    if format == "csv" or (format is None and "text/csv" in accept):
        question.sql()  # refuse before the answer's head is sent
        chunks = await asyncio.to_thread(usage_csv, services.clickhouse, question)
        return StreamingResponse(
            chunks, media_type="text/csv", headers={"content-disposition": f'attachment; filename="usage-{name}.csv"'}
        )
    rows = await asyncio.to_thread(usage_rows, services.clickhouse, question)
    return UsageReport(
        project=name,
        group_by=question.group_by,
        since=question.since,
        until=question.until,
        rows=[
            UsageRow(group=group, uses=uses, quantity=quantity, credits=format_credits(microcredits))
            for group, uses, quantity, microcredits in rows
        ],
    )
