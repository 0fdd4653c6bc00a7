"""Usage over HTTP: how many events were taken, and rollups of what they cost."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import Credits
from schemas.problems import EventError


class EventsAccepted(BaseModel):
    """The count of events that were taken. `errors` names those that were not, and why."""

    accepted: int
    rejected: int
    errors: list[EventError] = []


class UsageRow(BaseModel):
    """The charged usage of one group: `group` has a value for each key that was grouped by."""

    group: dict[str, str]
    uses: int = Field(description="Charged uses")
    quantity: int
    credits: Credits


class UsageReport(BaseModel):
    """The charged usage of a project by group, booked in [since, until)."""

    project: str
    group_by: list[str]
    since: datetime
    until: datetime
    rows: list[UsageRow]
