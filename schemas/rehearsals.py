"""A rehearsal of a price book: what is asked, and who would be hurt."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.answers import Credits, NewPriceBook, PlanName


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
