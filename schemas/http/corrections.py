"""Putting an event right: what is asked, and what it led to."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, Field

from schemas.events import Name, UsageData
from schemas.http.common import Credits
from schemas.http.receipts import ReceiptEntry


class CorrectionRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`void`: it should not have been charged. `amend`: it should have been this. `late`: it was never taken.

    (source, id) is the event's. `data` is as in a usage event. `time` is when it was used, RFC 3339 with a zone;
    an amended event keeps its own unless another is given.
    """

    source: Name
    id: Name
    action: Literal["void", "amend", "late"]
    reason: Annotated[str, Meta(min_length=1, max_length=200)]
    data: UsageData | None = None
    time: str = ""


class CorrectionResult(BaseModel):
    """The entries that put it right."""

    project: str
    source: str
    id: str
    entry_id: str = Field(description="Of the first entry; GET /v1/receipts explains it")
    entries: list[ReceiptEntry]
    change: Credits = Field(description="What the project has more, or less, for it")
    available: Credits = Field(description="Of the budget of the last entry, after it")
    offset: int
