"""The audit log over HTTP (/v1/audit): who did what, what was refused, and which keys were used."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from schemas.http.common import at_most

AUDIT_ROWS_MAX = 10_000
AuditKind = Literal[
    "refusals",
    "shadow",
    "limits",
    "prices",
    "grants",
    "projects",
    "keys",
    "billing",
    "recharge",
    "endpoints",
    "portals",
    "notices",
]


class AuditEntry(BaseModel):
    """An audit entry says one thing that was decided or done; immutable. /v1/receipts explains its `entry_id`."""

    entry_id: str
    at: datetime
    project: str | None = Field(description="None for price books, and for a billing account's own terms")
    actor: str = Field(
        description="The id of the key that asked for it; `admin:…` is an operator's key; `cashier` is for a purchase "
        "that ended; empty where nobody asked and time brought it"
    )
    action: str = Field(
        examples=["request.refused", "raise.begun", "top_up.granted"], description="What was done; see the README"
    )
    code: str = Field(description="Why it was, or would have been, refused; empty otherwise")
    detail: str = Field(description="The same for people")
    environment: str
    operation: str = Field(description="The operation that was asked for, or the call of this API: `GET /v1/balance`")
    metadata: dict[str, Any]


class AuditPage(BaseModel):
    """A page of audit entries, newest first. `next_cursor` asks for the next page; null on the last."""

    since: datetime
    until: datetime
    entries: list[AuditEntry] = at_most(AUDIT_ROWS_MAX)
    next_cursor: str | None


class KeyUse(BaseModel):
    """The use of one key for one operation in one hour, UTC."""

    project: str
    key_id: str
    environment: str
    operation: str
    hour: datetime
    first_at: datetime
    last_at: datetime
    uses: int = Field(description="Requests and usage events sent with the key, refused ones and repeats included")
    refused: int


class KeyUsePage(BaseModel):
    """A page of key use by the hour, newest hour first. `next_cursor` asks for the next page; null on the last."""

    since: datetime
    until: datetime
    rows: list[KeyUse] = at_most(AUDIT_ROWS_MAX)
    next_cursor: str | None
