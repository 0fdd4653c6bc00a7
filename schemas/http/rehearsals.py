"""Rehearsals over HTTP: who would have been hurt by another price book, or by other limits, in the last days."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.events import PROJECT_ID_PATTERN
from schemas.http.common import Credits, PlanName
from schemas.http.prices import NewPriceBook
from schemas.http.problems import Problem


class NewRehearsal(BaseModel, extra="forbid"):
    """A rehearsal replays the last days of every project under a price book, given as for its announcement. It changes
    nothing."""

    days: int = Field(30, ge=1, le=90)
    book: NewPriceBook
    worst_max: int = Field(100, ge=1, le=10_000, description="How many projects to name; the totals are over all")


class RehearsedProject(BaseModel):
    """A project's days, as they were and as they would have been under the price book."""

    project: str
    plan: PlanName
    charged: Credits
    charged_proposed: Credits
    difference: Credits
    refused: int = Field(description="Uses that were refused")
    refused_proposed: int = Field(description="Uses that would have been refused")
    first_out_at: datetime | None = Field(description="When it would first have run out of credits; null is never")


class RehearsalTotals(BaseModel):
    """The sums over all projects."""

    charged: Credits
    charged_proposed: Credits
    difference: Credits
    refused: int
    refused_proposed: int


class RehearsalResult(BaseModel):
    """The result of a rehearsal. `worst` names who would be hurt: first the projects with the most additional refusals,
    then those that would pay the most more."""

    version: str
    days: int
    since: datetime
    until: datetime
    projects: int = Field(description="Projects that used anything")
    projects_hurt: int = Field(
        description="Projects with more uses refused, or with as many refused and more credits charged"
    )
    totals: RehearsalTotals
    needs_notice: list[str] = Field(description="Operations that would be dearer, gone, or for higher plans only")
    notice: str = Field(examples=["Announcing this needs 30 days: image, website"])
    worst: list[RehearsedProject]


class NewLimitRehearsal(BaseModel, extra="forbid"):
    """A rehearsal replays the recorded requests of the last days under other limits: for one project, for all projects
    of a plan, or for all. A limit that is left out stays as the project's plan and contract have it today, without
    raises. It changes nothing."""

    days: int = Field(7, ge=1, le=31)
    requests_per_minute: int | None = Field(None, ge=1)
    burst: int | None = Field(None, ge=1, description="Requests at once after a rest; at least the requests a minute")
    cost_ceiling: Credits | None = Field(None, description="Credits that requests may cost in 60 seconds")
    project: str | None = Field(None, pattern=PROJECT_ID_PATTERN)
    plan: PlanName | None = Field(None, description="Replay all projects that are on this plan today")
    with_events: bool = Field(
        True,
        description="Count usage events as requests too. The history cannot tell an event from an admission that named "
        "its event and was charged or refused: without events, those admissions are left out as well",
    )
    worst_max: int = Field(100, ge=1, le=10_000, description="How many projects to name; the totals are over all")


class LimitTerms(BaseModel):
    """The limits under which a project's requests are replayed."""

    requests_per_minute: int
    burst: int
    cost_ceiling: Credits


class RecordedRefusals(BaseModel):
    """The requests that were really refused in that time, by the limits that held then."""

    limited: int = Field(description="429 `rate_limited`")
    over_cost_ceiling: int = Field(description="403 `over_cost_ceiling`")


class ProposedRefusals(BaseModel):
    """The requests that the proposed limits would have refused."""

    by_window: int = Field(description="429: too many requests")
    by_ceiling: int = Field(description="429: the credits of that minute were spent")
    over_cost_ceiling: int = Field(description="403: the request alone costs more than the ceiling")
    credits: Credits = Field(description="The cost of the requests that the ceiling would have refused")
    first_at: datetime | None = Field(description="When the first would have been refused; null is never")
    last_at: datetime | None


class LimitRehearsalTotals(BaseModel):
    """The sums over all projects."""

    requests: int
    maybe_events: int = Field(description="Requests that may have come as usage events")
    recorded: RecordedRefusals
    proposed: ProposedRefusals


class BusiestMinute(BaseModel):
    """The busiest 60 seconds: the most requests, and the most credits, that any 60 seconds had, limited or not.
    `requests_at` and `credits_at` say when the last request of those came."""

    requests: int
    requests_at: datetime | None
    credits: Credits
    credits_at: datetime | None = Field(description="Null where no request cost anything")


class LimitRehearsedProject(BaseModel):
    """A project's days: its requests, those that were refused, and those that would have been."""

    project: str
    plan: PlanName
    limits: LimitTerms
    requests: int
    maybe_events: int = Field(description="Requests that may have come as usage events")
    recorded: RecordedRefusals
    proposed: ProposedRefusals
    busiest_minute: BusiestMinute


class LimitRehearsalResult(BaseModel):
    """The result of a rehearsal of limits. `worst` names who would be hurt: first the projects with the most additional
    refusals, then those with the most credits refused."""

    days: int
    since: datetime
    until: datetime
    projects: int = Field(description="Projects that asked for anything")
    projects_hurt: int = Field(description="Projects that would have had more requests refused than they had")
    totals: LimitRehearsalTotals
    worst: list[LimitRehearsedProject]


class RehearsalProgress(BaseModel):
    """A line of a streamed answer. The last line has the result, or the problem that ended the rehearsal."""

    done: int = Field(description="Recorded facts replayed, of prices projects")
    all: int
    result: LimitRehearsalResult | RehearsalResult | None = None
    problem: Problem | None = None
