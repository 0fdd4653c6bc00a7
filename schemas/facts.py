"""Facts: what a decision states, immutable, as the journal and ClickHouse keep it."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec


class Fact(msgspec.Struct, array_like=True, gc=False):
    """One thing that happened, immutable. With its journal partition, (offset, index) orders and names it for good.

    `kind`: `charge`, `grant`, `expiry`, `refund`, `correction` are ledger entries, each on one grant, and sum up to the
    balance; `hold` and `release` change what is held, of amount 0, as a `charge` that captures a hold does; `refusal`,
    `duplicate`, `project`, `plan`, `subscription`, `standing`, `key`, `billing_account`, `item`, `recharge`,
    `price_book`, `request`, `limits`, `shadow` say what else was decided. `amount` is signed microcredits; `held` the
    signed change of what is held; `balance` the environment's balance after it, held credits included. `cents` is money
    due for it, negative where it is given back, on the invoice of `billing_account`. `reason` is a problem code, a
    grant's kind, a plan, or "".
    `surcharge` is what a refused, repeated or held use would have been charged beside its operation, or "".
    """

    offset: int
    index: int
    kind: str
    project: str
    environment: str
    operation: str
    quantity: int
    amount: int
    balance: int
    grant_id: str
    reason: str
    price_version: str
    source: str
    event_id: str
    job_id: str
    key_id: str
    occurred_at_ms: int
    booked_at_ms: int
    metadata: str
    held: int = 0
    cents: int = 0
    billing_account: str = ""
    surcharge: str = ""


F = TypeVar("F")


class FactPack(msgspec.Struct, Generic[F], array_like=True, frozen=True, gc=False):
    """A journal record: facts in order, behind what a reader needs to know to pass them on unread.

    `first` and `last` are the (offset, index) of its first and last fact; the booking times bound those of all. `facts`
    is a list[Fact], or a msgspec.Raw where they are left as they are on the topic.
    """

    first: tuple[int, int]
    last: tuple[int, int]
    booked_from_ms: int
    booked_to_ms: int
    count: int
    facts: F


ENTRY_KINDS = ("charge", "grant", "expiry", "refund", "correction")


def entry_id(partition: int, offset: int, index: int) -> str:
    """A fact's public id; it is never stored, since it follows from where the fact came from."""
    return f"{partition}-{offset}-{index}"
