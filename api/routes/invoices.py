"""Billing accounts, the projects that are on them, and invoices: as JSON, as CSV, and as a page to print."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Literal

from aiokafka.errors import KafkaError
from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response

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
from api.services import Services
from api.views.accounts import project_now
from api.views.invoice_files import as_csv, as_html
from schemas.accounts import Account
from schemas.commands import OpenBillingAccount, SetBillingAccount
from schemas.http.invoices import (
    BILLING_ACCOUNT_ID_PATTERN,
    MONTH_PATTERN,
    BillingAccount,
    BillingAccountDetails,
    BillingAccountPage,
    BillingAccountProject,
    BillingAccountTerms,
    BillTo,
    Invoice,
    InvoiceList,
    NewBillingAccount,
    ProjectBillingAccount,
    Status,
)
from schemas.http.projects import ProjectInfo
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.projects import BILLING_PREFIX
from streams.history.invoices import Month, Payer, read_invoice, read_months, summary

router = APIRouter(
    prefix="/v1",
    tags=["invoices"],
    responses=problems(401, 403, 404, 409, 422, 503),
)

# An invoice page runs nothing and loads nothing. A browser that is told so stops even what a mistake of ours let in.
_HTML_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

BillingAccountPath = Annotated[str, Path(pattern=BILLING_ACCOUNT_ID_PATTERN)]
MonthPath = Annotated[str, Path(pattern=MONTH_PATTERN, examples=["2026-01"])]
Format = Literal["json", "csv", "html"]
_MEDIA_TYPES: dict[str, Format] = {"application/json": "json", "text/csv": "csv", "text/html": "html"}
FormatQuery = Annotated[Format | None, Query(description="Goes before Accept")]
Accept = Annotated[str, Header()]
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
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str, Query(max_length=64)] = "",
) -> BillingAccountPage:
    """List billing accounts, by id."""
    accounts = await asyncio.to_thread(lambda: [_shown(each) for each in services.accounts.billing_accounts()])
    after = sorted((each for each in accounts if each.id > cursor), key=lambda each: each.id)
    page = after[:limit]
    return BillingAccountPage(billing_accounts=page, next_cursor=page[-1].id if len(after) > limit else None)


@router.get("/admin/billing-accounts/{billing_account}", response_model=BillingAccountDetails)
async def get_billing_account(
    services: ServicesDep, caller: AdminDep, billing_account: BillingAccountPath
) -> BillingAccountDetails:
    """Show a billing account, and the projects that are on its invoice now."""
    account = _shown(billing_account_for(services, billing_account))
    projects = await asyncio.to_thread(
        lambda: [
            BillingAccountProject(project=each.project, name=each.name)
            for each in services.accounts.on_billing_account(billing_account)
        ]
    )
    return BillingAccountDetails(**account.model_dump(), projects=sorted(projects, key=lambda each: each.project))


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


@router.put("/admin/projects/{project}/billing-account", response_model=ProjectInfo)
async def set_billing_account(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: ProjectBillingAccount,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo:
    """Put a project on a billing account's invoice from now on, or on one of its own. Charges that are booked already
    stay on the invoice they are on."""
    if asked.billing_account is not None:
        billing_account_for(services, asked.billing_account)
    command = SetBillingAccount(
        project=project,
        billing_account=asked.billing_account or "",
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return project_now(services, project)


@router.get("/admin/billing-accounts/{billing_account}/invoices", response_model=InvoiceList)
async def list_account_invoices(
    services: ServicesDep, caller: AdminDep, billing_account: BillingAccountPath
) -> InvoiceList:
    """List the months in which a billing account has something on its invoice, the newest first."""
    billing_account_for(services, billing_account)
    return await _list(services, Payer("billing_account", billing_account))


@router.get("/admin/billing-accounts/{billing_account}/invoices/{month}", response_model=Invoice, responses=_FILES)
async def get_account_invoice(
    services: ServicesDep,
    caller: AdminDep,
    billing_account: BillingAccountPath,
    month: MonthPath,
    format: FormatQuery = None,
    accept: Accept = "",
) -> Response:
    """Show a billing account's invoice for a month, by project and line; empty where nothing was booked."""
    account = billing_account_for(services, billing_account)
    bill_to = BillTo(name=account.name, email=account.email)
    return await _invoice(services, Payer("billing_account", billing_account), month, bill_to, format, accept)


@router.get("/invoices", response_model=InvoiceList)
async def list_invoices(services: ServicesDep, caller: CallerDep, project: ProjectQuery = None) -> InvoiceList:
    """List the months in which a project has something on an invoice, the newest first."""
    caller.require("billing:read")
    name = project_for(caller, project)
    account_for(services, name)
    return await _list(services, Payer("project", name))


@router.get("/invoices/{month}", response_model=Invoice, responses=_FILES)
async def get_invoice(
    services: ServicesDep,
    caller: CallerDep,
    month: MonthPath,
    project: ProjectQuery = None,
    format: FormatQuery = None,
    accept: Accept = "",
) -> Response:
    """Show a project's own part of a month, whichever invoice it is on; one part for each invoice."""
    caller.require("billing:read")
    name = project_for(caller, project)
    bill_to = BillTo(name=account_for(services, name).name or name, email="")
    return await _invoice(services, Payer("project", name), month, bill_to, format, accept)


def wanted_format(accept: str) -> Format:
    """The format that an Accept header prefers among ours; JSON where it names none of them."""
    best: tuple[float, Format] = (0.0, "json")
    for asked in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in asked.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media_type in _MEDIA_TYPES and quality > best[0]:
            best = (quality, _MEDIA_TYPES[media_type])
    return best[1]


async def _invoice(
    services: Services, payer: Payer, asked: str, bill_to: BillTo, format: Format | None, accept: str
) -> Response:
    month = Month.parse(asked)
    if month > Month.of(datetime.now(UTC)):
        raise Rejection("invalid_request", f"{month} has not begun", "month")
    # The status is asked for before the invoice: a month that is complete now is complete in what is read after.
    status = await _status(services, month)

    def name_of(project: str) -> str:
        account = services.accounts.get(project)
        return account.name if account is not None else ""

    invoice = await asyncio.to_thread(read_invoice, services.clickhouse, payer, month, status, bill_to, name_of)
    headers = {"vary": "accept"}
    match format or wanted_format(accept):
        case "csv":
            headers["content-disposition"] = f'attachment; filename="{invoice.number}.csv"'
            return Response(as_csv(invoice), 200, headers, "text/csv; charset=utf-8; header=present")
        case "html":
            headers |= {"content-security-policy": _HTML_POLICY, "x-content-type-options": "nosniff"}
            return Response(as_html(invoice), 200, headers, "text/html")
    return Response(invoice.model_dump_json(), 200, headers, "application/json")


async def _list(services: Services, payer: Payer) -> InvoiceList:
    months = await asyncio.to_thread(read_months, services.clickhouse, payer)
    return InvoiceList(invoices=[summary(payer, totals, await _status(services, totals.month)) for totals in months])


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
