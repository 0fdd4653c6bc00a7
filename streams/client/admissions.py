"""Admissions answer a gateway's question: may this project run this request now? KafkaAdmissions asks the worker that
owns the project, HttpAdmissions asks the API; both have the same methods.

    async with KafkaAdmissions(settings) as admissions:
        decision = await admissions.admit("prj_1", "image", id="req-42", source="/gateway")
        if decision.allowed: ...

A refusal is a Decision too. ArgumentError is raised, before anything is sent, for what can't be asked; MeterlineAway
where no decision can be had. Then the request may have been decided all the same: ask again under the same idempotency
key, or leave it to `streams.client.away`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack

from schemas.events import Environment
from schemas.prices import PriceBook
from schemas.problems import Rejection
from schemas.replies import RateState
from streams.client.amounts import Credits
from streams.client.arguments import of_event
from streams.limit_headers import rate_headers, retry_after_seconds

MetadataValues = dict[str, str | int | float | bool | None]
RETRY_SECONDS = 0.05


class Details(TypedDict, total=False):
    """The details of a request that its price depends on; see `schemas.events.UsageData`."""

    quantity: int | None
    target_languages: int | None
    attempts: int | None
    networks: int | None
    tier: Literal["budget", "premium"] | None
    media_type: Literal["none", "image", "video"] | None


class About(TypedDict, total=False):
    """The subject of a question, for MeterlineAway to name: the event of an admission, or a hold."""

    source: str
    id: str
    hold_id: str


class MeterlineAway(Exception):
    """Meterline gave no answer: it is not reachable, too slow, or refuses this gateway's key. Unless `is_unsent`, the
    request may have been decided all the same, or may yet be. `source` and `id` name the event of an admission,
    `hold_id` the hold of a capture, a release or an extension; "" where it was about another thing."""

    def __init__(
        self, detail: str, *, is_unsent: bool = False, source: str = "", id: str = "", hold_id: str = ""
    ) -> None:
        super().__init__(detail + of_event(source, id) + (f" (hold {hold_id})" if hold_id else ""))
        self.is_unsent = is_unsent
        self.source = source
        self.id = id
        self.hold_id = hold_id


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a request: whether it may run, or why not. `credits`, which were charged, held or given back, and
    `available`, which are left to spend, are in credits.

    `offset` may be given to GET /v1/balance as `min_offset`. With `already_decided` the event was decided before, and
    nothing was charged for it now; `hold_id` is then the hold that is still open for it, or "". A capture that is
    `already_decided` found its hold captured, by its usage event or another capture, for `credits`. `shadow` is the
    code that limits on trial would have refused the request with. `field` names the part of the request that was wrong.
    """

    status: int
    code: str
    detail: str
    project: str
    operation: str
    credits: Decimal
    available: Decimal
    entry_id: str
    offset: int
    hold_id: str = ""
    hold_expires_at_ms: int = 0
    already_decided: bool = False
    shadow: str = ""
    rate: RateState | None = None
    field: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may run."""
        return self.status < 300

    @property
    def retry_after_seconds(self) -> int:
        """The seconds after which a request that was limited (429) would pass; 0 for any other."""
        limited = self.status == 429 and self.rate is not None and self.rate.retry_at_ms
        return retry_after_seconds(self.rate) if limited and self.rate is not None else 0

    def headers(self) -> dict[str, str]:
        """The limit headers for the answer to the request, or {} where the decision has no request window. The reset is
        in Unix seconds, rounded up; `Retry-After`, in seconds, is on a 429 alone."""
        return rate_headers(self.rate, self.status) if self.rate is not None else {}


class Admissions(Protocol):
    """Admissions ask Meterline for decisions: the methods that both clients have. Any number of calls may run at once.
    A call raises MeterlineAway where there is no answer, and ArgumentError, before anything is sent, for an argument
    that can never be right."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def admit(
        self,
        project: str,
        operation: str,
        *,
        id: str,
        source: str,
        hold: bool = False,
        hold_seconds: int | None = None,
        job_id: str = "",
        environment: Environment = "production",
        metadata: MetadataValues | None = None,
        idempotency_key: str = "",
        key_id: str = "",
        **details: Unpack[Details],
    ) -> Decision:
        """Decide one request, and charge it, or hold its credits for `job_id` (by default `id`).

        `source` and `id` are those of the usage event that may follow: request and event are billed once.
        """

    async def capture(self, project: str, hold_id: str, credits: Credits | None = None) -> Decision:
        """Charge a hold, all of it or so many `credits` (Decimal("1.5") or "1.5"), and release the rest. A repeat gets
        the same answer. Raises TypeError and ValueError for what is no amount of credits."""

    async def release(self, project: str, hold_id: str, reason: str = "") -> Decision:
        """Give a hold's credits back. A repeat gets the same answer."""

    async def extend(self, project: str, hold_id: str, seconds: int) -> Decision:
        """Let a hold expire `seconds` from now, be that later or sooner."""

    async def prices(self) -> dict[str, Decimal]:
        """The credits that one unit of each operation costs now; at most a minute old, unless the client was told
        another time."""

    async def _price_book(self) -> PriceBook:
        """The price book behind `prices`, in microcredits, for `streams.client.away`."""


def usage_data(
    operation: str, environment: str, job_id: str, metadata: MetadataValues | None, details: Details
) -> dict[str, Any]:
    """The `data` of a usage event; details that are None are left out."""
    fields: dict[str, Any] = {"operation": operation, "environment": environment, "job_id": job_id}
    if metadata:
        fields["metadata"] = metadata
    return fields | {name: value for name, value in details.items() if value is not None}


def invalid_request(project: str, operation: str, rejection: Rejection) -> Decision:
    """The decision on a request that can't be asked about as it is, for a gateway: its sender is at fault."""
    return Decision(
        status=rejection.status,
        code=rejection.code,
        detail=rejection.detail,
        project=project,
        operation=operation,
        credits=Decimal(0),
        available=Decimal(0),
        entry_id="",
        offset=-1,
        field=rejection.field or "",
    )
