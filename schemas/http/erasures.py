"""Erasures over HTTP (/v1/admin/projects/{project}/erasures): metadata that leaves the history."""

from __future__ import annotations

from pydantic import BaseModel, Field

from schemas.events import METADATA_VALUE_CHARS_MAX


class ErasureRequest(BaseModel, extra="forbid"):
    """The erasure of what a project's events said of themselves, or of what those of one customer did."""

    customer_id: str | None = Field(
        None,
        min_length=1,
        max_length=METADATA_VALUE_CHARS_MAX,
        description="The customer, as the metadata key `customer_id` names it; all of the project if left out",
    )
    reason: str = Field("", max_length=200, description="Kept with the audit entry: name nobody in it")


class ErasureProgress(BaseModel):
    """How far an erasure is: the rows that still have what it takes. ClickHouse goes on by itself."""

    project: str
    entry_id: str | None = Field(description="The erasure's audit entry; null where there was nothing to erase")
    facts_left: int
    dead_letters_left: int
    done: bool = Field(description="No row that came before has it any more")
    failure: str = Field(description="Why ClickHouse can't go on, in its own words; empty where it can")
