"""Portal links over HTTP (/v1/portal-links): links by which a platform's own customers look at a project."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import EnvironmentName

CUSTOMER_CHARS_MAX = 128
LINK_MINUTES_MAX = 15


class NewPortalLink(BaseModel, extra="forbid"):
    """A link to make: to the pages of a project, or to those of one customer of it."""

    customer_id: str | None = Field(
        None,
        min_length=1,
        max_length=CUSTOMER_CHARS_MAX,
        description="The customer, as the metadata key `customer_id` names it: nothing of others is shown. All of the "
        "project if left out",
    )
    environment: EnvironmentName = Field("production", description="The one whose usage and ledger are shown")
    minutes: int = Field(
        LINK_MINUTES_MAX, ge=1, le=LINK_MINUTES_MAX, description="How long it can be opened; the session goes on"
    )


class PortalLinkInfo(BaseModel):
    """A link that was made. Its `url` is shown this once: whoever opens it first looks at what it shows."""

    id: str
    url: str
    project: str
    customer_id: str | None
    environment: EnvironmentName
    expires_at: datetime


class EndedPortals(BaseModel):
    """The end of all portal links of a project that were made before, and of their sessions."""

    project: str
    entry_id: str
