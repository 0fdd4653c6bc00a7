"""Holds: the credits of queued jobs, and how they are resolved. POST /v1/admissions with `hold` places one, and the
usage event of the same `source` and `id` captures it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.callers.keys import Caller
from api.dependencies import (
    CallerDep,
    CurrentCallerDep,
    IdempotencyKey,
    ProjectQuery,
    ServicesDep,
    account_for,
    decided,
    problems,
    project_for,
)
from api.instants import DAY_IN_UTC, DayOrTime, check_order, moment_in_utc
from api.views.pages import page_of
from schemas.accounts import Account, Hold
from schemas.commands import CaptureHold, ExtendHold, ReleaseHold
from schemas.events import METADATA_VALUE_CHARS_MAX
from schemas.http.common import PAGE_ITEMS_MAX, EnvironmentName
from schemas.http.holds import (
    CaptureRequest,
    ExtendRequest,
    HoldInfo,
    HoldPage,
    HoldResult,
    HoldState,
    ReleaseRequest,
    SettledHoldPage,
)
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import format_credits, parse_credits
from streams.core.customers import customer_name
from streams.core.foreign import read
from streams.core.ledger import settled
from streams.core.price_list import Prices
from streams.history.holds import SettledHoldsQuestion, settled_hold_page
from streams.kafka.clock import now_ms

router = APIRouter(
    prefix="/v1/holds",
    tags=["holds"],
    responses=problems(401, 403, 404, 409, 422, 503),
)

_decode_metadata = msgspec.json.Decoder(dict[str, Any]).decode
HoldPath = Annotated[str, Path(max_length=80, description="The `hold_id` of the admission")]


@router.get("", response_model=HoldPage)
async def open_holds(
    services: ServicesDep,
    caller: CurrentCallerDep,
    project: ProjectQuery = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)] = PAGE_ITEMS_MAX,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HoldPage:
    """List the open holds, the oldest first. A project's key sees those of its own environment."""
    caller.require("content:read")
    account = account_for(services, project_for(caller, project))
    holds = _open(account, caller, services.accounts.prices())
    page, next_cursor = page_of(holds, lambda hold: (hold.held_at_ms, hold.id), limit, cursor)
    return HoldPage(holds=[hold_info(hold) for hold in page], next_cursor=next_cursor)


@router.get("/settled", response_model=SettledHoldPage)
async def settled_holds(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: Annotated[EnvironmentName | None, Query(description="Only this one's holds")] = None,
    state: Annotated[HoldState | None, Query(description="Only holds that were settled so")] = None,
    customer_id: Annotated[
        str | None, Query(max_length=METADATA_VALUE_CHARS_MAX, description="Only holds that name this customer")
    ] = None,
    since: Annotated[DayOrTime | None, Query(alias="from", description=f"Settled since {DAY_IN_UTC}")] = None,
    until: Annotated[DayOrTime | None, Query(alias="to", description=f"Settled before {DAY_IN_UTC}")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """List the holds that were captured, were released or have expired, the newest first; filters go together. A
    project's key sees those of its own environment."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    question = SettledHoldsQuestion(
        name,
        limit,
        cursor,
        _seen_environment(caller, environment),
        state,
        customer_id,
        moment_in_utc(since, "from"),
        moment_in_utc(until, "to"),
    )
    check_order(question.since, question.until)
    question.sql()  # refuses a bad cursor before a thread is taken

    def page(history: ClickHouse) -> SettledHoldPage:
        holds, next_cursor = settled_hold_page(history, question)
        return SettledHoldPage(holds=holds, next_cursor=next_cursor)

    return await services.reads.json(caller.name, page)


@router.get("/{hold_id}", response_model=HoldInfo)
async def one_hold(
    services: ServicesDep, caller: CurrentCallerDep, hold_id: HoldPath, project: ProjectQuery = None
) -> HoldInfo:
    """Show one open hold."""
    caller.require("content:read")
    account = account_for(services, project_for(caller, project))
    for hold in _open(account, caller, services.accounts.prices()):
        if hold.id == hold_id:
            return hold_info(hold)
    raise Rejection("unknown_hold", f"There is no open hold {hold_id!r}: captured, released, expired, or never placed")


@router.post("/{hold_id}/capture", response_model=HoldResult)
async def capture(
    services: ServicesDep,
    caller: CallerDep,
    hold_id: HoldPath,
    asked: CaptureRequest | None = None,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> HoldResult:
    """Capture a hold: charge its job what was held, or less. A repeat of the same capture gets the same answer. A hold
    that its usage event captured, or another capture, is found so: `already_decided`, with the credits of that."""
    caller.require("content:write")
    credits = asked.credits if asked is not None else None
    amount = -1 if credits is None else parse_credits(credits, "credits")
    key = idempotency_key or f"capture:{_environment(caller)}:{hold_id}:{amount}"
    reply, offset = await decided(
        services,
        CaptureHold(
            project=project_for(caller, project),
            hold_id=hold_id,
            environment=_environment(caller),
            amount=amount,
            **services.commands.addressing(key, caller.key_id),
        ),
    )
    return _result(hold_id, "captured", reply, offset)


@router.post("/{hold_id}/release", response_model=HoldResult)
async def release(
    services: ServicesDep,
    caller: CallerDep,
    hold_id: HoldPath,
    asked: ReleaseRequest | None = None,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> HoldResult:
    """Release a hold: charge nothing, since the job failed and the customer is not to blame. A repeat gets the same
    answer."""
    caller.require("content:write")
    reason = asked.reason if asked is not None else ""
    key = idempotency_key or f"release:{_environment(caller)}:{hold_id}:{reason}"
    reply, offset = await decided(
        services,
        ReleaseHold(
            project=project_for(caller, project),
            hold_id=hold_id,
            environment=_environment(caller),
            reason=reason,
            **services.commands.addressing(key, caller.key_id),
        ),
    )
    return _result(hold_id, "released", reply, offset)


@router.post("/{hold_id}/extend", response_model=HoldResult)
async def extend(
    services: ServicesDep,
    caller: CallerDep,
    hold_id: HoldPath,
    asked: ExtendRequest,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> HoldResult:
    """Extend a hold: let it last this long from now."""
    caller.require("content:write")
    reply, offset = await decided(
        services,
        ExtendHold(
            project=project_for(caller, project),
            hold_id=hold_id,
            environment=_environment(caller),
            seconds=asked.seconds,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return _result(hold_id, "extended", reply, offset)


def hold_info(hold: Hold) -> HoldInfo:
    """A hold in the form in which answers show it."""
    return HoldInfo(
        hold_id=hold.id,
        job_id=hold.job_id,
        environment=hold.environment,
        operation=hold.lines[0].operation,
        quantity=hold.lines[0].quantity,
        credits=format_credits(sum(part.amount for part in hold.parts)),
        price_version=hold.price_version,
        source=hold.source,
        event_id=hold.event_id,
        customer_id=_customer_of(hold),
        held_at=utc(hold.held_at_ms),
        expires_at=utc(hold.expires_at_ms),
    )


def _open(account: Account, caller: Caller, prices: Prices) -> list[Hold]:
    settled(account, now_ms(), prices)
    environment = _environment(caller)
    return [hold for hold in account.holds if environment in ("", hold.environment)]


def _customer_of(hold: Hold) -> str:
    said = read(_decode_metadata, hold.metadata) if hold.metadata else {}
    return customer_name(said.get("customer_id"))


def _seen_environment(caller: Caller, named: EnvironmentName | None) -> EnvironmentName | None:
    """The environment whose settled holds a caller is shown, None for both: a project's key sees its own. Raises
    Rejection `wrong_environment`."""
    if caller.project is None:
        return named
    own: EnvironmentName = "preview" if caller.environment == "preview" else "production"
    if named not in (None, own):
        raise Rejection("wrong_environment", f"This key sees the holds of {own}, not of {named}", "environment")
    return own


def _environment(caller: Caller) -> str:
    """The environment that a project's key is bound to; an admin key is bound to none."""
    return "" if caller.project is None else caller.environment


def _result(
    hold_id: str, outcome: Literal["captured", "released", "extended"], reply: Reply, offset: int
) -> HoldResult:
    return HoldResult(
        hold_id=hold_id,
        outcome=outcome,
        credits=format_credits(reply.amount),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
        already_decided=reply.already_decided,
    )
