"""Corrections over HTTP: how to put an event right that was charged wrongly, or not at all."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, Field

from schemas.events import Name, UsageData
from schemas.http.common import Credits
from schemas.http.receipts import ReceiptEntry


class CorrectionRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A correction puts a usage event right. `void`: it should not have been charged. `amend`: it should have been
    charged as `data` says. `late`: it came too late, and should be charged after all.

    (source, id) names the event. `data` is as in a usage event. `time` is the time of use, RFC 3339 with a zone; an
    amended event keeps its own unless another is given. What is charged is judged as of that time, as an event is: by
    the price, the plan, and whether the project was there and open.
    """

    source: Name
    id: Name
    action: Literal["void", "amend", "late"]
    reason: Annotated[str, Meta(min_length=1, max_length=200)]
    data: UsageData | None = None
    time: str = ""


class CorrectionResult(BaseModel):
    """The ledger entries that put the event right."""

    project: str
    source: str
    id: str
    entry_id: str = Field(description="The id of the first entry; GET /v1/receipts explains it")
    entries: list[ReceiptEntry]
    change: Credits = Field(description="Credits that the project has more, or (negative) less, by the correction")
    available: Credits = Field(description="Credits available in the last entry's budget, after it")
    offset: int
