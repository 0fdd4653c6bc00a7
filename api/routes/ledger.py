"""The ledger of a project: its entries, newest first, paged by cursor."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from api.callers.portals import only_of
from api.dependencies import (
    CallerDep,
    ProjectQuery,
    ServicesDep,
    account_for,
    environment_for,
    problems,
    project_for,
)
from api.entries import place_in, shown_entry
from api.event_stream import EventStream, json_events
from api.instants import DAY_IN_UTC, DayOrTime, check_order, moment_in_utc
from api.live_ledger import Wanted
from schemas.events import METADATA_VALUE_CHARS_MAX
from schemas.facts import EntryKind
from schemas.http.common import EnvironmentName
from schemas.http.credits import LedgerPage
from streams.clickhouse.client import ClickHouse
from streams.history.ledger import LedgerQuestion, ledger_page
from streams.kafka.topics import partition_of

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))


OperationQuery = Annotated[str | None, Query(max_length=64, description="Only entries of this operation")]
CustomerQuery = Annotated[
    str | None,
    Query(max_length=METADATA_VALUE_CHARS_MAX, description="Only entries that name this customer"),
]
KindQuery = Annotated[EntryKind | None, Query(description="Only entries of this kind")]
_PLACE_CHARS_MAX = 64


@router.get("/ledger", response_model=LedgerPage)
async def ledger(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: Annotated[EnvironmentName | None, Query(description="Only this one's entries")] = None,
    operation: OperationQuery = None,
    customer_id: CustomerQuery = None,
    kind: KindQuery = None,
    since: Annotated[DayOrTime | None, Query(alias="from", description=f"Booked since {DAY_IN_UTC}")] = None,
    until: Annotated[DayOrTime | None, Query(alias="to", description=f"Booked before {DAY_IN_UTC}")] = None,
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
        only_of(caller, customer_id),
        kind,
        moment_in_utc(since, "from"),
        moment_in_utc(until, "to"),
    )
    check_order(question.since, question.until)
    question.sql()  # refuses a bad cursor before a thread is taken
    is_of_customer = caller.customer is not None
    return await services.reads.json(caller.name, lambda history: _page(history, question, is_of_customer))


@router.get("/ledger/stream", response_class=EventStream, status_code=200)
async def ledger_stream(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: Annotated[EnvironmentName | None, Query(description="Only this one's entries")] = None,
    operation: OperationQuery = None,
    customer_id: CustomerQuery = None,
    kind: KindQuery = None,
    after: Annotated[
        str | None, Query(max_length=_PLACE_CHARS_MAX, description="Begin after the entry of this id, not from now on")
    ] = None,
    seconds: Annotated[int | None, Query(ge=1, le=86_400, description="End after so long; left out, never")] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=_PLACE_CHARS_MAX, description="As `after`, which it stands before")
    ] = None,
) -> EventStream:
    """Follow a project's ledger as server-sent events, from now on. A message is an entry as GET /v1/ledger has it, its
    id the entry's. A preview key's entries are those of its own environment.

    With `Last-Event-ID`, which a client sends by itself when it comes back, the stream first tells what was booked
    since. Where that is more than 1,000 entries, or this reader is too slow, an event `gap` says so: load the page
    again. Comments are heartbeats. Once the key has ended, an event `end` says so, and the stream ends.
    """
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    wanted = Wanted(environment_for(caller, environment), operation, customer_id, kind)
    given = last_event_id or after
    place = None
    if given:
        field = "Last-Event-ID" if last_event_id else "after"
        place = place_in(given, field, partition_of(name, services.settings.partitions))
    opened = services.live_ledger.stream(caller, name, wanted, place)
    return EventStream(opened, json_events, services.settings.stream_heartbeat_seconds, seconds)


def _page(clickhouse: ClickHouse, question: LedgerQuestion, is_of_customer: bool) -> LedgerPage:
    rows, next_cursor = ledger_page(clickhouse, question)
    return LedgerPage(
        entries=[shown_entry(row, is_of_customer=is_of_customer) for row in rows], next_cursor=next_cursor
    )
