"""Admissions over HTTP: one request or a batch of them, and the answer to each."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, Field

from schemas.events import Name, ProjectId, UsageData
from schemas.http.common import Credits
from schemas.problems import Problem


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
