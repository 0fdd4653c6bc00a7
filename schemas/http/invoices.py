"""Billing accounts and invoices, as they are asked for and shown.

Money is integer US cents, and beside it the same as text, "USD 123.45". Credits are decimal strings, exact.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from schemas.http.common import Credits

# Lower case, so that no account's invoice can have the number of a project's.
BILLING_ACCOUNT_ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MONTH_PATTERN = r"^20\d\d-(0[1-9]|1[0-2])$"
EMAIL_PATTERN = r"^[^@\s<>]+@[^@\s<>]+$"

BillingAccountId = Annotated[str, Field(pattern=BILLING_ACCOUNT_ID_PATTERN, examples=["acme"])]
Money = Annotated[str, Field(description="US dollars, for people", examples=["USD 123.45", "USD -15.00"])]
Status = Literal["open", "final"]
LineKind = Literal["subscription", "top_up", "refund", "grant", "usage", "recurring", "correction", "expiry"]


class BillingAccountTerms(BaseModel, extra="forbid"):
    """Who pays for a billing account's projects."""

    name: str = Field(min_length=1, max_length=200)
    email: str = Field(max_length=254, pattern=EMAIL_PATTERN, examples=["finance@example.com"])


class NewBillingAccount(BillingAccountTerms):
    """A billing account to open: one invoice a month for all of its projects."""

    id: BillingAccountId


class BillingAccount(BaseModel):
    """A billing account."""

    id: str
    name: str
    email: str
    opened_at: datetime


class BillingAccountProject(BaseModel):
    """A project that is on a billing account's invoice now."""

    project: str
    name: str


class BillingAccountDetails(BillingAccount):
    """A billing account with its projects, by id."""

    projects: list[BillingAccountProject]


class BillingAccountPage(BaseModel):
    """Billing accounts by id. `next_cursor` goes on; None at the end."""

    billing_accounts: list[BillingAccount]
    next_cursor: str | None


class ProjectBillingAccount(BaseModel, extra="forbid"):
    """Whose invoice a project is on from now on; None is one of its own."""

    billing_account: BillingAccountId | None


class BillTo(BaseModel):
    """Who pays, as it is known when the invoice is asked for. A project of its own has no address here."""

    name: str
    email: str


class InvoiceLine(BaseModel):
    """What is due or was done, of one kind, in one project; it stands for `facts` ledger entries and charges of money.

    `item` is the plan, the operation, or what kind of credits. `count` is how many purchases, uses or entries;
    `quantity` the units of an operation, the unit-hours of a recurring item. `credits` is the signed change of the
    project's balance: use is negative. `cents` is 0 for what prepaid credits paid for.
    """

    kind: LineKind
    item: str
    detail: str = Field(description="What sets it apart: auto_recharge, given_back, charged, or the month of use")
    environment: str
    count: int
    quantity: int
    unit_cents: int = Field(description="What one purchase costs; 0 where nothing was bought")
    cents: int
    amount: Money
    credits: Credits
    price_versions: list[str]
    facts: int


class InvoiceProject(BaseModel):
    """One project's part of one invoice. `invoice` is the number of the invoice that it is charged on."""

    project: str
    name: str
    billing_account: str | None
    invoice: str
    lines: list[InvoiceLine]
    total_cents: int
    total: Money
    credits_used: Credits = Field(description="Charged, less what corrections gave back")
    credits_change: Credits = Field(description="Of the balance: all lines' credits")
    facts: int


class Invoice(BaseModel):
    """A calendar month, UTC, by booking time, in [period_from, period_to).

    `kind` is `statement` where a project is shown what of it stands on another's invoice; that one has no `bill_to`.
    `status` is `final` once nothing can be booked in the month any more and all that was is on it.
    """

    number: str = Field(examples=["INV-acme-2026-01"])
    kind: Literal["invoice", "statement"]
    status: Status
    month: str
    period_from: datetime
    period_to: datetime
    currency: Literal["USD"] = "USD"
    billing_account: str | None
    project: str | None = Field(description="The project that is shown its own part; None on a billing account's")
    bill_to: BillTo | None
    projects: list[InvoiceProject]
    total_cents: int
    total: Money
    credits_used: Credits
    facts: int


class InvoiceSummary(BaseModel):
    """A month that has something."""

    month: str
    number: str
    status: Status
    projects: int
    total_cents: int
    total: Money
    credits_used: Credits
    facts: int


class InvoiceList(BaseModel):
    """Months, the newest first."""

    invoices: list[InvoiceSummary]
