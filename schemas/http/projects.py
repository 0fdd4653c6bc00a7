"""Projects, their keys, plans and recurring items over HTTP; and the service's health."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from schemas.events import PROJECT_ID_PATTERN
from schemas.http.common import ITEMS_MAX, KEYS_MAX, PAGE_ITEMS_MAX, Credits, EnvironmentName, PlanName, at_most

SCOPES_MAX = 20
ProjectStateName = Literal["open", "closed"]


class KeyInfo(BaseModel):
    """An API key without its secret."""

    key_id: str
    name: str = Field(description="Its name for people; empty where it was given none")
    environment: EnvironmentName
    scopes: list[str] = at_most(SCOPES_MAX)
    created_at: datetime
    revoked_at: datetime | None
    ends_at: datetime | None = Field(description="When it ends by itself, since another has taken its place")


class ListedKey(KeyInfo):
    """An API key in the list of a project's keys: with the time of its last use."""

    last_used_at: datetime | None = Field(description="Its last use in the history that is kept; null where none is")


class KeyList(BaseModel):
    """A project's keys, the oldest first, those that have ended too."""

    project: str
    keys: list[ListedKey] = at_most(KEYS_MAX)


class ProjectInfo(BaseModel):
    """A project as its keys see it."""

    project: str
    name: str
    plan: PlanName
    requests_per_minute: int
    burst: int
    cost_ceiling: Credits
    raised_until: datetime | None = Field(description="When the raise of these limits ends; null where none is on")
    signed_up_at: datetime
    renews_at: datetime
    next_plan: PlanName | None = Field(description="The plan from the renewal on, where it changes then")
    good_standing: bool
    closed_at: datetime | None = Field(description="When the project was closed: since then it spends nothing")
    badge_required: bool = Field(description='Free projects carry the "Built with" badge')
    badge_shown: bool
    billing_account: str | None = Field(
        description="The billing account whose invoice it is on; null is an invoice of its own"
    )
    keys: list[KeyInfo] = at_most(KEYS_MAX)


class ProjectSummary(BaseModel):
    """A project in a list of them, as it is now. Credits are those of production, unless they say otherwise."""

    project: str
    name: str
    plan: PlanName
    state: ProjectStateName
    closed_at: datetime | None
    billing_account: str | None
    available: Credits
    held: Credits
    preview_available: Credits
    signed_up_at: datetime
    renews_at: datetime


class ProjectPage(BaseModel):
    """A page of projects, by id. `next_cursor` asks for the next page; null on the last. A page may have fewer than its
    limit, or none, and yet a next one: a search looks at so many accounts at a time."""

    projects: list[ProjectSummary] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None


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

    name: str = Field("", max_length=100, description="A name for people, such as of the service that uses it")
    environment: EnvironmentName = "production"
    scopes: list[Annotated[str, Field(pattern=r"^(\*|[a-z_]+:(\*|[a-z_]+))$")]] | None = Field(
        None, max_length=SCOPES_MAX
    )


class CreatedKey(BaseModel):
    """A new key. `key` is shown this once and stored nowhere."""

    key_id: str
    key: str
    name: str
    environment: EnvironmentName
    scopes: list[str]


class KeyRotation(BaseModel, extra="forbid"):
    """How long a key works beside the one that takes its place."""

    grace_seconds: int = Field(86_400, ge=0, le=2_592_000, description="The old key ends after so many seconds")


class PlanChange(BaseModel, extra="forbid"):
    """A plan to change to: at once where it gives more, from the renewal on where it gives less."""

    plan: PlanName
    contract_credits: int = Field(
        0, ge=0, le=10_000_000_000, description="Enterprise only: credits a month by contract"
    )
    contract_cents: int = Field(0, ge=0, le=10_000_000_000, description="Enterprise only: US cents a month by contract")


class ProjectState(BaseModel, extra="forbid"):
    """Whether a project is closed. What is used while it is closed is never charged, whenever it is reported; a
    reopened project has its bundles again, and gets this month's allowance if it has not had it."""

    closed: bool
    reason: str = Field("", max_length=200)


class Standing(BaseModel, extra="forbid"):
    """Whether a project is in good standing; a project that is not gets no refunds."""

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
    credits_an_hour: Credits = Field(description="The price of one unit for one hour, now")
    unit_hours: int = Field(description="Unit-hours of this month, so far")
    credits: Credits = Field(description="The cost of those unit-hours; billed at the month's end")
    unpaid: Credits = Field(description="Credits due for past months that no credits have covered yet")


class ItemList(BaseModel):
    """A project's recurring line items."""

    project: str
    billed_at: datetime | None
    items: list[ItemInfo] = at_most(ITEMS_MAX)


class Health(BaseModel):
    """The service's health. `status` is `ok`, or says what is being waited for."""

    status: str
    parts: dict[str, bool] = {}
