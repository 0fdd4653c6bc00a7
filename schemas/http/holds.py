"""Holds over HTTP: credits that are kept for a job until the hold is captured or released."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from schemas.http.common import PAGE_ITEMS_MAX, Credits, EnvironmentName, at_most


class HoldInfo(BaseModel):
    """A hold: credits that are kept for a job."""

    hold_id: str
    job_id: str
    environment: EnvironmentName
    operation: str
    quantity: int
    credits: Credits
    price_version: str
    source: str
    event_id: str
    customer_id: str = Field(description="The metadata's `customer_id`; empty where it has none")
    held_at: datetime
    expires_at: datetime


class HoldPage(BaseModel):
    """A page of the open holds, the oldest first. `next_cursor` asks for the next page; null on the last."""

    holds: list[HoldInfo] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None


HoldState = Literal["captured", "released", "expired"]


class SettledHold(BaseModel):
    """A hold that is not open any more. `credits` is what was held: `captured` was charged, `given_back` is free
    again."""

    hold_id: str = Field(description='The `hold_id` of the admission; "" where the history does not go so far back')
    job_id: str
    environment: EnvironmentName
    operation: str
    quantity: int
    state: HoldState
    credits: Credits
    captured: Credits
    given_back: Credits
    price_version: str
    source: str
    event_id: str
    customer_id: str = Field(description="The metadata's `customer_id`; empty where it has none")
    reason: str = Field(description="The reason that a release gave")
    held_at: datetime | None = Field(description="Null where the history does not go so far back")
    settled_at: datetime


class SettledHoldPage(BaseModel):
    """A page of the settled holds, the newest first. `next_cursor` asks for the next page; null on the last."""

    holds: list[SettledHold] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None


class CaptureRequest(BaseModel, extra="forbid"):
    """A capture charges a hold: all of it, or `credits` of it; the rest is released."""

    credits: Credits | None = None


class ReleaseRequest(BaseModel, extra="forbid"):
    """A release charges nothing; its `reason` is kept with the entry."""

    reason: str = Field("", max_length=200)


class ExtendRequest(BaseModel, extra="forbid"):
    """An extension lets a hold last until `seconds` from now."""

    seconds: int = Field(ge=1, le=604_800)


class HoldResult(BaseModel):
    """The outcome of a call on a hold. `credits` is what a capture charged, or what a release gave back. `entry_id` is
    "" where the call did nothing itself (`already_decided`)."""

    hold_id: str
    outcome: Literal["captured", "released", "extended"]
    credits: Credits
    available: Credits
    entry_id: str
    offset: int
    already_decided: bool = Field(
        description="Its usage event, or another capture, captured it before, for `credits`; nothing was charged now"
    )
