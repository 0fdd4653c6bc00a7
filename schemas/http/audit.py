"""Who did what, and what was refused: the answers of /v1/audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

AuditKind = Literal["refusals", "shadow", "limits", "prices", "grants", "projects", "keys", "billing", "recharge"]


class AuditEntry(BaseModel):
    """One thing that was decided or done; immutable. `entry_id` is what /v1/receipts explains."""

    entry_id: str
    at: datetime
    project: str | None = Field(description="None for price books, and for a billing account's own terms")
    actor: str = Field(
        description="The id of the key that it was asked for with, `admin:…` for an operator's, `cashier` for a "
        "purchase that ended; empty where time brought it"
    )
    action: str = Field(
        examples=["request.refused", "raise.begun", "top_up.granted"], description="What was done; see the README"
    )
    code: str = Field(description="Why it was, or would have been, refused; empty otherwise")
    detail: str = Field(description="The same for people")
    environment: str
    operation: str = Field(description="What was asked for; a call of this API, as `GET /v1/balance`, too")
    metadata: dict[str, Any]


class AuditPage(BaseModel):
    """Entries, newest first. `next_cursor` goes on; None at the end."""

    since: datetime
    until: datetime
    entries: list[AuditEntry]
    next_cursor: str | None


class KeyUse(BaseModel):
    """What one key was used for in one hour, UTC."""

    project: str
    key_id: str
    environment: str
    operation: str
    hour: datetime
    first_at: datetime
    last_at: datetime
    uses: int = Field(description="Requests, and usage events that it sent; those that were refused and repeats too")
    refused: int


class KeyUsePage(BaseModel):
    """Key use by the hour, the newest hour first. `next_cursor` goes on; None at the end."""

    since: datetime
    until: datetime
    rows: list[KeyUse]
    next_cursor: str | None
