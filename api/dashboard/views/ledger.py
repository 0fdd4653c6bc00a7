"""The ledger of a project, live: new entries come by themselves, older ones by the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query
from pydantic import TypeAdapter
from starlette.responses import Response

from api.dashboard import pages
from api.dashboard.entry_rows import about_of, row_of, row_renderer
from api.dashboard.spans import midnight
from api.dashboard.view import PageRoute, ProjectViewDep, View, sessions_of
from api.dependencies import account_for
from api.entries import LiveEntry, place_in
from api.event_stream import EventStream
from api.instants import DayOrTime, moment_in_utc
from api.live_ledger import Turn, Wanted
from schemas.facts import ENTRY_KINDS, EntryKind
from schemas.problems import Rejection
from schemas.times import utc
from streams.kafka.clock import now_ms
from streams.kafka.topics import partition_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)

ROWS = 50
# So many stay on a page that goes on by itself: older ones are on the next.
ROWS_KEPT_MAX = 200
KINDS: Final = {
    "charge": "Charges",
    "grant": "Grants",
    "expiry": "Grants that ended",
    "refund": "Refunds",
    "correction": "Corrections",
}
assert tuple(KINDS) == ENTRY_KINDS
_FILTERS = ("operation", "customer_id", "kind", "from", "to")
_INSTANTS = TypeAdapter[date](DayOrTime)


@router.get("/ledger")
async def ledger(view: ProjectViewDep) -> Response:
    """Show a project's ledger."""
    asked = {name: view.query.get(name, "") for name in _FILTERS}
    cursor = view.query.get("cursor", "")
    entries = view.parts(entries=view.url("/dashboard/ledger/rows", cursor=cursor, **asked))
    prices, parts = await asyncio.gather(view.get("/v1/prices"), entries)
    return view.page(
        "ledger.html",
        asked=asked,
        is_filtered=any(asked.values()),
        cursor=cursor,
        parts=parts,
        kinds=KINDS,
        operations=sorted(each["operation"] for each in prices.data["prices"]) if prices else [],
    )


@router.get("/ledger/rows")
async def ledger_rows(
    view: ProjectViewDep, limit: Annotated[int, Query(ge=1, le=ROWS_KEPT_MAX)] = ROWS, brief: bool = False
) -> Response:
    """Show the entries of a ledger as a table that goes on by itself, unless it is of the past; `brief` as a part of
    another page."""
    asked = {name: view.query.get(name) or None for name in _FILTERS}
    cursor = view.query.get("cursor") or None
    times = {name: midnight(asked.pop(name), name, view.session.tz) for name in ("from", "to")}
    # Before the history is asked, which may know more by then, and never less.
    lag_ms = view.services.pipeline.history_lag_ms()
    answer = await view.get("/v1/ledger", environment=view.environment, limit=limit, cursor=cursor, **asked, **times)
    if answer.problem is not None:
        return view.error(answer.problem)
    entries = answer.data["entries"]
    # As the API has read it, which takes more spellings of a time than Python.
    until = moment_in_utc(_INSTANTS.validate_python(times["to"]), "to") if times["to"] else None
    is_live = cursor is None and (until is None or until > datetime.now(UTC))
    assert view.project is not None
    nowhere = f"{partition_of(view.project, view.services.settings.partitions)}-0-0"
    stream = view.url("/dashboard/ledger/stream", **asked, after=entries[0]["entry_id"] if entries else nowhere)
    return view.fragment(
        "partials/ledger_table.html",
        rows=[row_of(each, _about(view)) for each in entries],
        stream=stream if is_live else "",
        rows_max=limit if brief else ROWS_KEPT_MAX,
        older=answer.data["next_cursor"] if not brief else None,
        is_brief=brief,
        is_filtered=any(view.query.get(name) for name in _FILTERS),
        is_new=False,
        as_of=None if lag_ms is None else utc(now_ms() - lag_ms),
    )


@router.get("/ledger/stream")
async def ledger_stream(
    view: ProjectViewDep,
    after: Annotated[str, Query(max_length=64)],
    operation: Annotated[str | None, Query(max_length=64)] = None,
    customer_id: Annotated[str | None, Query(max_length=512)] = None,
    kind: EntryKind | None = None,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """Send the rows of new entries, as they are decided, for as long as the session and its key last."""
    services, caller = view.services, view.caller
    assert view.project is not None
    events_of = _events_for(view)
    try:
        caller.require("content:read")
        account_for(services, view.project)
        services.live_ledger.check_room(caller)
        partition = partition_of(view.project, services.settings.partitions)
        place = place_in(last_event_id or after, "after", partition)
    except Rejection as rejection:
        return Response(events_of(Turn(ended=rejection)), 200, pages.HEADERS, media_type=EventStream.media_type)
    wanted = Wanted(view.environment, operation or None, customer_id or None, kind)
    left = view.session.expires_at - time.time()
    is_signed_out = partial(sessions_of(view.request).is_signed_out, view.session)
    opened = services.live_ledger.stream(caller, view.project, wanted, place, is_signed_out)
    stream = EventStream(opened, events_of, services.settings.stream_heartbeat_seconds, left)
    stream.headers.update(pages.HEADERS)
    return stream


def _events_for(view: View) -> Callable[[Turn], bytes]:
    """The function that makes events of a turn: a message has rows, the newest first, or a part that says what is
    missing."""
    render = row_renderer(view.session.tz, _about(view))

    def events_of(turn: Turn) -> bytes:
        place = f"id: {turn.place}\n".encode() if turn.place else b""
        if turn.ended is not None:
            told = view.rendered("partials/ledger_told.html", gap="", ended=turn.ended)
            return _message(told.encode()) + b"event: end\ndata: end\n\n"
        events = b""
        if turn.gap:
            events = place + _message(view.rendered("partials/ledger_told.html", gap=turn.gap, ended=None).encode())
        if turn.entries:
            events += place + _message(b"".join(_rows(turn, render)))
        return events or b": nothing new\n" + place + b"\n"

    return events_of


def _rows(turn: Turn, render: Callable[[LiveEntry], bytes]) -> list[bytes]:
    return [entry.once(render) for entry in turn.entries[-ROWS_KEPT_MAX:][::-1]]


def _message(html: bytes) -> bytes:
    return b"".join(b"data: %s\n" % line for line in html.splitlines() if line.strip()) + b"\n"


def _about(view: View) -> str:
    """The query of a page about the same project and environment as this one."""
    other = view.environment if view.environment != view.caller.environment else None
    return about_of(view.project if view.is_admin else None, other)
