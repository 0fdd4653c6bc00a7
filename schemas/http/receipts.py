"""Why something was decided as it was: the answers of /v1/receipts. Credits are decimal strings, exact."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from schemas.http.common import Credits
from schemas.http.limits import LimitValues, SomeLimits


class ReceiptEntry(BaseModel):
    """One fact of the decision, as it stands in the history."""

    id: str
    kind: str
    environment: str
    operation: str
    quantity: int
    amount: Credits = Field(description="Signed change of the balance")
    held: Credits = Field(description="Signed change of what is held for jobs")
    balance: Credits = Field(description="What the environment's budget held after it")
    grant_id: str
    reason: str
    cents: int = Field(description="US cents due for it; negative is given back")


class ReceiptInputs(BaseModel):
    """What was asked, and what it came with. Empty where there was none."""

    operation: str
    surcharge: str
    quantity: int
    environment: str
    source: str
    event_id: str
    job_id: str
    key_id: str
    metadata: dict[str, Any]
    occurred_at: datetime
    booked_at: datetime


class ReceiptLine(BaseModel):
    """One line of the price. `rate` is None where it is no longer known; `credits` is negative where given back."""

    operation: str
    quantity: int
    rate: Credits | None
    credits: Credits
    text: str = Field(examples=["2 × 32 = 64"])


class ReceiptPrice(BaseModel):
    """The price book that held when it occurred, and how the total comes about."""

    version: str
    effective_at: datetime | None = Field(description="None is from the beginning")
    lines: list[ReceiptLine]
    total: Credits


class ReceiptGrant(BaseModel):
    """What the decision took from one grant, or gave to it."""

    grant_id: str
    kind: str
    amount: Credits = Field(description="Signed change of what is left of it")
    held: Credits = Field(description="Signed change of what is held of it")


class Budget(BaseModel):
    """An environment's budget at one moment."""

    balance: Credits
    held: Credits
    available: Credits


class RefusalReason(BaseModel):
    """Why it was refused; numbers and plans where the reason has any."""

    code: str
    status: int = Field(description="The HTTP status that an admission is answered with")
    detail: str
    needed: Credits | None = None
    available: Credits | None = None
    plan: str | None = None
    needed_plan: str | None = None


class ReceiptLimits(BaseModel):
    """The limits that held then, what they came from, and the minute before.

    That minute is what the history has of it: usage events that were sent by HTTP are among the requests and credits,
    though they are not counted against a limit.
    """

    plan: str
    contract: SomeLimits | None
    raises: list[str] = Field(description="The ids of those that were on")
    in_force: LimitValues
    shadow: LimitValues | None = Field(description="On trial: they refused nothing")
    requests_before: int = Field(description="Requests of the 60 seconds before")
    credits_before: Credits = Field(description="What those cost or held")
    retry_after_seconds: int | None = Field(description="Of a 429, where the history shows it")


class BookedWith(BaseModel):
    """What time had brought, and was booked by the same intake record."""

    outcome: str
    summary: str
    due_at: datetime
    entries: list[ReceiptEntry]


class Receipt(BaseModel):
    """One decision, explained. `partition` and `offset` name the intake record that brought it."""

    id: str = Field(description="The first fact of the decision")
    project: str
    outcome: str = Field(examples=["charged", "refused", "held", "captured", "duplicate", "counted", "renewed"])
    summary: str
    inputs: ReceiptInputs
    price: ReceiptPrice | None
    grants: list[ReceiptGrant]
    before: Budget | None = Field(description="None where it is about no environment's budget")
    after: Budget | None
    refusal: RefusalReason | None
    shadow: RefusalReason | None = Field(description="What limits on trial would have refused it with")
    limits: ReceiptLimits | None = Field(description="Where limits, or limits on trial, have to do with it")
    hold_id: str | None
    first_decision: str | None = Field(description="What a duplicate repeats")
    partition: int
    offset: int
    entries: list[ReceiptEntry]
    booked_with: list[BookedWith]


class DecisionSummary(BaseModel):
    """One decision on an event; its receipt says more."""

    id: str
    project: str
    outcome: str
    summary: str
    environment: str
    amount: Credits
    booked_at: datetime


class RefusedEvent(BaseModel):
    """An event of this id that could not be accepted, so that it was never decided."""

    code: str
    detail: str
    field: str
    received_at: datetime
    event: str = Field(description="Its text, cut at 16 KiB")


class EventReceipts(BaseModel):
    """All that is known of an event id, oldest first. `dead_letters` is for admin keys."""

    event_id: str
    source: str | None
    decisions: list[DecisionSummary]
    dead_letters: list[RefusedEvent] | None
    is_complete: bool = Field(description="False where there is more than is shown")
