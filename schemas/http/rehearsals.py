"""A rehearsal of a price book or of limits: what is asked, and who would be hurt."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.events import PROJECT_ID_PATTERN
from schemas.http.common import Credits, PlanName
from schemas.http.prices import NewPriceBook
from schemas.problems import Problem


class NewRehearsal(BaseModel, extra="forbid"):
    """Replay the last days of every project under a price book, which is given as for its announcement. Nothing is
    changed by it."""

    days: int = Field(30, ge=1, le=90)
    book: NewPriceBook
    worst_max: int = Field(100, ge=1, le=10_000, description="How many projects to name; the totals are over all")


class RehearsedProject(BaseModel):
    """One project's days, as they were and as they would have been."""

    project: str
    plan: PlanName
    charged: Credits
    charged_proposed: Credits
    difference: Credits
    refused: int = Field(description="Uses that were refused")
    refused_proposed: int = Field(description="Uses that would have been")
    first_out_at: datetime | None = Field(description="When it would first have run out; None is never")


class RehearsalTotals(BaseModel):
    """Over all projects."""

    charged: Credits
    charged_proposed: Credits
    difference: Credits
    refused: int
    refused_proposed: int


class RehearsalResult(BaseModel):
    """Who would be hurt: first those with the most uses refused anew, then those that would pay the most more."""

    version: str
    days: int
    since: datetime
    until: datetime
    projects: int = Field(description="Projects that used anything")
    projects_hurt: int = Field(description="Those with more refused, or the same refused and more charged")
    totals: RehearsalTotals
    needs_notice: list[str] = Field(description="Operations that would be dearer, gone, or for higher plans only")
    notice: str = Field(examples=["Announcing this needs 30 days: image, website"])
    worst: list[RehearsedProject]


class NewLimitRehearsal(BaseModel, extra="forbid"):
    """Replay the recorded requests of the last days under other limits: of one project, of all projects of a plan, or
    of all. What is left out stays as the project's plan and contract have it today, without raises. Nothing is changed
    by it."""

    days: int = Field(7, ge=1, le=31)
    requests_per_minute: int | None = Field(None, ge=1)
    burst: int | None = Field(None, ge=1, description="Requests at once after a rest; at least the requests a minute")
    cost_ceiling: Credits | None = Field(None, description="Credits that requests may cost in 60 seconds")
    project: str | None = Field(None, pattern=PROJECT_ID_PATTERN)
    plan: PlanName | None = Field(None, description="All projects that are on this plan today")
    with_events: bool = Field(
        True,
        description="Take usage events for requests too. The history does not tell an event from an admission that "
        "named its event and was charged or refused: without events, those admissions are left out as well",
    )
    worst_max: int = Field(100, ge=1, le=10_000, description="How many projects to name; the totals are over all")


class LimitTerms(BaseModel):
    """Limits as they are replayed."""

    requests_per_minute: int
    burst: int
    cost_ceiling: Credits


class RecordedRefusals(BaseModel):
    """What was really refused in that time, by the limits that held then."""

    limited: int = Field(description="429 `rate_limited`")
    over_cost_ceiling: int = Field(description="403 `over_cost_ceiling`")


class ProposedRefusals(BaseModel):
    """What would have been refused."""

    by_window: int = Field(description="429: too many requests")
    by_ceiling: int = Field(description="429: the credits of that minute were spent")
    over_cost_ceiling: int = Field(description="403: dearer than the ceiling by itself")
    credits: Credits = Field(description="What those cost that the ceiling would have refused")
    first_at: datetime | None = Field(description="None is never")
    last_at: datetime | None


class LimitRehearsalTotals(BaseModel):
    """Over all projects."""

    requests: int
    maybe_events: int = Field(description="Requests that may have come as usage events")
    recorded: RecordedRefusals
    proposed: ProposedRefusals


class BusiestMinute(BaseModel):
    """The most that came in any 60 seconds, limited or not: requests, and what they cost. Each with when its last
    request came."""

    requests: int
    requests_at: datetime | None
    credits: Credits
    credits_at: datetime | None = Field(description="None where nothing cost anything")


class LimitRehearsedProject(BaseModel):
    """One project's days."""

    project: str
    plan: PlanName
    limits: LimitTerms
    requests: int
    maybe_events: int = Field(description="Requests that may have come as usage events")
    recorded: RecordedRefusals
    proposed: ProposedRefusals
    busiest_minute: BusiestMinute


class LimitRehearsalResult(BaseModel):
    """Who would be hurt: first those with the most requests refused beyond those that were, then those with the most
    credits refused."""

    days: int
    since: datetime
    until: datetime
    projects: int = Field(description="Projects that asked for anything")
    projects_hurt: int = Field(description="Those with more requests refused than were")
    totals: LimitRehearsalTotals
    worst: list[LimitRehearsedProject]


class RehearsalProgress(BaseModel):
    """A line of a streamed answer. The last one has the result, or the problem that ended it."""

    done: int = Field(description="Recorded facts replayed")
    all: int
    result: LimitRehearsalResult | None = None
    problem: Problem | None = None
