"""Webhook endpoints over HTTP (/v1/webhook-endpoints): what hears of notices, and what became of its deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from schemas.http.common import PAGE_ITEMS_MAX, EnvironmentName, GivenTime, at_most

ENDPOINTS_MAX = 8
EVENT_TYPES_MAX = 16
_ENVIRONMENTS_MAX = 2
EndpointKind = Literal["webhook", "slack", "email"]
EndpointState = Literal["active", "paused", "disabled"]
_TargetText = Annotated[str, Field(min_length=1, max_length=512)]
_EventType = Annotated[str, Field(min_length=1, max_length=64)]


class NewEndpoint(BaseModel, extra="forbid"):
    """An endpoint to make. A webhook is signed as Standard Webhooks says; `slack` is an incoming webhook of Slack's,
    and `email` an address."""

    kind: EndpointKind = "webhook"
    target: _TargetText = Field(
        description="An https URL without a user's name; of kind `email` an address",
        examples=["https://acme.example/hook"],
    )
    event_types: list[_EventType] = Field(
        default=["*"],
        min_length=1,
        max_length=EVENT_TYPES_MAX,
        description="What it hears of: names such as `project.credits_low`, families such as `project.*`, or `*`",
    )
    environments: list[EnvironmentName] = Field(
        default=[], max_length=_ENVIRONMENTS_MAX, description="The environments whose notices it hears of; [] is all"
    )
    ordered: bool = Field(False, description="Whether a notice waits until the one before it has been delivered")
    description: str = Field("", max_length=200)


class EndpointChange(BaseModel, extra="forbid"):
    """A change of an endpoint: what is left out stays as it is. A `state` of `active` resumes one that was paused or
    disabled."""

    target: _TargetText | None = None
    event_types: list[_EventType] | None = Field(None, min_length=1, max_length=EVENT_TYPES_MAX)
    environments: list[EnvironmentName] | None = Field(None, max_length=_ENVIRONMENTS_MAX)
    ordered: bool | None = None
    description: str | None = Field(None, max_length=200)
    state: Literal["active", "paused"] | None = None


class EndpointInfo(BaseModel):
    """An endpoint without its secret."""

    id: str
    kind: EndpointKind
    target: str = Field(description="The URL or the address; of kind `slack`, whose URL is a secret, its host alone")
    event_types: list[str] = at_most(EVENT_TYPES_MAX)
    environments: list[EnvironmentName] = at_most(_ENVIRONMENTS_MAX, description="[] is all")
    ordered: bool
    description: str
    state: EndpointState = Field(description="`disabled`: it failed for too long, or asked for no more")
    created_at: datetime
    rotated_at: datetime | None = Field(description="When it got its present secret, where it had another before")


class CreatedEndpoint(EndpointInfo):
    """A new endpoint. Its secret is shown here and stored nowhere; a test notice is on its way to it."""

    secret: str | None = Field(description="`whsec_…`, which its signatures are made with; null of other kinds")


class EndpointList(BaseModel):
    """The endpoints of a project, or of the platform (`project` is null), the oldest first."""

    project: str | None
    endpoints: list[EndpointInfo] = at_most(ENDPOINTS_MAX)


class NewSecret(BaseModel):
    """The new secret of an endpoint, shown here and stored nowhere."""

    id: str
    secret: str
    previous_until: datetime = Field(description="Until then each delivery is signed by the secret before it too")


class ReplayRequest(BaseModel, extra="forbid"):
    """A replay sends notices again: one by its id, all since a time, or of these only what the endpoint never took."""

    notice_id: str | None = Field(None, min_length=1, max_length=80, description="Its `webhook-id`")
    since: GivenTime | None = Field(None, description="RFC 3339 with a zone, within the last 30 days")
    only_failed: bool = Field(False, description="With `since`: only notices that it never took")


class EndpointAction(BaseModel):
    """An action that was asked for is on its way; GET …/deliveries shows what becomes of it."""

    id: str
    entry_id: str
    offset: int


class DeliveryInfo(BaseModel):
    """An attempt to deliver a notice, and what came of it."""

    attempt_id: str = Field(description="The `event_id` of its charge, where it was billed")
    notice_id: str
    notice_type: str
    environment: EnvironmentName | None
    number: int = Field(description="Which attempt it is; the first is free")
    sent_at: datetime
    status: int | None = Field(description="The HTTP status of the answer; null where none came")
    ms: int
    delivered: bool
    error: str = Field(description="Why no answer came; empty where one did")
    answer: str = Field(description="The first 4 KB of the answer, as UTF-8")
    next_at: datetime | None = Field(description="When it is tried again; null where it is not")
    billed: bool = Field(description="Whether it is a use of `webhook.delivery`; at an empty balance it costs 0")


class EndpointHealthInfo(BaseModel):
    """The health of an endpoint, by its attempts of the last 30 days: whether it takes what is sent to it."""

    id: str
    state: EndpointState
    attempts: int = Field(description="In the last 24 hours")
    failures: int = Field(description="Of these, attempts that it did not take")
    failures_in_a_row: int = Field(description="Attempts that failed since the last one that it took")
    last_attempt_at: datetime | None
    last_delivered_at: datetime | None
    last_status: int | None = Field(description="Of the last attempt; null where no answer came, or none was made")
    last_error: str = Field(description="Why the last attempt got no answer; empty where it did")
    waiting: int = Field(description="Notices that are tried again")
    next_at: datetime | None = Field(description="When the first of them is; null where none waits")
    disabled_at: datetime | None = Field(description="Of one that is `disabled`: since when")
    disabled_reason: str = Field(description="Of one that is `disabled`: why; empty otherwise")


class DeliveryPage(BaseModel):
    """A page of the attempts of the last 30 days, newest first. `next_cursor` asks for the next page; null on the
    last."""

    deliveries: list[DeliveryInfo] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None
