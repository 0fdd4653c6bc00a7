"""Billing accounts, the projects that are on them, and invoices: as JSON, as CSV, and as a page to print."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime
from typing import Annotated, Literal

from aiokafka.errors import KafkaError
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.callers.keys import Caller
from api.dependencies import (
    AdminDep,
    CallerDep,
    IdempotencyKey,
    ProjectPath,
    ProjectQuery,
    ServicesDep,
    account_for,
    billing_account_for,
    decided,
    problems,
    project_for,
)
from api.negotiation import AcceptHeader, preferred
from api.services import Services
from api.views.accounts import project_now, settled_account
from api.views.csv_cells import CSV_TYPE
from api.views.invoice_files import as_html, invoice_csv
from schemas.accounts import Account
from schemas.commands import OpenBillingAccount, SetBillingAccount
from schemas.http.common import PAGE_ITEMS_MAX
from schemas.http.invoices import (
    BILLING_ACCOUNT_ID_PATTERN,
    MONTH_PATTERN,
    BilledOnInvoice,
    BillingAccount,
    BillingAccountDetails,
    BillingAccountPage,
    BillingAccountProject,
    BillingAccountTerms,
    BillingAssignment,
    BillTo,
    Invoice,
    InvoiceList,
    NewBillingAccount,
    ProjectBillingAccount,
    Status,
)
from schemas.problems import Rejection
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.billed import billed_after_move
from streams.core.projects import BILLING_PREFIX
from streams.history.invoice_terms import terms_of
from streams.history.invoice_words import format_usd
from streams.history.invoices import Month, Payer, invoice_number, read_invoice, read_months, summary
from streams.kafka.clock import now_ms

router = APIRouter(
    prefix="/v1",
    tags=["invoices"],
    responses=problems(401, 403, 404, 406, 409, 422, 503),
)

# An invoice page runs nothing and loads nothing; its logo is in it. A browser that is told so stops even what a mistake
# of ours let in.
_HTML_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

BillingAccountPath = Annotated[str, Path(pattern=BILLING_ACCOUNT_ID_PATTERN)]
MonthPath = Annotated[str, Path(pattern=MONTH_PATTERN, examples=["2026-01"])]
Format = Literal["json", "csv", "html"]
_MEDIA_TYPES: dict[str, Format] = {"application/json": "json", "text/csv": "csv", "text/html": "html"}
MonthsQuery = Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)]
MonthCursor = Annotated[str | None, Query(pattern=MONTH_PATTERN, description="The `next_cursor` of a page")]
FormatQuery = Annotated[Format | None, Query(description="Goes before Accept")]
_FILES: dict[int | str, dict[str, object]] = {
    200: {"content": {name: {"schema": {"type": "string"}} for name in ("text/csv", "text/html")}}
}


@router.post("/admin/billing-accounts", status_code=201, response_model=BillingAccount)
async def open_billing_account(
    services: ServicesDep, caller: AdminDep, asked: NewBillingAccount, idempotency_key: IdempotencyKey = ""
) -> BillingAccount:
    """Open a billing account."""
    command = OpenBillingAccount(
        project=BILLING_PREFIX + asked.id,
        name=asked.name,
        email=asked.email,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return _shown(billing_account_for(services, asked.id))


@router.get("/admin/billing-accounts", response_model=BillingAccountPage)
async def list_billing_accounts(
    services: ServicesDep,
    caller: AdminDep,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)] = 100,
    cursor: Annotated[str, Query(max_length=64)] = "",
) -> BillingAccountPage:
    """List billing accounts, by id."""

    def first_after() -> list[BillingAccount]:
        after = (each for each in services.accounts.billing_accounts() if each.project > BILLING_PREFIX + cursor)
        return [_shown(each) for each in heapq.nsmallest(limit + 1, after, key=lambda each: each.project)]

    found = await asyncio.to_thread(first_after)
    page = found[:limit]
    return BillingAccountPage(billing_accounts=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.get("/admin/billing-accounts/{billing_account}", response_model=BillingAccountDetails)
async def get_billing_account(
    services: ServicesDep,
    caller: AdminDep,
    billing_account: BillingAccountPath,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX, description="Projects")] = 100,
    cursor: Annotated[str, Query(max_length=64)] = "",
) -> BillingAccountDetails:
    """Show a billing account, and a page of the projects that are on its invoice now, by id."""
    account = _shown(billing_account_for(services, billing_account))

    def first_after() -> list[BillingAccountProject]:
        after = (each for each in services.accounts.on_billing_account(billing_account) if each.project > cursor)
        found = heapq.nsmallest(limit + 1, after, key=lambda each: each.project)
        return [BillingAccountProject(project=each.project, name=each.name) for each in found]

    found = await asyncio.to_thread(first_after)
    projects = found[:limit]
    next_cursor = projects[-1].project if len(found) > limit else None
    return BillingAccountDetails(**account.model_dump(), projects=projects, next_cursor=next_cursor)


@router.put("/admin/billing-accounts/{billing_account}", response_model=BillingAccount)
async def change_billing_account(
    services: ServicesDep,
    caller: AdminDep,
    billing_account: BillingAccountPath,
    asked: BillingAccountTerms,
    idempotency_key: IdempotencyKey = "",
) -> BillingAccount:
    """Change a billing account's name and address. Its invoices show them from now on, those of past months too."""
    command = OpenBillingAccount(
        project=BILLING_PREFIX + billing_account,
        name=asked.name,
        email=asked.email,
        is_change=True,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return _shown(billing_account_for(services, billing_account))


@router.put("/admin/projects/{project}/billing-account", response_model=BillingAssignment)
async def set_billing_account(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: ProjectBillingAccount,
    idempotency_key: IdempotencyKey = "",
) -> BillingAssignment:
    """Put a project on a billing account's invoice from now on, or on one of its own. What is booked already stays on
    the invoice it is on (`stays_behind`), unless `from_month_start` moves what this month has billed."""
    if asked.billing_account is not None:
        billing_account_for(services, asked.billing_account)
    if asked.dry_run:
        return _assignment(services, project, asked)
    command = SetBillingAccount(
        project=project,
        billing_account=asked.billing_account or "",
        is_from_month_start=asked.from_month_start,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return _assignment(services, project, asked)


@router.get("/admin/billing-accounts/{billing_account}/invoices", response_model=InvoiceList)
async def list_account_invoices(
    services: ServicesDep,
    caller: AdminDep,
    billing_account: BillingAccountPath,
    limit: MonthsQuery = 100,
    cursor: MonthCursor = None,
) -> InvoiceList:
    """List the months in which a billing account has something on its invoice, the newest first."""
    billing_account_for(services, billing_account)
    return await _list(services, caller, Payer("billing_account", billing_account), limit, cursor)


@router.get("/admin/billing-accounts/{billing_account}/invoices/{month}", response_model=Invoice, responses=_FILES)
async def get_account_invoice(
    services: ServicesDep,
    caller: AdminDep,
    billing_account: BillingAccountPath,
    month: MonthPath,
    format: FormatQuery = None,
    accept: AcceptHeader = "",
) -> Response:
    """Show a billing account's invoice for a month, by project and line; empty where nothing was booked."""
    account = billing_account_for(services, billing_account)
    bill_to = BillTo(name=account.name, email=account.email)
    payer = Payer("billing_account", billing_account)
    return await _invoice(services, caller, payer, month, bill_to, _wanted(format, accept))


@router.get("/invoices", response_model=InvoiceList)
async def list_invoices(
    services: ServicesDep,
    caller: CallerDep,
    project: ProjectQuery = None,
    limit: MonthsQuery = 100,
    cursor: MonthCursor = None,
) -> InvoiceList:
    """List the months in which a project has something on an invoice, the newest first."""
    caller.require("billing:read")
    name = project_for(caller, project)
    account_for(services, name)
    return await _list(services, caller, Payer("project", name), limit, cursor)


@router.get("/invoices/{month}", response_model=Invoice, responses=_FILES)
async def get_invoice(
    services: ServicesDep,
    caller: CallerDep,
    month: MonthPath,
    project: ProjectQuery = None,
    format: FormatQuery = None,
    accept: AcceptHeader = "",
) -> Response:
    """Show a project's own part of a month, whichever invoice it is on; one part for each invoice."""
    caller.require("billing:read")
    name = project_for(caller, project)
    bill_to = BillTo(name=account_for(services, name).name or name, email="")
    return await _invoice(services, caller, Payer("project", name), month, bill_to, _wanted(format, accept))


def _assignment(services: Services, project: str, asked: ProjectBillingAccount) -> BillingAssignment:
    """The assignment that is asked for: the project on that invoice, and what this month has billed on each."""
    account, to = settled_account(services, project), asked.billing_account or ""
    month = Month.of(datetime.now(UTC))
    found = {
        each.billing_account: BilledOnInvoice(
            invoice=invoice_number(project, each.billing_account, month),
            billing_account=each.billing_account or None,
            cents=each.cents,
            amount=format_usd(each.cents),
        )
        for each in billed_after_move(account, now_ms(), to, asked.from_month_start)
        if each.cents or each.billing_account == to
    }
    number = invoice_number(project, to, month)
    here = found.pop(to, None) or BilledOnInvoice(
        invoice=number, billing_account=asked.billing_account, cents=0, amount=format_usd(0)
    )
    info = project_now(services, project).model_dump() | {"billing_account": asked.billing_account}
    return BillingAssignment(**info, dry_run=asked.dry_run, on_invoice=here, stays_behind=list(found.values()))


def _wanted(format: Format | None, accept: str) -> Format:
    return format or _MEDIA_TYPES[preferred(accept, tuple(_MEDIA_TYPES))]


async def _invoice(
    services: Services, caller: Caller, payer: Payer, asked: str, bill_to: BillTo, format: Format
) -> Response:
    month = Month.parse(asked)
    if month > Month.of(datetime.now(UTC)):
        raise Rejection("invalid_request", f"{month} has not begun", "month")
    # The status is asked for before the invoice: a month that is complete now is complete in what is read after.
    status = await _status(services, month)

    def name_of(project: str) -> str:
        account = services.accounts.get(project)
        return account.name if account is not None else ""

    def answer(clickhouse: ClickHouse) -> Response:
        invoice = read_invoice(clickhouse, payer, month, status, bill_to, name_of, terms_of(services.settings))
        headers = {"vary": "accept"}
        match format:
            case "csv":
                headers["content-disposition"] = f'attachment; filename="{invoice.number}.csv"'
                return Response(invoice_csv(invoice), 200, headers, CSV_TYPE)
            case "html":
                headers |= {"content-security-policy": _HTML_POLICY, "x-content-type-options": "nosniff"}
                return Response(as_html(invoice, services.invoice_logo), 200, headers, "text/html")
            case "json":
                return Response(invoice.model_dump_json(), 200, headers, "application/json")

    return await services.reads.ask(caller.name, answer)


async def _list(services: Services, caller: Caller, payer: Payer, limit: int, cursor: str | None) -> InvoiceList:
    before = None if cursor is None else Month.parse(cursor)
    found = await services.reads.ask(caller.name, lambda history: read_months(history, payer, limit + 1, before))
    months = found[:limit]
    terms = terms_of(services.settings)
    return InvoiceList(
        invoices=[summary(payer, totals, await _status(services, totals.month), terms) for totals in months],
        next_cursor=str(months[-1].month) if len(found) > limit else None,
    )


async def _status(services: Services, month: Month) -> Status:
    try:
        async with asyncio.timeout(services.settings.reply_timeout_seconds):
            return "final" if await services.closing.is_complete(month.ends_at) else "open"
    except (KafkaError, TimeoutError):
        raise Rejection("not_ready", "Kafka does not say in time whether the month is complete") from None


def _shown(account: Account) -> BillingAccount:
    return BillingAccount(
        id=account.project.removeprefix(BILLING_PREFIX),
        name=account.name,
        email=account.email,
        opened_at=utc(account.signed_up_at_ms),
    )
