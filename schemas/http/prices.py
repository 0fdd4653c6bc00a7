"""Prices and price books over HTTP."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import Credits, PlanName


class NewPriceBook(BaseModel, extra="forbid"):
    """A price book to announce. `rates`, `hourly` and `plan_required` name what differs from the last one announced;
    null takes a price away. Anything that makes something dearer takes effect 30 days from now or later."""

    version: str = Field(pattern=r"^[A-Za-z0-9._-]{1,32}$", examples=["2027-01"])
    effective_at: datetime
    rates: dict[str, Credits | None] = Field({}, max_length=500, description="Credits for one unit")
    hourly: dict[str, Credits | None] = Field({}, max_length=500, description="Credits for one unit and hour")
    plan_required: dict[str, PlanName | None] = Field({}, max_length=500)
    note: str = Field("", max_length=2000, description="For the changelog")


class PriceChange(BaseModel):
    """An operation whose price, or the plan it needs, differs from the book before; None where there is none."""

    operation: str
    before: Credits | None
    after: Credits | None
    plan_before: PlanName | None
    plan_after: PlanName | None


class PriceBookInfo(BaseModel):
    """A price book and how it differs from the one before."""

    version: str
    announced_at: datetime | None
    effective_at: datetime | None = Field(description="None for the first: it held from the beginning")
    in_force: bool
    note: str
    changes: list[PriceChange]


class PriceChangelog(BaseModel):
    """Every price book, the newest first."""

    books: list[PriceBookInfo]


class Price(BaseModel):
    """What one unit of an operation costs."""

    operation: str
    credits: Credits
    plan_required: PlanName | None


class PriceList(BaseModel):
    """The price book in force: credits a unit, and credits a unit and hour for recurring line items."""

    version: str
    prices: list[Price]
    hourly: list[Price]
