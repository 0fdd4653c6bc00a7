"""Holds over HTTP: the credits a job keeps until it is captured or released."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from schemas.http.common import Credits, EnvironmentName


class HoldInfo(BaseModel):
    """Credits that are kept for a job."""

    hold_id: str
    job_id: str
    environment: EnvironmentName
    operation: str
    quantity: int
    credits: Credits
    price_version: str
    source: str
    event_id: str
    held_at: datetime
    expires_at: datetime


class HoldPage(BaseModel):
    """The open holds, the oldest first."""

    holds: list[HoldInfo]


class CaptureRequest(BaseModel, extra="forbid"):
    """What of a hold to charge; all of it unless `credits` says less. The rest is released."""

    credits: Credits | None = None


class ReleaseRequest(BaseModel, extra="forbid"):
    """Why nothing is charged; kept with the entry."""

    reason: str = Field("", max_length=200)


class ExtendRequest(BaseModel, extra="forbid"):
    """How long from now the hold lasts."""

    seconds: int = Field(ge=1, le=604_800)


class HoldResult(BaseModel):
    """What became of a hold. `credits` is what was charged, or given back by a release."""

    hold_id: str
    outcome: Literal["captured", "released", "extended"]
    credits: Credits
    available: Credits
    entry_id: str
    offset: int
