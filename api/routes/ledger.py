"""The ledger of a project: its entries, newest first, paged by cursor."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import (
    CallerDep,
    ProjectQuery,
    ServicesDep,
    account_for,
    environment_for,
    problems,
    project_for,
)
from api.instants import DayOrTime, moment
from schemas.events import METADATA_VALUE_CHARS_MAX
from schemas.facts import EntryKind
from schemas.http.common import EnvironmentName
from schemas.http.credits import LedgerEntry, LedgerPage
from schemas.times import in_utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import format_credits
from streams.history.ledger import LedgerQuestion, ledger_page

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))


OperationQuery = Annotated[str | None, Query(max_length=64, description="Only entries of this operation")]
CustomerQuery = Annotated[
    str | None,
    Query(max_length=METADATA_VALUE_CHARS_MAX, description="Only entries that name this customer"),
]
KindQuery = Annotated[EntryKind | None, Query(description="Only entries of this kind")]
_UTC = ZoneInfo("UTC")
_DAY = "RFC 3339 with a zone, or a day, which begins at midnight UTC"


@router.get("/ledger", response_model=LedgerPage)
async def ledger(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: Annotated[EnvironmentName | None, Query(description="Only this one's entries")] = None,
    operation: OperationQuery = None,
    customer_id: CustomerQuery = None,
    kind: KindQuery = None,
    since: Annotated[DayOrTime | None, Query(alias="from", description=f"Booked since {_DAY}")] = None,
    until: Annotated[DayOrTime | None, Query(alias="to", description=f"Booked before {_DAY}")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """List the entries of a project's ledger, newest first; filters go together. A preview key's are those of its own
    environment."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    question = LedgerQuestion(
        name,
        limit,
        cursor,
        environment_for(caller, environment),
        operation,
        customer_id,
        kind,
        moment(since, "from", _UTC) if since else None,
        moment(until, "to", _UTC) if until else None,
    )
    question.sql()  # refuses a bad cursor before a thread is taken
    return await services.reads.json(caller.name, lambda history: _page(history, question))


def _page(clickhouse: ClickHouse, question: LedgerQuestion) -> LedgerPage:
    rows, next_cursor = ledger_page(clickhouse, question)
    return LedgerPage(
        entries=[
            LedgerEntry.model_validate(
                row
                | {
                    "amount": format_credits(row["amount"]),
                    "balance": format_credits(row["balance"]),
                    "metadata": msgspec.json.decode(row["metadata"]) if row["metadata"] else {},
                    "occurred_at": in_utc(row["occurred_at"]),
                    "booked_at": in_utc(row["booked_at"]),
                }
            )
            for row in rows
        ],
        next_cursor=next_cursor,
    )
