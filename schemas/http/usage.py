"""Usage over HTTP: how many events were taken, and rollups of what they cost."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import Credits, at_most
from schemas.http.problems import EventError

USAGE_ROWS_MAX = 1_000
GROUPS_MAX = 5


class EventsAccepted(BaseModel):
    """The count of events that were taken. `errors` names those that were not, and why."""

    accepted: int
    rejected: int
    errors: list[EventError] = []


class PreviousUsage(BaseModel):
    """The charged usage of one group in the time before."""

    uses: int
    quantity: int
    credits: Credits


class UsageRow(BaseModel):
    """The charged usage of one group: `group` has a value for each key that was grouped by. With `other` it is that of
    all groups that are not among the top ones, and they read "other"; a group may have that name too."""

    group: dict[str, str]
    uses: int = Field(description="Charged uses; of an outcome refused or limited, requests")
    quantity: int
    credits: Credits
    other: bool = Field(False, exclude_if=lambda other: not other, description="True or left out")
    previous: PreviousUsage | None = Field(
        None, exclude_if=lambda previous: previous is None, description="With `compare` alone"
    )


class UsageReport(BaseModel):
    """A page of the charged usage of a project by group, in [from, to), in the order of the groups' values. With
    `granularity` the first group is `period`: a date, a month, or a time with the zone's offset.
    With `top` they are in the order of their credits in the whole time, and all others come last, in each period.
    With `compare` the time before is [previous_from, previous_to): as many months, where [from, to) are whole months
    of the zone, or days, or as long; `period` is that of [from, to), and the first is beside the first.
    `next_cursor` asks for the next page of the same question; null on the last."""

    project: str
    group_by: list[str] = at_most(GROUPS_MAX + 1)
    granularity: str | None
    tz: str
    by: str
    top: int | None
    since: datetime = Field(serialization_alias="from")
    until: datetime = Field(serialization_alias="to")
    previous_since: datetime | None = Field(serialization_alias="previous_from")
    previous_until: datetime | None = Field(serialization_alias="previous_to")
    rows: list[UsageRow] = at_most(USAGE_ROWS_MAX)
    next_cursor: str | None
    as_of: datetime | None = Field(description="All that was decided by then is counted; null where that is not known")
    lag_ms: int | None = Field(description="Milliseconds from as_of until it was asked")
    rows_read: int | None = Field(description="Rows that ClickHouse read for it, of tables and of sums that it keeps")
