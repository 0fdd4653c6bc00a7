"""What the HTTP service answers and takes. Credits are decimal strings, exact; times are RFC 3339, UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, Field

from schemas.events import PROJECT_ID_PATTERN, Name, ProjectId, UsageData
from schemas.problems import EventError, Problem

Credits = Annotated[str, Field(description="Credits as a decimal string", examples=["32", "0.02"])]
EnvironmentName = Literal["production", "preview"]
PlanName = Literal["free", "hobby", "build", "scale", "enterprise"]


class AdmissionRequest(UsageData, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """May this project do this now? The fields of a usage event's `data`, and what names the event.

    (source, id) are those of the usage event that will follow, if one will: it is then not billed again. `project` is
    for admin keys; a project's own key says it already. With `hold`, the credits are held for the job `job_id` until it
    is captured or released, or `hold_seconds` (3600) have passed.
    """

    project: ProjectId | None = None
    source: Name | None = None
    id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    hold: bool = False
    hold_seconds: Annotated[int, Meta(ge=1, le=604_800)] | None = None


BATCH_REQUESTS_MAX = 100


class BatchAdmissionRequest(AdmissionRequest, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One request of a batch. The same `idempotency_key` with the same content gives the same answer."""

    idempotency_key: Annotated[str, Meta(max_length=255)] = ""


class AdmissionBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Requests that are decided at once, each by itself."""

    requests: Annotated[list[BatchAdmissionRequest], Meta(min_length=1, max_length=BATCH_REQUESTS_MAX)]


ShadowCode = Annotated[
    str | None, Field(description="What the project's limits on trial would have refused it with; absent where nothing")
]


class Admission(BaseModel):
    """An admitted request. `offset` may be given to GET /v1/balance as `min_offset`."""

    allowed: Literal[True] = True
    project: str
    operation: str
    credits: Credits
    available: Credits
    entry_id: str
    offset: int
    already_decided: bool = Field(description="The event was decided before; nothing was charged now")
    hold_id: str | None = Field(None, description="The job's open hold: capture or release it")
    hold_expires_at: datetime | None = None
    shadow_code: ShadowCode = None


class AdmissionProblem(Problem):
    """A refused request. What was decided has a receipt, by its `entry_id`."""

    project: str | None = None
    available: Credits | None = None
    entry_id: str | None = None
    shadow_code: ShadowCode = None


class RateInfo(BaseModel):
    """How the project's window stood after a request; one that was limited would pass after `retry_after_seconds`."""

    limit: int
    remaining: int
    reset_at: datetime
    retry_after_seconds: int | None = None


class BatchAdmission(Admission):
    """An admitted request of a batch."""

    status: Literal[200] = 200
    rate: RateInfo | None = None


class BatchProblem(AdmissionProblem):
    """A refused request of a batch."""

    rate: RateInfo | None = None


class AdmissionDecisions(BaseModel):
    """What became of each request of a batch, in their order."""

    decisions: list[BatchAdmission | BatchProblem]


class EventsAccepted(BaseModel):
    """How many events were taken. `errors` names those that were not, and why."""

    accepted: int
    rejected: int
    errors: list[EventError] = []


class HoldInfo(BaseModel):
    """Credits that are kept for a job."""

    hold_id: str
    job_id: str
    environment: EnvironmentName
    operation: str
    quantity: int
    credits: Credits
    price_version: str
    source: str
    event_id: str
    held_at: datetime
    expires_at: datetime


class HoldPage(BaseModel):
    """The open holds, the oldest first."""

    holds: list[HoldInfo]


class CaptureRequest(BaseModel, extra="forbid"):
    """What of a hold to charge; all of it unless `credits` says less. The rest is released."""

    credits: Credits | None = None


class ReleaseRequest(BaseModel, extra="forbid"):
    """Why nothing is charged; kept with the entry."""

    reason: str = Field("", max_length=200)


class ExtendRequest(BaseModel, extra="forbid"):
    """How long from now the hold lasts."""

    seconds: int = Field(ge=1, le=604_800)


class HoldResult(BaseModel):
    """What became of a hold. `credits` is what was charged, or given back by a release."""

    hold_id: str
    outcome: Literal["captured", "released", "extended"]
    credits: Credits
    available: Credits
    entry_id: str
    offset: int


class AllowanceBalance(BaseModel):
    """This month's allowance."""

    granted: Credits
    remaining: Credits
    renews_at: datetime


class TopUpBalance(BaseModel):
    """What is left of one bundle."""

    grant_id: str
    granted: Credits
    remaining: Credits
    granted_at: datetime


class Balance(BaseModel):
    """One environment's budget. `lag_ms` bounds how old it may be; `offset` is the last intake record it holds."""

    project: str
    plan: str
    environment: EnvironmentName
    available: Credits
    held: Credits
    allowance: AllowanceBalance | None
    top_ups: list[TopUpBalance]
    as_of: datetime
    lag_ms: int
    offset: int


class LedgerEntry(BaseModel):
    """One movement of credits on one grant; immutable."""

    entry_id: str
    kind: str
    environment: str
    operation: str
    quantity: int
    amount: Credits = Field(description="Signed: a charge is negative")
    balance: Credits = Field(description="What the budget held after it")
    grant_id: str
    reason: str
    price_version: str
    source: str
    event_id: str
    job_id: str
    customer_id: str
    occurred_at: datetime
    booked_at: datetime
    metadata: dict[str, str | int | float | bool | None]


class LedgerPage(BaseModel):
    """Entries, newest first. `next_cursor` goes on; None at the end."""

    entries: list[LedgerEntry]
    next_cursor: str | None


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


class KeyInfo(BaseModel):
    """An API key without its secret."""

    key_id: str
    environment: EnvironmentName
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


class ProjectInfo(BaseModel):
    """A project as its keys see it."""

    project: str
    name: str
    plan: PlanName
    requests_per_minute: int
    burst: int
    cost_ceiling: Credits
    raised_until: datetime | None = Field(description="When a raise of these limits ends; None where none is on")
    signed_up_at: datetime
    renews_at: datetime
    next_plan: PlanName | None = Field(description="The plan from the renewal on, where it changes then")
    good_standing: bool
    closed_at: datetime | None = Field(description="Since when it spends nothing more")
    badge_required: bool = Field(description='Free projects carry the "Built with" badge')
    badge_shown: bool
    billing_account: str | None = Field(description="Whose invoice it is on; None is one of its own")
    keys: list[KeyInfo]


class NewProject(BaseModel, extra="forbid"):
    """A project to open."""

    project: str = Field(pattern=PROJECT_ID_PATTERN, examples=["prj_acme"])
    name: str = Field("", max_length=200)
    plan: PlanName = "free"
    contract_credits: int = Field(
        0, ge=0, le=10_000_000_000, description="Enterprise only: credits a month by contract"
    )
    contract_cents: int = Field(0, ge=0, le=10_000_000_000, description="Enterprise only: US cents a month by contract")
    billing_account: str | None = Field(None, max_length=56, description="The billing account whose invoice it is on")


class NewKey(BaseModel, extra="forbid"):
    """A key to make. Preview keys have `content:*` only and draw on the preview budget."""

    environment: EnvironmentName = "production"
    scopes: list[Annotated[str, Field(pattern=r"^(\*|[a-z_]+:(\*|[a-z_]+))$")]] | None = Field(None, max_length=20)


class CreatedKey(BaseModel):
    """A new key. `key` is shown this once and stored nowhere."""

    key_id: str
    key: str
    environment: EnvironmentName
    scopes: list[str]


class NewTopUp(BaseModel, extra="forbid"):
    """A bundle that was bought: $20 gives 4,000 credits, $100 20,000, $500 100,000."""

    bundle_usd: Literal[20, 100, 500]
    environment: EnvironmentName = "production"
    reference: str = Field("", max_length=200, description="The payment's own reference, kept with the entry")


class TopUpResult(BaseModel):
    """A granted bundle."""

    project: str
    environment: EnvironmentName
    granted: Credits
    available: Credits
    entry_id: str
    offset: int


class NewRefund(BaseModel, extra="forbid"):
    """A bundle to take back; its `grant_id` is in GET /v1/balance."""

    grant_id: str = Field(min_length=1, max_length=64)
    reason: str = Field("", max_length=200)


class RefundResult(BaseModel):
    """What was taken back, and the money that it is worth."""

    project: str
    grant_id: str
    taken_back: Credits
    refund_cents: int = Field(description="US cents, for the unused credits at the bundle's price, rounded down")
    available: Credits
    entry_id: str
    offset: int


class PlanChange(BaseModel, extra="forbid"):
    """The plan to be on: at once where it gives more, from the renewal where it gives less."""

    plan: PlanName
    contract_credits: int = Field(
        0, ge=0, le=10_000_000_000, description="Enterprise only: credits a month by contract"
    )
    contract_cents: int = Field(0, ge=0, le=10_000_000_000, description="Enterprise only: US cents a month by contract")


class ProjectState(BaseModel, extra="forbid"):
    """Closed, and it spends nothing more; open again, and it has its bundles, and this month's allowance if not yet."""

    closed: bool
    reason: str = Field("", max_length=200)


class Standing(BaseModel, extra="forbid"):
    """Whether a project is in good standing; one that is not gets no refunds."""

    good_standing: bool
    reason: str = Field("", max_length=200)


class Badge(BaseModel, extra="forbid"):
    """Whether the "Built with" badge is shown; a free project shows it whatever is set."""

    shown: bool


class NewItemQuantity(BaseModel, extra="forbid"):
    """How many units of a recurring line item a project has from now on; 0 ends it."""

    quantity: int = Field(ge=0, le=1_000_000)


class ItemInfo(BaseModel):
    """A recurring line item: metered at every full hour, billed at the end of the month (UTC)."""

    item: str
    quantity: int
    credits_an_hour: Credits = Field(description="For one unit, now")
    unit_hours: int = Field(description="This month, so far")
    credits: Credits = Field(description="For those unit-hours; billed at the month's end")
    unpaid: Credits = Field(description="Of past months, not covered by credits yet")


class ItemList(BaseModel):
    """A project's recurring line items."""

    project: str
    billed_at: datetime | None
    items: list[ItemInfo]


class AutoRechargeTerms(BaseModel, extra="forbid"):
    """Buy a bundle when fewer than `threshold` credits are available, for at most `cap_usd` a calendar month (UTC).

    `payment_method` names what is charged, as the payment provider does: `cus_…/pm_…` at Stripe.
    """

    on: bool
    threshold: Credits = "0"
    bundle_usd: Literal[20, 100, 500] = 20
    cap_usd: int = Field(0, ge=0, le=100_000)
    payment_method: str = Field("", max_length=200)


class AutoRechargeInfo(AutoRechargeTerms):
    """The terms, and how they stand."""

    spent_usd: int = Field(description="This month, a purchase under way included")
    pending: str | None = Field(description="The purchase under way")
    failures: int = Field(description="In a row")
    blocked_until: datetime | None = Field(description="Nothing is bought before, after a failure")


class NewPriceBook(BaseModel, extra="forbid"):
    """A price book to announce. `rates`, `hourly` and `plan_required` name what differs from the last one announced;
    null takes a price away. Anything that makes something dearer takes effect 30 days from now or later."""

    version: str = Field(pattern=r"^[A-Za-z0-9._-]{1,32}$", examples=["2027-01"])
    effective_at: datetime
    rates: dict[str, Credits | None] = Field({}, max_length=500, description="Credits for one unit")
    hourly: dict[str, Credits | None] = Field({}, max_length=500, description="Credits for one unit and hour")
    plan_required: dict[str, PlanName | None] = Field({}, max_length=500)
    note: str = Field("", max_length=2000, description="For the changelog")


class PriceChange(BaseModel):
    """An operation whose price, or the plan it needs, differs from the book before; None where there is none."""

    operation: str
    before: Credits | None
    after: Credits | None
    plan_before: PlanName | None
    plan_after: PlanName | None


class PriceBookInfo(BaseModel):
    """A price book and how it differs from the one before."""

    version: str
    announced_at: datetime | None
    effective_at: datetime | None = Field(description="None for the first: it held from the beginning")
    in_force: bool
    note: str
    changes: list[PriceChange]


class PriceChangelog(BaseModel):
    """Every price book, the newest first."""

    books: list[PriceBookInfo]


class Price(BaseModel):
    """What one unit of an operation costs."""

    operation: str
    credits: Credits
    plan_required: PlanName | None


class PriceList(BaseModel):
    """The price book in force: credits a unit, and credits a unit and hour for recurring line items."""

    version: str
    prices: list[Price]
    hourly: list[Price]


class Health(BaseModel):
    """`status` is `ok`, or what is being waited for."""

    status: str
    parts: dict[str, bool] = {}


def request_schema(kind: type[msgspec.Struct] | object) -> dict[str, object]:
    """The JSON schema of a request body that msgspec decodes, self-contained for OpenAPI."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    return _inlined(schema, definitions)


def _inlined(schema: object, definitions: dict[str, object]) -> dict[str, object]:
    def walk(node: object) -> object:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                return walk(definitions[reference.rpartition("/")[2]])
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return node

    found = walk(schema)
    assert isinstance(found, dict)
    return found
