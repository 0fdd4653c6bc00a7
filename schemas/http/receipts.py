"""Receipts over HTTP (/v1/receipts): why a decision came out as it did. Credits are decimal strings, exact."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from schemas.http.common import FACTS_OF_A_DECISION_MAX, RAISES_MAX, Credits, at_most
from schemas.http.limits import LimitValues, SomeLimits

# The refusals among them are each explained from the history, which takes some milliseconds.
DECISIONS_SHOWN_MAX = 200
DEAD_LETTERS_SHOWN_MAX = 100
LINES_OF_A_USE_MAX = 10
ANSWERS_SHOWN_MAX = 20
ENTRIES_OF_AN_ANSWER_MAX = 100


class ReceiptEntry(BaseModel):
    """A fact of the decision, as it stands in the history."""

    id: str
    kind: str
    environment: str
    operation: str
    quantity: int
    amount: Credits = Field(description="Signed change of the balance")
    held: Credits = Field(description="Signed change of what is held for jobs")
    balance: Credits = Field(description="The balance of the environment's budget after it, held credits included")
    grant_id: str
    reason: str
    cents: int = Field(description="US cents due for it; negative where money is given back")


class ReceiptInputs(BaseModel):
    """The inputs of the decision: what was asked for, and what came with it. A field is empty where there was none."""

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
    """A line of the price. `rate` is null where it is no longer known; `credits` is negative where they are given
    back."""

    operation: str
    quantity: int
    rate: Credits | None
    credits: Credits
    text: str = Field(examples=["2 × 32 = 64"])


class ReceiptPrice(BaseModel):
    """The price: by the book in force when the use occurred, and how its lines make the total."""

    version: str
    effective_at: datetime | None = Field(description="Null for the first book: it held from the beginning")
    lines: list[ReceiptLine] = at_most(LINES_OF_A_USE_MAX)
    total: Credits


class ReceiptGrant(BaseModel):
    """A grant that the decision took credits from, or gave credits to."""

    grant_id: str
    kind: str
    amount: Credits = Field(description="Signed change of what is left of the grant")
    held: Credits = Field(description="Signed change of what is held of the grant")


class Budget(BaseModel):
    """An environment's budget at one moment."""

    balance: Credits
    held: Credits
    available: Credits


class RefusalReason(BaseModel):
    """The reason of a refusal, with the credits or plans that it turned on, where it did."""

    code: str
    status: int = Field(description="The HTTP status that an admission is answered with")
    detail: str
    needed: Credits | None = None
    available: Credits | None = None
    plan: str | None = None
    needed_plan: str | None = None


class ReceiptLimits(BaseModel):
    """The limits that held at the time, what they came from, and what was asked for in the minute before.

    That minute is counted from the history. Usage events that were sent by HTTP are among its requests and credits,
    though they do not count against a limit.
    """

    plan: str
    contract: SomeLimits | None
    raises: list[str] = at_most(RAISES_MAX, description="The ids of the raises that were on")
    in_force: LimitValues
    shadow: LimitValues | None = Field(description="Limits on trial: they refused nothing")
    requests_before: int = Field(description="Requests in the 60 seconds before")
    credits_before: Credits = Field(description="Credits that those requests cost or held")
    retry_after_seconds: int | None = Field(description="The Retry-After of a 429, where the history shows it")


class BookedWith(BaseModel):
    """Something that time brought, such as a renewal or an expired hold, and that the same intake record booked."""

    outcome: str
    summary: str
    due_at: datetime
    entries: list[ReceiptEntry] = at_most(FACTS_OF_A_DECISION_MAX)


class Receipt(BaseModel):
    """A receipt explains one decision. `partition` and `offset` name the intake record that brought it."""

    id: str = Field(description="The id of the decision's first fact")
    project: str
    outcome: str = Field(examples=["charged", "refused", "held", "captured", "duplicate", "counted", "renewed"])
    summary: str
    inputs: ReceiptInputs
    price: ReceiptPrice | None
    grants: list[ReceiptGrant] = at_most(FACTS_OF_A_DECISION_MAX)
    before: Budget | None = Field(description="Null where the decision is about no environment's budget")
    after: Budget | None
    refusal: RefusalReason | None
    shadow: RefusalReason | None = Field(description="The reason for which limits on trial would have refused it")
    limits: ReceiptLimits | None = Field(description="Given where limits, or limits on trial, had a part in it")
    hold_id: str | None
    first_decision: str | None = Field(description="The id of the decision that a duplicate repeats")
    partition: int
    offset: int
    entries: list[ReceiptEntry] = at_most(FACTS_OF_A_DECISION_MAX)
    booked_with: list[BookedWith] = at_most(FACTS_OF_A_DECISION_MAX)


class DecisionSummary(BaseModel):
    """A decision on an event, in short; its receipt says more."""

    id: str
    project: str
    outcome: str
    summary: str
    environment: str
    amount: Credits
    booked_at: datetime


class RefusedEvent(BaseModel):
    """An event of this id that could not be accepted, so nothing was decided on it."""

    code: str
    detail: str
    field: str
    received_at: datetime
    event: str | None = Field(
        description="The event's text, cut at 16 KiB; null for a project's key: anyone may send it"
    )


class KeptAnswer(BaseModel):
    """An answer to a request: when it was given, to whom, and what it said."""

    answered_at: datetime
    operation: str = Field(description="Method and route", examples=["POST /v1/admissions"])
    status: int
    code: str | None = Field(description="Null where it was no refusal")
    project: str | None = Field(description="Null for an admin key's request, or one without a valid key")
    environment: str | None
    key_id: str | None
    problem: dict[str, Any] | None = Field(description="The body of the refusal, where it is kept whole")
    entry_ids: list[str] = at_most(
        ENTRIES_OF_AN_ANSWER_MAX, description="What was decided for it; each has a receipt of its own"
    )


class RequestReceipt(BaseModel):
    """The answers to the requests of one id, the newest first: one, unless its sender chose the id again."""

    request_id: str
    answers: list[KeptAnswer] = at_most(ANSWERS_SHOWN_MAX)


class EventReceipts(BaseModel):
    """The decisions on an event id, oldest first. `dead_letters`, for admin keys, are its events that were not
    accepted."""

    event_id: str
    source: str | None
    decisions: list[DecisionSummary] = at_most(2 * DECISIONS_SHOWN_MAX)
    dead_letters: list[RefusedEvent] | None = at_most(DEAD_LETTERS_SHOWN_MAX)
    is_complete: bool = Field(description="False where there is more than is shown")


class EventReport(BaseModel):
    """A report on what became of the event of one (source, id), whether or not it ever came."""

    source: str
    event_id: str
    state: Literal["decided", "refused", "duplicate", "dead_lettered", "not_seen"] = Field(
        description="duplicate: only repeats are there for this caller to see; not_seen: see `as_of`"
    )
    summary: str
    at: datetime | None = Field(description="When it was decided, or became a dead letter")
    receipt: Receipt | None = Field(description="The receipt of what was decided on it, null where nothing was")
    repeats: int = Field(description="How many times it came again, which changed nothing, as far as they are shown")
    decisions: list[DecisionSummary] = at_most(2 * DECISIONS_SHOWN_MAX, description="All of them, the oldest first")
    dead_letters: list[RefusedEvent] = at_most(DEAD_LETTERS_SHOWN_MAX)
    is_complete: bool = Field(description="False where there is more than is shown")
    as_of: datetime | None = Field(
        description="All that was on the log by then is here; later things may be. Null while that is not known"
    )
