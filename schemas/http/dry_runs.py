"""Dry runs over HTTP: what a call would change, told without changing it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from schemas.http.common import FACTS_OF_A_DECISION_MAX, Credits, EnvironmentName, at_most


class DryRunChange(BaseModel):
    """A change that a call would make, in the words of the audit log."""

    action: str = Field(examples=["top_up.refunded"])
    detail: str
    environment: EnvironmentName | None
    amount: Credits = Field(description="Signed change of the balance")
    held: Credits = Field(description="Signed change of what is held for jobs")
    cents: int = Field(description="US cents that would be due for it; negative where money is given back")


class DryRunBudget(BaseModel):
    """A budget in a dry run: the credits available in an environment before the call, and after it."""

    environment: EnvironmentName
    before: Credits
    after: Credits


class DryRun(BaseModel):
    """A dry run tells what a call would do now; it changed nothing. What the call would refuse, it refuses too."""

    dry_run: bool = True
    project: str
    changes: list[DryRunChange] = at_most(FACTS_OF_A_DECISION_MAX)
    available: list[DryRunBudget] = at_most(2)
    cents: int = Field(description="US cents that would be due for all of it; negative where money is given back")
    note: str = Field(description="What Meterline leaves to you, such as to pay money back; or empty")
