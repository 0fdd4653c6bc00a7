"""Usage: rollups of what was charged, by operation, environment, time or metadata, as pages of JSON or one file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from api.dependencies import (
    METADATA_FILTER,
    CallerDep,
    ProjectQuery,
    ServicesDep,
    account_for,
    environment_for,
    problems,
    project_for,
)
from api.groups import groups_in
from api.instants import DayOrTime, check_order, moment
from api.negotiation import AcceptHeader, preferred
from api.services import Services
from api.views.usage import usage_csv
from schemas.events import METADATA_VALUE_CHARS_MAX
from schemas.http.common import EnvironmentName
from schemas.http.usage import USAGE_ROWS_MAX, PreviousUsage, UsageReport, UsageRow
from schemas.problems import Rejection
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import format_credits
from streams.history.periods import GRANULARITIES, zone_named
from streams.history.usage import (
    CURSOR_CHARS_MAX,
    OUTCOMES,
    TOP_MAX,
    UsageCursor,
    UsageOfGroup,
    UsageQuestion,
    usage_page,
)
from streams.history.usage_files import usage_parquet
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 406, 422, 503))


_JSON, _CSV, _PARQUET = _FORMS = ("application/json", "text/csv", "application/vnd.apache.parquet")
_BYTES = {"type": "string", "format": "binary"}
_NAMED = {"json": _JSON, "csv": _CSV, "parquet": _PARQUET}
_DAY = "RFC 3339 with a zone, or a day, which begins at midnight in `tz`"
_FILTERS_MAX = 5


class _Form(NamedTuple):
    """How usage is summed up: the fields of a UsageQuestion."""

    group_by: list[str]
    granularity: str | None
    tz: str
    by: str
    top: int | None
    compare: bool


async def _form(
    group_by: Annotated[
        str,
        Query(
            max_length=400,
            description="Comma-separated: operation, customer_id, environment, outcome, hour, day, month, "
            'metadata.<key>, which is in double quotes where the key has a comma: "metadata.a,b"',
        ),
    ] = "operation",
    granularity: Annotated[
        str | None,
        Query(max_length=8, description=f"Groups by `period` first: {', '.join(GRANULARITIES)}; weeks from Monday"),
    ] = None,
    tz: Annotated[str, Query(max_length=64, description="The IANA zone of periods and days")] = "UTC",
    by: Annotated[
        str,
        Query(max_length=16, description="booked_at: past periods never change; occurred_at: late uses change them"),
    ] = "booked_at",
    top: Annotated[
        int | None,
        Query(ge=1, le=TOP_MAX, description="Only so many groups, by credits, and all others as one row: `other`"),
    ] = None,
    compare: Annotated[
        str | None,
        Query(pattern="^previous$", description="previous: each row has the sums of the time before, as long in `tz`"),
    ] = None,
) -> _Form:
    return _Form(groups_in(group_by), granularity, tz, by, top, compare is not None)


async def _filters(
    request: Request,
    operation: Annotated[str | None, Query(max_length=64, description="Only this one's usage")] = None,
    customer_id: Annotated[
        str | None, Query(max_length=METADATA_VALUE_CHARS_MAX, description="Only this one's usage")
    ] = None,
    outcome: Annotated[
        str | None,
        Query(max_length=16, description=f"{', '.join(OUTCOMES)}; charged where neither this nor a group `outcome` is"),
    ] = None,
    _: Annotated[str | None, Query(alias=METADATA_FILTER, description="Only usage with this value")] = None,
) -> tuple[tuple[str, str], ...]:
    """The filters of a question, each by another name: those named, and the request's `metadata.<key>`. Raises
    Rejection."""
    named = {"operation": operation, "customer_id": customer_id, "outcome": outcome}
    asked = [(name, value) for name, value in named.items() if value is not None]
    asked += [(name, value) for name, value in request.query_params.multi_items() if name.startswith("metadata.")]
    if len(asked) > _FILTERS_MAX:
        raise Rejection("invalid_request", f"At most {_FILTERS_MAX} filters", asked[_FILTERS_MAX][0][:80])
    names = [name for name, _ in asked]
    for name, value in asked:
        if names.count(name) > 1:
            raise Rejection("invalid_request", f"A use has one {name[:80]}; filter by one value", name[:80])
        if len(value) > METADATA_VALUE_CHARS_MAX:
            raise Rejection("invalid_request", f"At most {METADATA_VALUE_CHARS_MAX} characters", name[:80])
    return tuple(asked)


@router.get(
    "/usage",
    response_model=UsageReport,
    responses={200: {"content": {_CSV: {"schema": {"type": "string"}}, _PARQUET: {"schema": _BYTES}}}},
)
async def usage(
    services: ServicesDep,
    caller: CallerDep,
    form: Annotated[_Form, Depends(_form)],
    where: Annotated[tuple[tuple[str, str], ...], Depends(_filters)],
    project: ProjectQuery = None,
    environment: Annotated[EnvironmentName | None, Query(description="Only this one's usage")] = None,
    since: Annotated[DayOrTime | None, Query(alias="from", description=f"{_DAY}; 30 days ago")] = None,
    until: Annotated[DayOrTime | None, Query(alias="to", description=f"{_DAY}; exclusive")] = None,
    limit: Annotated[int, Query(ge=1, le=USAGE_ROWS_MAX, description="Of JSON; a file has all rows")] = USAGE_ROWS_MAX,
    cursor: Annotated[
        str | None, Query(max_length=CURSOR_CHARS_MAX, description="Of JSON; it also stands for `from` and `to`")
    ] = None,
    format: Annotated[str | None, Query(pattern="^(json|csv|parquet)$", description="Goes before Accept")] = None,
    accept: AcceptHeader = "",
) -> Response:
    """Sum up what was charged, by group and period, as JSON, CSV or Parquet. Times are those of booking unless `by`
    says otherwise, so a past period never changes. A preview key's usage is that of its own environment. All that was
    decided by `as_of` is counted; a file has that, and `lag_ms`, in headers: meterline-as-of and meterline-lag-ms.
    Refused and limited requests are counted where `outcome` is asked for."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    place = None if cursor is None else UsageCursor.parse(cursor)
    zone = zone_named(form.tz)
    # The pages of one report are about one time, which is said with the first.
    end = moment(until, "to", zone) if until else place.until if place else datetime.now(UTC) + timedelta(seconds=1)
    begin = moment(since, "from", zone) if since else place.since if place else end - timedelta(days=30)
    if since and until:
        check_order(begin, end)
    of_environment = environment_for(caller, environment)
    if caller.customer is not None:
        where = (*(each for each in where if each[0] != "customer_id"), ("customer_id", caller.customer))
    question = UsageQuestion(
        project=name, since=begin, until=end, environment=of_environment, where=where, **form._asdict()
    )
    paged = replace(
        question, limit=limit if form.top is None else USAGE_ROWS_MAX, after=place.values if place else None
    )
    if place is not None and form.top is None:
        question.check(place)
    paged.sql()  # refuses what can't be asked before a thread is taken
    # Before the history is asked, which may know more by then, and never less.
    freshness = _freshness(services)
    media_type = _NAMED[format] if format is not None else preferred(accept, _FORMS)
    if media_type != _JSON:
        kind, pieces = ("csv", usage_csv) if media_type == _CSV else ("parquet", usage_parquet)
        response = await services.reads.file(
            caller.name, f"usage-{name}.{kind}", media_type, lambda history: pieces(history, question)
        )
        if freshness.as_of is not None:
            response.headers["meterline-as-of"] = freshness.as_of.isoformat().replace("+00:00", "Z")
            response.headers["meterline-lag-ms"] = str(freshness.lag_ms)
        return response
    return await services.reads.json(caller.name, lambda history: _report(history, paged, freshness))


class _Freshness(NamedTuple):
    as_of: datetime | None
    lag_ms: int | None


def _freshness(services: Services) -> _Freshness:
    """Until when the history is known to be complete. The watch over Kafka knows it, and looks once a second."""
    lag_ms = services.pipeline.history_lag_ms()
    return _Freshness(None if lag_ms is None else utc(now_ms() - lag_ms), lag_ms)


def _report(clickhouse: ClickHouse, question: UsageQuestion, freshness: _Freshness) -> UsageReport:
    page = usage_page(clickhouse, question)
    return UsageReport(
        project=question.project,
        group_by=question.columns,
        granularity=question.granularity,
        tz=question.tz,
        by=question.by,
        since=question.since,
        until=question.until,
        top=question.top,
        previous_since=question.previous[0] if question.compare else None,
        previous_until=question.previous[1] if question.compare else None,
        rows=list(map(_row, page.rows)),
        next_cursor=page.next_cursor,
        as_of=freshness.as_of,
        lag_ms=freshness.lag_ms,
        rows_read=page.rows_read,
    )


def _row(found: UsageOfGroup) -> UsageRow:
    before = found.previous
    return UsageRow(
        group=found.group,
        uses=found.uses,
        quantity=found.quantity,
        credits=format_credits(found.microcredits),
        other=found.is_other,
        previous=before
        and PreviousUsage(uses=before.uses, quantity=before.quantity, credits=format_credits(before.microcredits)),
    )
