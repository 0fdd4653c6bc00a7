"""Notices follow from facts: which facts people, or the platform's own systems, are told of, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from schemas.facts import Fact, entry_id
from schemas.notices import Notice, NoticeType
from streams.core.booking import note

# The facts that are notices, by kind and reason; a reason of None stands for every one.
_TYPES: Final[Mapping[tuple[str, str | None], NoticeType]] = {
    ("notice", "credits_low"): "project.credits_low",
    ("notice", "credits_exhausted"): "project.credits_exhausted",
    ("notice", "credits_recovered"): "project.credits_recovered",
    ("notice", "time_to_empty"): "project.time_to_empty",
    ("price_book", None): "price.announced",
    ("release", "expired"): "hold.expired",
    ("recharge", "failed"): "payment.failed",
    ("grant", "top_up"): "purchase.succeeded",
    ("plan", None): "plan.changed",
    ("endpoint", "disabled"): "endpoint.disabled",
}
# The kinds of facts of which some are notices, for a reader that passes over all others.
NOTICE_KINDS: Final = tuple(dict.fromkeys(kind for kind, _ in _TYPES))


def notice_facts(notice_type: NoticeType | None = None) -> list[tuple[str, str | None]]:
    """The (kind, reason) pairs of the facts that may be notices, or one type of them; a reason of None is every one."""
    return [fact for fact, type_of_fact in _TYPES.items() if notice_type in (None, type_of_fact)]


def notice_of(partition: int, fact: Fact) -> Notice | None:
    """The notice that a fact of the journal partition is, or None where it is none.

    `data` is a JSON object: what the fact's metadata says, and what else the type tells. A price book is every
    project's: its notice has no project (""), and comes once in each partition.
    """
    notice_type = _TYPES.get((fact.kind, fact.reason)) or _TYPES.get((fact.kind, None))
    if notice_type is None:
        return None
    said: dict[str, object] = msgspec.json.decode(fact.metadata) if fact.metadata else {}
    if notice_type == "plan.changed" and fact.occurred_at_ms > fact.booked_at_ms:
        # It is to come with the renewal, and states another fact then.
        return None
    if notice_type == "hold.expired" and "held_microcredits" not in said:
        # A hold on several grants states a release of each; the first tells of the hold as a whole.
        return None
    more = _MORE.get(notice_type)
    return Notice(
        id=f"ntc-{entry_id(partition, fact.offset, fact.index)}",
        type=notice_type,
        project="" if notice_type == "price.announced" else fact.project,
        environment=fact.environment,
        at_ms=fact.booked_at_ms,
        data=note(**said | (more(fact) if more is not None else {})),
    )


_MORE: Final[Mapping[NoticeType, Callable[[Fact], dict[str, object]]]] = {
    "price.announced": lambda fact: {"price_version": fact.reason},
    "hold.expired": lambda fact: {"operation": fact.operation, "job_id": fact.job_id},
    "purchase.succeeded": lambda fact: {
        "amount_microcredits": fact.amount,
        "cents": fact.cents,
        "grant_id": fact.grant_id,
    },
    "plan.changed": lambda fact: {"plan": fact.reason, "occurred_at_ms": fact.occurred_at_ms},
}
