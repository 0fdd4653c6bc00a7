"""Billing accounts and invoices over HTTP.

Money is integer US cents, and beside it the same as text, "USD 123.45". Credits are decimal strings, exact.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from schemas.http.common import BOOKS_MAX, PAGE_ITEMS_MAX, Credits, at_most
from schemas.http.projects import ProjectInfo

# An invoice with more is refused whole: `too_much_history`.
INVOICE_LINES_MAX = 50_000
TAXES_MAX = 8
# On so many invoices a project may be within a month and have all of it moved.
BILLED_INVOICES_MAX = 16
# Lower case, so that no account's invoice can have the number of a project's.
BILLING_ACCOUNT_ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MONTH_PATTERN = r"^20\d\d-(0[1-9]|1[0-2])$"
EMAIL_PATTERN = r"^[^@\s<>]+@[^@\s<>]+$"

BillingAccountId = Annotated[str, Field(pattern=BILLING_ACCOUNT_ID_PATTERN, examples=["acme"])]
Money = Annotated[str, Field(description="US dollars, for people", examples=["USD 123.45", "USD -15.00"])]
Status = Literal["open", "final"]
LineKind = Literal[
    "subscription", "top_up", "refund", "transfer", "grant", "usage", "recurring", "correction", "expiry"
]


class BillingAccountTerms(BaseModel, extra="forbid"):
    """The name and address of the one who pays for a billing account's projects."""

    name: str = Field(min_length=1, max_length=200)
    email: str = Field(max_length=254, pattern=EMAIL_PATTERN, examples=["finance@example.com"])


class NewBillingAccount(BillingAccountTerms):
    """A billing account to open: one invoice a month for all of its projects."""

    id: BillingAccountId


class BillingAccount(BaseModel):
    """A billing account: who gets one invoice a month for all of its projects."""

    id: str
    name: str
    email: str
    opened_at: datetime


class BillingAccountProject(BaseModel):
    """A project that is on a billing account's invoice now."""

    project: str
    name: str


class BillingAccountDetails(BillingAccount):
    """A billing account with a page of its projects, by id. `next_cursor` asks for the next page; null on the last."""

    projects: list[BillingAccountProject] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None


class BillingAccountPage(BaseModel):
    """A page of billing accounts, by id. `next_cursor` asks for the next page; null on the last."""

    billing_accounts: list[BillingAccount] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None


class ProjectBillingAccount(BaseModel, extra="forbid"):
    """The billing account whose invoice a project is on from now on; null gives it an invoice of its own."""

    billing_account: BillingAccountId | None
    from_month_start: bool = Field(
        False, description="Move to that invoice, too, what this month (UTC) has billed on others: fees and purchases"
    )
    dry_run: bool = Field(False, description="Only say what would be")


class BilledOnInvoice(BaseModel):
    """The money that a project was billed this month on one invoice, before taxes."""

    invoice: str
    billing_account: str | None
    cents: int
    amount: Money


class BillingAssignment(ProjectInfo):
    """A project that is on an invoice now, or, where `dry_run`, would be; and what it was billed this month."""

    dry_run: bool
    on_invoice: BilledOnInvoice
    stays_behind: list[BilledOnInvoice] = at_most(BILLED_INVOICES_MAX)


class BillTo(BaseModel):
    """The one who pays: name and address as they are when the invoice is asked for. A project that is on no billing
    account has no address here."""

    name: str
    email: str


class Issuer(BaseModel):
    """The one who issues invoices: a name, and lines with the address, tax numbers, and how to be reached."""

    name: str
    details: list[str] = at_most(10)


class TaxLine(BaseModel):
    """A tax of an invoice, on its subtotal: rounded once, half a cent away from zero."""

    name: str
    percent: str = Field(examples=["19", "8.875"])
    cents: int
    amount: Money


class InvoiceLine(BaseModel):
    """An invoice line sums up one kind of use, purchase or charge in one project: `facts` ledger entries and charges of
    money.

    `item` is the plan, the operation, or the kind of credits. `count` is how many purchases, uses or entries there
    are; `quantity` is the units of an operation, or the unit-hours of a recurring item. `credits` is the signed change
    of the project's balance: use is negative. `cents` is 0 where prepaid credits paid.
    """

    kind: LineKind
    item: str
    detail: str = Field(
        description="Tells lines of the same item apart: auto_recharge, given_back, charged, the month of use, or the "
        "billing account that a transfer is from or to, empty for the project's own invoice"
    )
    environment: str
    count: int
    quantity: int
    unit_cents: int = Field(description="What one purchase costs; 0 where nothing was bought")
    cents: int
    paid_cents: int = Field(description="What of `cents` a card has paid")
    amount: Money
    credits: Credits
    price_versions: list[str] = at_most(BOOKS_MAX)
    facts: int
    description: str = Field(description="The line in words, for people")


class InvoiceProject(BaseModel):
    """The part of one project in an invoice. `invoice` is the number of the invoice on which it is charged."""

    project: str
    name: str
    billing_account: str | None
    invoice: str
    lines: list[InvoiceLine] = at_most(INVOICE_LINES_MAX)
    total_cents: int
    total: Money
    credits_used: Credits = Field(description="Credits charged, less those that corrections gave back")
    credits_change: Credits = Field(description="Change of the project's balance: the credits of all lines")
    facts: int


class Invoice(BaseModel):
    """An invoice covers one calendar month, UTC, by booking time: [period_from, period_to).

    `kind` is `statement` where a project is shown its own part of a billing account's invoice; a statement has no
    `bill_to`, no taxes and nothing due: what is charged is on the invoices that its parts name. `status` is `final`
    once nothing more can be booked in the month and everything that was is on it.
    """

    number: str = Field(examples=["INV-acme-2026-01"])
    kind: Literal["invoice", "statement"]
    status: Status
    month: str
    period_from: datetime
    period_to: datetime
    currency: Literal["USD"] = "USD"
    billing_account: str | None
    project: str | None = Field(description="The project whose part is shown; null on a billing account's invoice")
    bill_to: BillTo | None
    projects: list[InvoiceProject] = at_most(INVOICE_LINES_MAX)
    total_cents: int = Field(description="The subtotal and its taxes")
    total: Money
    credits_used: Credits
    facts: int
    issuer: Issuer | None
    issued_on: date | None = Field(description="The day after the period; null while the month is open")
    due_on: date | None = Field(description="The day by which the invoice is to be paid; null if nothing is due")
    memo: str
    subtotal_cents: int = Field(description="The total before taxes: the sum of the projects' totals")
    subtotal: Money
    taxes: list[TaxLine] = at_most(TAXES_MAX)
    paid_cents: int = Field(description="What a card has paid already: bundles bought by auto-recharge")
    paid: Money
    due_cents: int = Field(description="What is left to pay; negative is to be paid back; 0 on a statement")
    due: Money


class InvoiceSummary(BaseModel):
    """An invoice in short: a month in which something was booked, and what it came to."""

    month: str
    number: str
    status: Status
    projects: int
    total_cents: int
    total: Money
    credits_used: Credits
    facts: int


class InvoiceList(BaseModel):
    """A page of the months that have an invoice, the newest first. `next_cursor` asks for the next page; null on the
    last."""

    invoices: list[InvoiceSummary] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None
