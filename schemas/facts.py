"""Facts: the immutable statements that decisions leave, as the journal and ClickHouse keep them."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec


class Fact(msgspec.Struct, array_like=True, gc=False):
    """A fact states one thing that happened. With its journal partition, (offset, index) orders and names it for good.

    `kind`: `charge`, `grant`, `expiry`, `refund`, `correction` are ledger entries; each is on one grant, and their
    amounts sum up to the balance. `hold` and `release` have amount 0 and change what is held; so does a `charge` that
    captures a hold. `refusal`, `duplicate`, `project`, `plan`, `subscription`, `standing`, `key`, `billing_account`,
    `item`, `recharge`, `price_book`, `request`, `limits`, `shadow` say what else was decided.
    `amount` is signed microcredits, `held` the signed change of what is held, `balance` the environment's balance after
    the fact, held credits included. `cents` is money due, or negative where money is given back, on the invoice of
    `billing_account`. `reason` is a problem code, a grant's kind, a plan, or "". `surcharge` is the operation that a
    refused, repeated or held use would have been charged beside its own, or "".
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
    """A journal record: facts in order, after a head that tells a reader enough to pass them on undecoded.

    `first` and `last` are the (offset, index) of its first and last fact; every fact was booked between
    `booked_from_ms` and `booked_to_ms`. `facts` is a list[Fact], or a msgspec.Raw where they are left undecoded.
    """

    first: tuple[int, int]
    last: tuple[int, int]
    booked_from_ms: int
    booked_to_ms: int
    count: int
    facts: F


ENTRY_KINDS = ("charge", "grant", "expiry", "refund", "correction")


def entry_id(partition: int, offset: int, index: int) -> str:
    """The public id of a fact. It is never stored, since it follows from the fact's place in the log."""
    return f"{partition}-{offset}-{index}"
