"""Balances, ledger entries, bundles, refunds and auto-recharge over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from pydantic import BaseModel, Field

from schemas.http.common import PAGE_ITEMS_MAX, Credits, EnvironmentName, GivenTime, at_most


class AllowanceBalance(BaseModel):
    """The allowance of this month of the plan: credits granted, what is left of them, and when it renews. Credits of an
    ended month count in both as long as a job holds them."""

    granted: Credits
    remaining: Credits
    held: Credits = Field(description="What jobs hold of it")
    renews_at: datetime


class TopUpBalance(BaseModel):
    """Credits that were bought at once, as a bundle or by contract, and what is left of them."""

    grant_id: str
    granted: Credits
    remaining: Credits
    granted_at: datetime


class PromotionalBalance(BaseModel):
    """Promotional credits that were given at once, and what is left of them until they end. After the end that is what
    jobs hold of them."""

    grant_id: str
    granted: Credits
    remaining: Credits
    granted_at: datetime
    expires_at: datetime


class Balance(BaseModel):
    """The balance of one environment's budget. It may be up to `lag_ms` old; `offset` is the last intake record that
    it includes.

    `available` and `held` together are what remains of the allowance, of all promotional grants and of all bundles. A
    page lists promotional grants first, then bundles. What jobs hold of each kind sums to `held`.
    """

    project: str
    plan: str
    environment: EnvironmentName
    available: Credits
    held: Credits
    allowance: AllowanceBalance | None
    promotional: list[PromotionalBalance] = at_most(
        PAGE_ITEMS_MAX, description="Of the page, the promotional grants, the earliest end first"
    )
    promotional_count: int = Field(description="How many promotional grants there are")
    promotional_remaining: Credits = Field(description="What is left of all of them together")
    promotional_held: Credits = Field(description="What jobs hold of all of them together")
    top_ups: list[TopUpBalance] = at_most(PAGE_ITEMS_MAX, description="Of the page, what was bought, the oldest first")
    top_ups_count: int = Field(description="How many purchases have credits left")
    top_ups_remaining: Credits = Field(description="What is left of all of them together")
    top_ups_held: Credits = Field(description="What jobs hold of all of them together")
    holds_count: int | None = Field(description="How many holds are open; null of an earlier time")
    spent_24h: Credits | None = Field(description="Spent in the last 24 hours; null of an earlier time")
    empty_at: datetime | None = Field(
        description="When nothing is available any more, at the pace of the last 24 hours; null where nothing is spent"
    )
    renews_at: datetime = Field(description="When the plan's next month begins")
    next_cursor: str | None = Field(description="Asks for the next page of grants; null on the last")
    as_of: datetime
    lag_ms: int
    offset: int


class AllowanceAnswer(msgspec.Struct):
    """An AllowanceBalance as it is sent; see BalanceAnswer."""

    granted: str
    remaining: str
    held: str
    renews_at: datetime


class TopUpAnswer(msgspec.Struct):
    """A TopUpBalance as it is sent; see BalanceAnswer."""

    grant_id: str
    granted: str
    remaining: str
    granted_at: datetime


class PromotionalAnswer(msgspec.Struct):
    """A PromotionalBalance as it is sent; see BalanceAnswer."""

    grant_id: str
    granted: str
    remaining: str
    granted_at: datetime
    expires_at: datetime


class BalanceAnswer(msgspec.Struct, kw_only=True):
    """A Balance as it is sent: msgspec makes it and its bytes in a tenth of pydantic's time. Fields, order and bytes
    are those of the documented shape."""

    project: str
    plan: str
    environment: str
    available: str
    held: str
    allowance: AllowanceAnswer | None
    promotional: list[PromotionalAnswer]
    promotional_count: int
    promotional_remaining: str
    promotional_held: str
    top_ups: list[TopUpAnswer]
    top_ups_count: int
    top_ups_remaining: str
    top_ups_held: str
    holds_count: int | None
    spent_24h: str | None
    empty_at: datetime | None
    renews_at: datetime
    next_cursor: str | None
    as_of: datetime
    lag_ms: int
    offset: int


class LedgerEntry(BaseModel):
    """A ledger entry is one movement of credits on one grant; immutable."""

    entry_id: str
    kind: str
    environment: str
    operation: str
    quantity: int
    amount: Credits = Field(description="Signed: a charge is negative")
    balance: Credits = Field(
        description="The balance of the entry's budget after it, held credits included; empty in a customer's portal"
    )
    grant_id: str = Field(description="The grant that it is on; empty in a customer's portal")
    reason: str
    price_version: str
    source: str
    event_id: str
    job_id: str
    customer_id: str
    occurred_at: datetime
    booked_at: datetime
    metadata: dict[str, str | int | float | bool | None]


class LedgerPage(BaseModel):
    """A page of ledger entries, newest first. `next_cursor` asks for the next page; null on the last."""

    entries: list[LedgerEntry] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None


class NewTopUp(BaseModel, extra="forbid"):
    """Credits that were bought and are to be granted: a bundle ($20 gives 4,000 credits, $100 20,000, $500 100,000), or
    an amount by contract with what it cost."""

    bundle_usd: Literal[20, 100, 500] | None = Field(None, description="A bundle, by its price")
    credits: Credits | None = Field(None, description="By contract: credits as a decimal string, at most 1,000,000,000")
    price_cents: int | None = Field(None, description="By contract: what they cost, in US cents, 1 to 1,000,000,000")
    environment: EnvironmentName = "production"
    reference: str = Field("", max_length=200, description="The payment's own reference: counts once for each project")


class TopUpResult(BaseModel):
    """Credits that were bought and granted."""

    project: str
    environment: EnvironmentName
    granted: Credits
    cents: int = Field(description="US cents that are due for them")
    available: Credits
    entry_id: str
    offset: int


class NewGrant(BaseModel, extra="forbid"):
    """Promotional credits to give: they are spent after the allowance and before any bundle, and what is left of them
    at `expires_at` is gone."""

    amount: Credits = Field(description="Credits as a decimal string: above 0, at most 10,000,000")
    reason: str = Field(min_length=1, max_length=200, description="Why they are given; kept with the entry")
    expires_at: GivenTime = Field(description="RFC 3339 with a zone: when they end, at most 1,830 days ahead")
    environment: EnvironmentName = "production"


class GrantResult(BaseModel):
    """Promotional credits that were given."""

    project: str
    environment: EnvironmentName
    grant_id: str
    granted: Credits
    reason: str
    expires_at: datetime
    available: Credits
    entry_id: str
    offset: int


class NewRefund(BaseModel, extra="forbid"):
    """Credits that were bought, to take back; their `grant_id` is in GET /v1/balance."""

    grant_id: str = Field(min_length=1, max_length=64)
    reason: str = Field("", max_length=200)


class RefundResult(BaseModel):
    """The refund of credits that were bought: those that were taken back, and the money that is given back for them."""

    project: str
    grant_id: str
    taken_back: Credits
    refund_cents: int = Field(description="US cents, for the unused credits at the price that was paid, rounded down")
    pay_back: str = Field(description="Who pays the money back: you, since Meterline moves none")
    available: Credits
    entry_id: str
    offset: int


class AutoRechargeTerms(BaseModel, extra="forbid"):
    """Auto-recharge buys a bundle when fewer than `threshold` credits are available, for at most `cap_usd` a calendar
    month (UTC). The threshold is at most what one bundle brings.

    `payment_method` names the card or account that is charged, as the payment provider does: `cus_…/pm_…` at Stripe.
    """

    on: bool
    threshold: Credits = "0"
    bundle_usd: Literal[20, 100, 500] = 20
    cap_usd: int = Field(0, ge=0, le=100_000)
    payment_method: str = Field("", max_length=200)


class AutoRechargeInfo(AutoRechargeTerms):
    """A project's terms of auto-recharge, and what it has bought by them."""

    spent_usd: int = Field(description="Spent this calendar month, a purchase under way included")
    pending: str | None = Field(description="The id of the purchase under way")
    failures: int = Field(description="How many purchases in a row have failed")
    blocked_until: datetime | None = Field(description="After a failed purchase, nothing is bought before this time")
