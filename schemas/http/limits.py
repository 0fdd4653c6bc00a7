"""A project's limits as the HTTP service takes and shows them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import RAISES_MAX, Credits, GivenTime, at_most


class LimitValues(BaseModel):
    """Limits: requests a minute, how many may come at once after a rest (burst), and credits a minute."""

    requests_per_minute: int
    burst: int
    cost_ceiling: Credits


class SomeLimits(BaseModel):
    """Limits laid over others; null leaves that one of the three as it is."""

    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000)
    burst: int | None = Field(None, ge=1, le=2_000_000)
    cost_ceiling: Credits | None = None


class NewLimits(SomeLimits, extra="forbid"):
    """New limits hold over the plan's, for good. With `is_shadow` they are on trial: they refuse nothing, and what they
    would have refused is recorded. With no limit given, the contract or the trial ends."""

    is_shadow: bool = False
    reason: str = Field("", max_length=200, description="Kept in the audit log")


class NewLimitRaise(SomeLimits, extra="forbid"):
    """A raise to make: higher limits for a window of time. Of the raises that are on and the limits under them, the
    highest counts."""

    starts_at: GivenTime | None = Field(None, description="RFC 3339 with a zone; now if left out")
    ends_at: GivenTime = Field(description="RFC 3339 with a zone, at most 366 days ahead")
    reason: str = Field(min_length=1, max_length=200, description="Kept in the audit log")


class LimitRaiseInfo(SomeLimits):
    """A raise that has not ended."""

    id: str
    starts_at: datetime
    ends_at: datetime
    is_on: bool


class ProjectLimits(BaseModel):
    """A project's limits: those in force, and the plan, contract, raises and trial that they come from."""

    project: str
    plan: str
    plan_limits: LimitValues
    contract: SomeLimits | None = Field(description="The limits that a contract sets over the plan's")
    raises: list[LimitRaiseInfo] = at_most(RAISES_MAX, description="Raises that are on or planned, each as it was made")
    in_force: LimitValues
    shadow: SomeLimits | None = Field(description="Limits on trial, over those in force: they refuse nothing")


class LimitStanding(BaseModel):
    """How a project stands in its limits now: what its last 60 seconds hold, and what is left of its burst. A request
    passes while there are fewer than `requests_per_minute`, and above that while `burst_left` is not 0."""

    requests_60s: int = Field(description="Requests in the last 60 seconds")
    burst_left: int = Field(description="How many requests may come above requests_per_minute now")
    credits_60s: Credits = Field(description="What requests cost in the last 60 seconds")
    as_of: datetime
    lag_ms: int


class OwnLimits(ProjectLimits):
    """A project's limits, as it sees them itself, and how it stands in them now."""

    standing: LimitStanding


class LimitRaiseResult(BaseModel):
    """A raise that was made, and the limits with it."""

    id: str
    offset: int
    limits: ProjectLimits
