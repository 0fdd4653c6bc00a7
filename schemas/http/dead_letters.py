"""Dead letters over HTTP (/v1/admin/dead-letters): what was sent and could not be taken, and why."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import PAGE_ITEMS_MAX, at_most


class DeadLetterSummary(BaseModel):
    """A dead letter: an event, a command or a whole record that was refused before it could change an account."""

    id: str = Field(description="topic:partition:offset:index", examples=["meterline.usage:0:1842:3"])
    received_at: datetime
    code: str
    detail: str
    field: str = Field(description="Where in the event the fault is; empty where it is in no single place")
    remedy: str
    source: str = Field(description="The producer that its event names; empty where that can't be read")
    project: str = Field(description="The project that its event names, whether or not there is one; or empty")
    event_id: str = Field(description="The id that its event names, or empty")
    event: str = Field(description="The beginning of its text; of a single dead letter, as much as is kept: 16 KiB")


class DeadLetterPage(BaseModel):
    """A page of dead letters, newest first. `next_cursor` asks for the next page; null on the last."""

    since: datetime
    until: datetime
    dead_letters: list[DeadLetterSummary] = at_most(PAGE_ITEMS_MAX)
    next_cursor: str | None
