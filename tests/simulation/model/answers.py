"""Answers: replies as far as the model tells them, their codes and statuses."""

from __future__ import annotations

from typing import NamedTuple

from schemas.replies import Reply

STATUS = {
    "": 200,
    "out_of_credits": 402,
    "plan_required": 402,
    "project_closed": 403,
    "unknown_project": 404,
    "unknown_endpoint": 404,
    "unknown_grant": 404,
    "unknown_hold": 404,
    "unknown_key": 404,
    "unknown_price_book": 404,
    "unknown_raise": 404,
    "over_cost_ceiling": 403,
    "unknown_operation": 422,
    "time_out_of_range": 422,
    "portal_ended": 410,
    "portal_link_expired": 410,
    "rate_limited": 429,
    "invalid_request": 422,
}


class Answer(NamedTuple):
    """A reply, as far as the model tells it."""

    status: int
    code: str
    amount: int
    available: int
    entry_id: str
    hold_id: str = ""
    # Of the request window: its limit, what remains of it, when it is full again, when to try again.
    rate: tuple[int, int, int, int] | None = None
    shadow: str = ""


def answer_of(reply: Reply) -> Answer:
    """A reply in the model's words."""
    rate = reply.rate
    return Answer(
        reply.status,
        reply.code,
        reply.amount,
        reply.available,
        reply.entry_id,
        reply.hold_id,
        rate and (rate.limit, rate.remaining, rate.reset_at_ms, rate.retry_at_ms),
        reply.shadow,
    )


class Refused(Exception):
    """A command that changes nothing; its code."""
