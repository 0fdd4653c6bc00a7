"""Problems over HTTP: RFC 9457 problem details, and the faults of single events within one."""

from __future__ import annotations

from pydantic import BaseModel, Field

from schemas.problems import PROBLEM_TYPE_BASE


class EventError(BaseModel):
    """The reason why one event of a batch was not accepted."""

    index: int = Field(description="The event's place in the batch, from 0")
    id: str | None = None
    code: str
    detail: str
    field: str | None = None


class Problem(BaseModel):
    """A problem tells a caller what went wrong: RFC 9457 problem details, as `application/problem+json`."""

    type: str = Field(examples=[PROBLEM_TYPE_BASE + "out_of_credits"])
    title: str
    status: int
    code: str
    detail: str
    instance: str = Field(description="The request id, as in the x-request-id header")
    field: str | None = Field(None, description="Where in the request the error is, if it is in one place")
    errors: list[EventError] | None = Field(None, description="Per event, for POST /v1/events")
