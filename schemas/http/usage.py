"""Usage over HTTP: how many events were taken, and rollups of what they cost."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import Credits
from schemas.problems import EventError


class EventsAccepted(BaseModel):
    """How many events were taken. `errors` names those that were not, and why."""

    accepted: int
    rejected: int
    errors: list[EventError] = []


class UsageRow(BaseModel):
    """Usage of one group."""

    group: dict[str, str]
    uses: int = Field(description="Charged uses")
    quantity: int
    credits: Credits


class UsageReport(BaseModel):
    """Charged usage by group, booked in [from, to)."""

    project: str
    group_by: list[str]
    since: datetime
    until: datetime
    rows: list[UsageRow]
