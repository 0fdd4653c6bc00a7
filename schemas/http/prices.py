"""Prices and price books over HTTP."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import OPERATIONS_MAX, Credits, GivenTime, PlanName, at_most

BOOKS_PAGE_MAX = 50


class NewPriceBook(BaseModel, extra="forbid"):
    """A price book to announce. `rates`, `hourly` and `plan_required` name only what differs from the last book
    announced; null takes a price away. A book that makes anything dearer takes effect 30 days from now or later."""

    version: str = Field(pattern=r"^[A-Za-z0-9._-]{1,32}$", examples=["2027-01"])
    effective_at: GivenTime
    rates: dict[str, Credits | None] = Field({}, max_length=500, description="Credits for one unit")
    hourly: dict[str, Credits | None] = Field({}, max_length=500, description="Credits for one unit and hour")
    plan_required: dict[str, PlanName | None] = Field({}, max_length=500)
    note: str = Field("", max_length=2000, description="For the changelog")


class PriceChange(BaseModel):
    """An operation whose price, or the plan it needs, differs from the book before; null where there is no price or
    plan."""

    operation: str
    before: Credits | None
    after: Credits | None
    plan_before: PlanName | None
    plan_after: PlanName | None


class PriceBookInfo(BaseModel):
    """A price book and how it differs from the one before."""

    version: str
    announced_at: datetime | None
    effective_at: datetime | None = Field(description="Null for the first book: it held from the beginning")
    in_force: bool
    withdrawn_at: datetime | None = Field(description="When it was withdrawn: it never took effect; null otherwise")
    note: str
    changes: list[PriceChange] = at_most(2 * OPERATIONS_MAX)


class PriceChangelog(BaseModel):
    """A page of the price books, the newest first. `next_cursor` asks for the next page; null on the last."""

    books: list[PriceBookInfo] = at_most(BOOKS_PAGE_MAX)
    next_cursor: str | None


class Price(BaseModel):
    """The price of one unit of an operation."""

    operation: str
    credits: Credits
    plan_required: PlanName | None


class PriceList(BaseModel):
    """The price book in force. `prices` are credits for one unit; `hourly`, for recurring line items, credits for one
    unit and hour."""

    version: str
    prices: list[Price] = at_most(OPERATIONS_MAX)
    hourly: list[Price] = at_most(OPERATIONS_MAX)
