"""Admissions over HTTP: one request or a batch of them, and the answer to each."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, Field

from schemas.events import Name, ProjectId, UsageData
from schemas.http.common import Credits
from schemas.http.problems import Problem


class AdmissionRequest(UsageData, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An admission request asks: may this project do this now? It has the fields of a usage event's `data`, and those
    that name the event.

    (source, id) are those of the usage event that will follow, if one will: that event is then not billed again.
    `project` is for admin keys; a project's own key names its project already. With `hold`, the credits are held for
    the job `job_id` until the hold is captured or released, or `hold_seconds` (3600) have passed.
    """

    project: ProjectId | None = None
    source: Name | None = None
    id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    hold: bool = False
    hold_seconds: Annotated[int, Meta(ge=1, le=604_800)] | None = None


BATCH_REQUESTS_MAX = 100


class BatchAdmissionRequest(AdmissionRequest, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A request of a batch. The same `idempotency_key` with the same content gives the same answer."""

    idempotency_key: Annotated[str, Meta(min_length=1, max_length=255)] | None = None


class AdmissionBatch(msgspec.Struct, forbid_unknown_fields=True):
    """A batch of admission requests, sent together; each is decided by itself."""

    requests: Annotated[list[BatchAdmissionRequest], Meta(min_length=1, max_length=BATCH_REQUESTS_MAX)]


ShadowCode = Annotated[
    str | None,
    Field(description="The code with which limits on trial would have refused it; absent if they would not have"),
]


class Admission(BaseModel):
    """An admitted request. `offset` may be given to GET /v1/balance as `min_offset`: the balance then includes it."""

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
    """A refused request. With an `entry_id`, the refusal is a decision, and GET /v1/receipts explains it."""

    project: str | None = None
    available: Credits | None = None
    entry_id: str | None = None
    shadow_code: ShadowCode = None


class RateAnswer(msgspec.Struct, omit_defaults=True):
    """A RateInfo as it is sent; see AdmissionAnswer."""

    limit: int
    remaining: int
    reset_at: datetime
    retry_after_seconds: int | None = None


class AdmissionAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An Admission, or with `status` and `rate` a BatchAdmission, as it is sent: msgspec makes it and its bytes in a
    tenth of pydantic's time. Its fields, their order and bytes are those of the documented shape."""

    status: Literal[200] | None = None
    allowed: bool
    project: str
    operation: str
    credits: str
    available: str
    entry_id: str
    offset: int
    already_decided: bool
    hold_id: str | None = None
    hold_expires_at: datetime | None = None
    shadow_code: str | None = None
    rate: RateAnswer | None = None


class RateInfo(BaseModel):
    """The project's window after a request. A request that was limited would pass after `retry_after_seconds`."""

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
    """The decisions on the requests of a batch, in the order of the requests."""

    decisions: list[BatchAdmission | BatchProblem]
