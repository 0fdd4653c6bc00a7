"""Facts in words: the outcome of a decision, and its amounts, times and notes as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.facts import LIMITED_AT_EDGE, Fact, Kind, Reason
from schemas.times import utc
from streams.core.plans import PLANS

_BY_KIND: tuple[tuple[Kind, str], ...] = (
    ("correction", "corrected"),
    ("hold", "held"),
    ("duplicate", "duplicate"),
    ("refund", "refunded"),
)
_BY_REASON: tuple[tuple[tuple[Kind, Reason], str], ...] = (
    (("limits", "set"), "limits set"),
    (("limits", "shadow"), "limits on trial"),
    (("limits", "raise_planned"), "limits raised"),
    (("limits", "raise_begun"), "raise begun"),
    (("limits", "raise_ended"), "raise ended"),
    (("release", "released"), "released"),
    (("release", "expired"), "hold expired"),
    (("project", "closed"), "project closed"),
    (("project", "reopened"), "project reopened"),
)
# What a decision came to that none of the rules of `outcome_of` knows, by its first fact.
_OTHERWISE: dict[Kind, str] = {
    "grant": "grant",
    "request": "counted",
    "shadow": "shadow",
    "standing": "standing",
    "key": "key {reason}",
    "billing_account": "billing account",
    "transfer": "billing account",
    "item": "item",
    "recharge": "recharge {reason}",
    "price_book": "price book",
    "price_withdrawal": "price book withdrawn",
    "erasure": "{reason} erased",
    "portal": "portal {reason}",
    "endpoint": "endpoint {reason}",
    "notice": "{reason}",
}


def outcome_of(facts: Sequence[Fact]) -> str:
    said = {(fact.kind, fact.reason) for fact in facts}
    kinds = {fact.kind for fact in facts}
    if ("charge", "captured") in said or ("release", "captured") in said:
        return "captured"
    for kind, outcome in _BY_KIND:
        if kind in kinds:
            return "hold extended" if (kind, "extended") in said else outcome
    if any(fact.kind == "charge" and fact.source for fact in facts):
        return "charged"
    if any(refuses_request(fact) for fact in facts):
        return "refused"
    for key, outcome in _BY_REASON:
        if key in said:
            return outcome
    if "project" in kinds:
        return "project opened" if "grant" in kinds or facts[0].reason in PLANS else "project changed"
    if "plan" in kinds:
        return "plan changed"
    if ("grant", "top_up") in said or ("grant", "promotional") in said:
        return "granted"
    if ("grant", "allowance") in said or "expiry" in kinds or "subscription" in kinds:
        return "renewed"
    if ("charge", "recurring") in said:
        return "month billed"
    if "refusal" in kinds:
        return "month unpaid"
    # A kind that a newer version has stated is told by its name.
    words = _OTHERWISE.get(facts[0].kind, facts[0].kind.replace("_", " "))
    return words.format(reason=facts[0].reason)


def refuses_request(fact: Fact) -> bool:
    """Whether a fact refuses a request; a refusal may also say that a month is unpaid."""
    return fact.kind == "refusal" and (bool(fact.source) or code_of(fact) == "rate_limited")


def code_of(fact: Fact) -> str:
    """The problem code that those whom a refusal is about were told."""
    return "rate_limited" if fact.reason == LIMITED_AT_EDGE else fact.reason


def seconds_of(milliseconds: int) -> int:
    return -(-milliseconds // 1000)


def second_text(at_ms: int) -> str:
    return f"{utc(at_ms):%Y-%m-%d %H:%M:%S} UTC"


def use_text(fact: Fact) -> str:
    what = f"{fact.operation} with {fact.surcharge}" if fact.surcharge else fact.operation
    return f"{fact.quantity} × {what}" if fact.quantity > 1 else what


def note_of(fact: Fact) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(fact.metadata) if fact.metadata else {}
    return found


def dollars(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"
