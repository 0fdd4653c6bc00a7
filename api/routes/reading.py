"""Looking things up: balances, the ledger, usage, prices, the project itself."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from api.dependencies import (
    CallerDep,
    CurrentCallerDep,
    ProjectQuery,
    ServicesDep,
    account_for,
    instant,
    project_for,
    utc,
)
from api.past_balance import account_as_of
from api.services import Services
from schemas.answers import (
    AllowanceBalance,
    Balance,
    EnvironmentName,
    ItemInfo,
    ItemList,
    KeyInfo,
    LedgerEntry,
    LedgerPage,
    ProjectInfo,
    TopUpBalance,
    UsageReport,
    UsageRow,
)
from schemas.ledger import Account
from schemas.problems import Problem, Rejection
from streams.core.booking import Booking, available, format_credits, held
from streams.core.items import metered, unpaid
from streams.core.ledger import settle
from streams.core.limits import limits_of
from streams.core.price_list import Prices
from streams.reports import LedgerQuestion, UsageQuestion, ledger_page, usage_csv, usage_rows

_ERRORS: dict[int | str, dict[str, object]] = {code: {"model": Problem} for code in (401, 403, 404, 422, 503)}

router = APIRouter(prefix="/v1", tags=["reading"], responses=_ERRORS)

_UNTIL_NOW = "RFC 3339 with a zone; exclusive"


@router.get("/balance", response_model=Balance)
async def balance(
    services: ServicesDep,
    caller: CurrentCallerDep,
    project: ProjectQuery = None,
    environment: EnvironmentName | None = None,
    min_offset: Annotated[
        int | None, Query(ge=0, description="Wait until the answer holds this intake offset (read your writes)")
    ] = None,
    at: Annotated[datetime | None, Query(description="RFC 3339 with a zone: as it was then")] = None,
) -> Balance:
    """The budget as it is now, and how fresh that is; or as it was `at` an earlier time."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    if at is not None:
        past, at_ms, lag_ms = await account_as_of(services, name, at)
        return balance_of(past, environment or caller.environment, at_ms, lag_ms)
    if min_offset is not None:
        timeout_seconds = services.settings.reply_timeout_seconds
        if not await services.accounts.wait_for(name, min_offset, timeout_seconds):
            raise Rejection("not_ready", f"Offset {min_offset} was not reached within {timeout_seconds:g} seconds")
    lag_ms = services.accounts.lag_ms(name)
    account = account_for(services, name)
    now_ms = time.time_ns() // 1_000_000
    settle(Booking(account, 0, 0, 0, now_ms, [], services.accounts.prices()))
    return balance_of(account, environment or caller.environment, now_ms, lag_ms)


@router.get("/ledger", response_model=LedgerPage)
async def ledger(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    environment: EnvironmentName | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> LedgerPage:
    """Every entry, newest first."""
    caller.require("content:read")
    name = project_for(caller, project)
    account_for(services, name)
    question = LedgerQuestion(name, limit, cursor, environment)
    rows, next_cursor = await asyncio.to_thread(ledger_page, services.clickhouse, question)
    return LedgerPage(
        entries=[
            LedgerEntry.model_validate(
                row
                | {
                    "amount": format_credits(row["amount"]),
                    "balance": format_credits(row["balance"]),
                    "metadata": msgspec.json.decode(row["metadata"]) if row["metadata"] else {},
                    "occurred_at": _utc(row["occurred_at"]),
                    "booked_at": _utc(row["booked_at"]),
                }
            )
            for row in rows
        ],
        next_cursor=next_cursor,
    )


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
    """What was charged, by group, as JSON or CSV. Times are those of booking, so a past period never changes."""
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


@router.get("/projects/me", response_model=ProjectInfo)
async def me(services: ServicesDep, caller: CurrentCallerDep, project: ProjectQuery = None) -> ProjectInfo:
    """The project this key belongs to, with the limits that hold now."""
    caller.require("content:read")
    return project_now(services, project_for(caller, project))


@router.get("/items", response_model=ItemList)
async def items(services: ServicesDep, caller: CurrentCallerDep, project: ProjectQuery = None) -> ItemList:
    """The project's recurring line items, and what they come to so far this month."""
    caller.require("content:read")
    account = account_for(services, project_for(caller, project))
    now_ms = time.time_ns() // 1_000_000
    settle(Booking(account, 0, 0, 0, now_ms, [], services.accounts.prices()))
    return item_list(account, services.accounts.prices(), now_ms)


def item_list(account: Account, prices: Prices, now_ms: int) -> ItemList:
    """An account's recurring line items, as they are shown."""
    book = prices.at(now_ms)
    shown = []
    for item in account.items:
        unit_hours, amount = metered(item, prices, now_ms)
        shown.append(
            ItemInfo(
                item=item.operation,
                quantity=item.quantity,
                credits_an_hour=format_credits(book.hourly.get(item.operation, 0)),
                unit_hours=unit_hours,
                credits=format_credits(amount),
                unpaid=format_credits(unpaid([item])),
            )
        )
    return ItemList(
        project=account.project,
        billed_at=utc(account.month_ends_at_ms) if account.month_ends_at_ms else None,
        items=shown,
    )


def balance_of(account: Account, environment: str, now_ms: int, lag_ms: int) -> Balance:
    """An account's budget in one environment, as it is shown."""
    grants = [grant for grant in account.grants if grant.environment == environment]
    # One that has expired is there for what a job still holds of it.
    allowances = [grant for grant in grants if grant.kind == "allowance" and grant.expires_at_ms > now_ms]
    return Balance(
        project=account.project,
        plan=account.plan,
        environment=environment,
        available=format_credits(available(account, environment)),
        held=format_credits(held(account, environment)),
        allowance=AllowanceBalance(
            granted=format_credits(sum(grant.granted for grant in allowances)),
            remaining=format_credits(sum(grant.remaining for grant in allowances)),
            renews_at=utc(account.renews_at_ms),
        )
        if allowances
        else None,
        top_ups=[
            TopUpBalance(
                grant_id=grant.id,
                granted=format_credits(grant.granted),
                remaining=format_credits(grant.remaining),
                granted_at=utc(grant.granted_at_ms),
            )
            for grant in grants
            if grant.kind == "top_up"
        ],
        as_of=utc(now_ms - max(lag_ms, 0)),
        lag_ms=lag_ms,
        offset=account.last_offset,
    )


def settled_account(services: Services, project: str) -> Account:
    """The project's account as it is now. What time brings is booked when an account is next touched; until then it is
    due, and an answer counts it in. Raises Rejection `unknown_project` or `not_ready`."""
    account = account_for(services, project)
    settle(Booking(account, 0, 0, 0, time.time_ns() // 1_000_000, [], services.accounts.prices()))
    return account


def project_now(services: Services, project: str) -> ProjectInfo:
    """A project as it is shown now. Raises Rejection `unknown_project` or `not_ready`."""
    return _project_info(settled_account(services, project))


def _project_info(account: Account) -> ProjectInfo:
    """No hash leaves the process."""
    limits = limits_of(account)
    return ProjectInfo(
        project=account.project,
        name=account.name,
        plan=account.plan,
        requests_per_minute=limits.requests_per_minute,
        burst=limits.burst,
        cost_ceiling=format_credits(limits.cost_ceiling),
        raised_until=min((utc(each.ends_at_ms) for each in account.raises if each.is_on), default=None),
        signed_up_at=utc(account.signed_up_at_ms),
        renews_at=utc(account.renews_at_ms),
        next_plan=account.next_plan or None,
        good_standing=account.is_in_good_standing,
        closed_at=utc(account.closed_at_ms) if account.closed_at_ms else None,
        badge_required=account.plan == "free",
        badge_shown=account.plan == "free" or not account.badge_off,
        billing_account=account.billing_account or None,
        keys=[
            KeyInfo(
                key_id=key.id,
                environment=key.environment,
                scopes=key.scopes,
                created_at=utc(key.created_at_ms),
                revoked_at=utc(key.revoked_at_ms) if key.revoked_at_ms else None,
            )
            for key in account.keys
        ],
    )


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
