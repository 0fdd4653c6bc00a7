"""The audit log: who did what, what was refused, and what keys were used for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.callers.keys import Caller
from api.dependencies import CallerDep, ProjectQuery, ServicesDep, account_for, instant, problems, project_for
from api.instants import check_order
from api.negotiation import AcceptHeader, preferred
from api.reads import json_of
from api.services import Services
from api.views.csv_cells import CSV_TYPE, as_csv
from schemas.http.audit import AUDIT_ROWS_MAX, AuditEntry, AuditKind, AuditPage, KeyUse, KeyUsePage
from schemas.http.common import GivenTime
from streams.clickhouse.client import ClickHouse
from streams.history.audit import AuditQuestion, KeyUseQuestion, audit_page, key_use_page, rows_of

router = APIRouter(prefix="/v1/audit", tags=["audit"], responses=problems(401, 403, 404, 406, 422, 503))

DAYS = 30
ROWS, CSV_ROWS = 100, AUDIT_ROWS_MAX

SinceQuery = Annotated[GivenTime | None, Query(alias="from", description=f"RFC 3339 with a zone; {DAYS} days ago")]
UntilQuery = Annotated[GivenTime | None, Query(alias="to", description="RFC 3339 with a zone; exclusive")]
LimitQuery = Annotated[int | None, Query(ge=1, le=CSV_ROWS, description=f"{ROWS}, of a CSV {CSV_ROWS}")]
CursorQuery = Annotated[str | None, Query(min_length=1, max_length=1000)]
FormatQuery = Annotated[str | None, Query(pattern="^(json|csv)$", description="Goes before Accept")]
_CSV: dict[int | str, dict[str, object]] = {
    200: {
        "content": {"text/csv": {"schema": {"type": "string"}}},
        "headers": {"Link": {"schema": {"type": "string"}, "description": 'Of a CSV: rel="next"'}},
    }
}


@router.get("", response_model=AuditPage, responses=_CSV)
async def audit(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    kind: AuditKind | None = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
    limit: LimitQuery = None,
    cursor: CursorQuery = None,
    format: FormatQuery = None,
    accept: AcceptHeader = "",
) -> Response:
    """List what was refused and what was done, newest first: in one project, or in all where an admin key names none.

    `kind`: `refusals` (402, 403, 429 and every other refusal), `shadow` (requests that limits on trial would have
    refused), `limits`, `prices`, `grants` (bundles, refunds, corrections), `projects` (opened, closed, plan, standing,
    badge, items), `keys` (made, revoked), `billing`, `recharge`, `endpoints`, `notices` (their rules). GET
    /v1/audit/keys says what keys were used for.
    """
    named = _named(services, caller, project)
    begin, end = _period(since, until)
    is_csv = _wants_csv(format, accept)
    question = AuditQuestion(named, begin, end, limit or (CSV_ROWS if is_csv else ROWS), kind, cursor)

    def answer(clickhouse: ClickHouse) -> Response:
        entries, following = audit_page(clickhouse, question)
        if is_csv:
            return _csv(request, "audit", list(AuditEntry.model_fields), entries, following)
        return json_of(AuditPage(since=begin, until=end, entries=entries, next_cursor=following))

    return await services.reads.ask(caller.name, answer)


@router.get("/keys", response_model=KeyUsePage, responses=_CSV)
async def key_use(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
    limit: LimitQuery = None,
    cursor: CursorQuery = None,
    format: FormatQuery = None,
    accept: AcceptHeader = "",
) -> Response:
    """List what keys were used for, by the hour: first and last use, how many uses, and how many of those were refused.

    Uses are summed up when this is asked for; each single use stays in the history. GET /v1/audit says what an admin
    key did to a project.
    """
    named = _named(services, caller, project)
    begin, end = _period(since, until)
    is_csv = _wants_csv(format, accept)
    question = KeyUseQuestion(named, begin, end, limit or (CSV_ROWS if is_csv else ROWS), cursor)

    def answer(clickhouse: ClickHouse) -> Response:
        rows, following = key_use_page(clickhouse, question)
        if is_csv:
            return _csv(request, "key-use", list(KeyUse.model_fields), rows, following)
        return json_of(KeyUsePage(since=begin, until=end, rows=rows, next_cursor=following))

    return await services.reads.ask(caller.name, answer)


def _named(services: Services, caller: Caller, project: str | None) -> str | None:
    """The project that is asked about; None, for an admin key, is all of them. Raises Rejection."""
    caller.require("audit:read")
    if caller.project is None and project is None:
        return None
    name = project_for(caller, project)
    account_for(services, name)
    return name


def _period(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    end = datetime.now(UTC) + timedelta(seconds=1) if until is None else instant(until, "to")
    begin = end - timedelta(days=DAYS) if since is None else instant(since, "from")
    check_order(since, until)
    return begin, end


def _wants_csv(format: str | None, accept: str) -> bool:
    return format == "csv" or (format is None and preferred(accept, ("application/json", "text/csv")) == "text/csv")


def _csv(
    request: Request,
    name: str,
    columns: Sequence[str],
    entries: Sequence[AuditEntry] | Sequence[KeyUse],
    following: str | None,
) -> Response:
    headers = {"vary": "accept", "content-disposition": f'attachment; filename="{name}.csv"'}
    if following is not None:
        url = request.url.include_query_params(cursor=following)
        headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
    rows = ([row[column] for column in columns] for row in rows_of(entries))
    return Response(as_csv(columns, rows), 200, headers, CSV_TYPE)
