"""Notices: what a project's people, or the platform's own systems, are told of, and the attempts to deliver them."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

NoticeType = Literal[
    "project.credits_low",
    "project.credits_exhausted",
    "project.credits_recovered",
    "project.time_to_empty",
    "price.announced",
    "hold.expired",
    "payment.failed",
    "purchase.succeeded",
    "plan.changed",
    "endpoint.disabled",
    "webhook.test",
]

# What each says, for people. `webhook.test` goes to one endpoint, when it is made or somebody asks for it.
NOTICE_TYPES: Final[dict[NoticeType, str]] = {
    "project.credits_low": "No more than a threshold is available: 20% of what the month granted, or one of its own",
    "project.credits_exhausted": "Nothing is available",
    "project.credits_recovered": "More than the thresholds that were crossed is available again",
    "project.time_to_empty": "At the rate of the last 24 hours nothing is left before the next renewal",
    "price.announced": "A price book is announced",
    "hold.expired": "Nobody resolved a hold in time, and its credits are free again",
    "payment.failed": "A bundle could not be bought",
    "purchase.succeeded": "A bundle was bought",
    "plan.changed": "A project is on another plan",
    "endpoint.disabled": "An endpoint failed for too long, or asked for no more, and gets nothing any more",
    "webhook.test": "An endpoint is tried out",
}


class Notice(msgspec.Struct, array_like=True, frozen=True):
    """A notice. `id` follows from the fact that states it, so a repeat after a crash is the same notice. `at_ms` is
    when the fact was booked; `data` is a JSON object of what the type tells beside project and environment, or ""."""

    id: str
    type: NoticeType
    project: str
    environment: str
    at_ms: int
    data: str


class DeliveryAttempt(msgspec.Struct, array_like=True, frozen=True):
    """An attempt to deliver a notice to an endpoint, and what came of it. `id` is `endpoint.notice.number`; the first
    has `number` 1. `project` is whose endpoint it is, `platform:` for the platform's. `status` is the answer's, 0 where
    none came; `error` says why then. `next_at_ms` is when it is tried again, 0 where it is not; `is_billed` says that
    the attempt cost something, or would have."""

    id: str
    project: str
    environment: str
    endpoint_id: str
    notice_id: str
    notice_type: str
    number: int
    sent_at_ms: int
    status: int
    ms: int
    answer: bytes
    error: str
    next_at_ms: int
    is_delivered: bool
    is_billed: bool
