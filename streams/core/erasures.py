"""Erasures: what events say of themselves, their metadata, leaves the history, for a project or one customer of it.

The fact says so, and whoever writes the history does it where the fact comes (docs/decisions/0058). No entry goes, and
no amount changes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from schemas.commands import Erase
from schemas.replies import Reply
from streams.core.booking import Booking, available, note
from streams.core.customers import customer_name

CUSTOMER = "customer_id"


def erase(booking: Booking, command: Erase) -> Reply:
    """Have the metadata of a project's events, or of those of one customer, erased. Open holds forget theirs now: it
    would come to the history with what becomes of them."""
    account, customer = booking.account, command.customer
    for hold in account.holds:
        if hold.metadata and (not customer or customer_of(hold.metadata) == customer):
            hold.metadata = ""
    fact_id = booking.state(
        "erasure",
        reason="customer" if customer else "project",
        # By its hash: the fact must not keep the name that it is about.
        metadata=note(
            customer_sha256=customer_hash(account.project, customer) if customer else "", reason=command.reason
        ),
    )
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def customer_hash(project: str, customer: str) -> str:
    """The SHA-256 by which an erasure names a customer of a project, in lower-case hex digits."""
    return sha256(f"{project}\n{customer}".encode()).hexdigest()


def customer_of(metadata: str) -> str:
    """The customer that an event's metadata names, or "": a string's text, and any other value as JSON."""
    said: dict[str, Any] = msgspec.json.decode(metadata)
    if CUSTOMER not in said:
        return ""
    value = said[CUSTOMER]
    return "null" if value is None else customer_name(value)
