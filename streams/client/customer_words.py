"""Errors in the words of a platform's customers: they know the platform, and have never heard of Meterline.

What only the platform can put right is told to its log. The customer hears what to do, and no name that only the
platform typed.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.problems import CODES

_ANEW = "then send it again, under a new Idempotency-Key if it had one."
_SUPPORT = "Nothing was charged. If it persists, tell support the id of this request."
_OURS = "Nothing was charged. It is not for you to put right: tell support the id of this request."

# What the customer can do, where the API's remedy is not for it.
_REMEDIES = {
    "out_of_credits": f"Top up, or wait for the next renewal; {_ANEW}",
    "plan_required": f"Upgrade to a plan that has it; {_ANEW}",
    "over_cost_ceiling": f"Ask for less at once; {_ANEW}",
    "project_closed": f"Have it reopened; {_ANEW}",
    "unauthenticated": "Sign in, or send your credentials.",
    "already_running": "Wait for its answer, then send it again.",
    "invalid_request": "Correct what is named, and send it again.",
    "rate_limited": CODES["rate_limited"].remedy,
    "admission_unavailable": "Send it again in a moment, under the same Idempotency-Key if it has one.",
}
# What the customer is told instead of what Meterline said, which names what the platform asked it.
_DETAILS = {
    "too_many_holds": ("Too many jobs", f"Too many of your jobs are under way. Wait until some end; {_ANEW}"),
    "idempotency_reply_expired": (
        "Already done",
        "A request with this Idempotency-Key was done before, and charged once; its answer is not kept here. Look for "
        "what it made, or send the request under a new Idempotency-Key to have it done, and charged, once more.",
    ),
    "event_id_reused": ("Key used before", f"This Idempotency-Key was used for another request. {_SUPPORT}"),
    "job_id_reused": ("Key used before", f"This Idempotency-Key was used for another request. {_SUPPORT}"),
    "idempotency_key_reused": ("Key used before", f"This Idempotency-Key was used for another request. {_SUPPORT}"),
    "unknown_project": ("Account not ready", f"Your account is not ready for this yet. {_OURS}"),
    "invalid_quantity": ("Amount out of range", f"This can't be had in that amount. Ask for another. {_SUPPORT}"),
}
# What Meterline says in these is of the customer's credits, plan and requests alone.
_TELLING = frozenset({"out_of_credits", "plan_required", "over_cost_ceiling", "project_closed", "rate_limited"})


@dataclass(frozen=True, slots=True)
class CustomerWords:
    """A problem as a customer is told of it. With `is_ours`, only the platform can put it right."""

    title: str
    detail: str
    is_ours: bool


def decided_words(code: str, detail: str) -> CustomerWords:
    """The words for what Meterline decided or refused: `detail` is Meterline's, and is told where it is the customer's
    own affair."""
    if code in _TELLING:
        return own_words(code, detail)
    if code in _DETAILS:
        return CustomerWords(*_DETAILS[code], is_ours=code not in ("too_many_holds", "idempotency_reply_expired"))
    if CODES[code].status >= 500:
        return CustomerWords(
            "Not possible now", f"This can't be decided now. {_REMEDIES['admission_unavailable']}", is_ours=True
        )
    return CustomerWords("Not possible", f"This request can't be done as it is. {_OURS}", is_ours=True)


def own_words(code: str, detail: str) -> CustomerWords:
    """The words for what the gateway, or the platform's own code in it, refuses: `detail` is for the customer."""
    return CustomerWords(CODES[code].title, f"{detail.rstrip('.')}. {_REMEDIES.get(code, _SUPPORT)}", is_ours=False)
