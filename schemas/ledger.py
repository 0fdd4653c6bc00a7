"""The ledger's shapes: what an account keeps, the facts a decision states, and the reply it gives.

Amounts are integer microcredits, times are Unix milliseconds, UTC.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec


class Grant(msgspec.Struct, array_like=True, gc=False):
    """Credits given at once. `kind`: allowance, top_up or promotional; `expires_at_ms` 0 means never."""

    id: str
    kind: str
    environment: str
    granted: int
    remaining: int
    granted_at_ms: int
    expires_at_ms: int


class ApiKey(msgspec.Struct, array_like=True):
    """A project's key; `hash` is the SHA-256 of its secret. `revoked_at_ms` 0 means it is in use."""

    id: str
    hash: bytes
    environment: str
    scopes: list[str]
    created_at_ms: int
    revoked_at_ms: int


class Reply(msgspec.Struct, array_like=True, gc=False):
    """What a command is answered: an HTTP status, a code ("" on success), the amount charged or granted, and the
    budget's available credits after it, in microcredits. `entry_id` names the first fact it left."""

    status: int
    code: str
    detail: str
    amount: int
    available: int
    entry_id: str


class StoredReply(msgspec.Struct, array_like=True):
    """A reply kept for a repeat of its command. `key` and `fingerprint` are 16-byte hashes; `offset` the record's."""

    key: bytes
    fingerprint: bytes
    offset: int
    reply: Reply


class Account(msgspec.Struct, array_like=True):
    """All that a decision about one project consults. Grants stand in burn-down order.

    `allowance` is what each month grants. `opened_offset` is the intake record that opened it, `last_offset` the last
    one applied to it, and `last_at_ms` that one's time. `next_plan`, where there is one, begins at the renewal.
    `closed_at_ms` 0 means open.
    """

    project: str
    name: str
    plan: str
    allowance: int
    signed_up_at_ms: int
    renews_at_ms: int
    grants: list[Grant]
    keys: list[ApiKey]
    replies: list[StoredReply]
    opened_offset: int
    last_offset: int
    last_at_ms: int
    next_plan: str = ""
    next_allowance: int = 0
    is_in_good_standing: bool = True
    closed_at_ms: int = 0


class Fact(msgspec.Struct, array_like=True, gc=False):
    """One thing that happened, immutable. With its journal partition, (offset, index) orders and names it for good.

    `kind`: `charge`, `grant`, `expiry`, `refund` are ledger entries, each on one grant, and sum up to the balance;
    `refusal`, `duplicate`, `project`, `plan`, `standing`, `key` say what else was decided, of amount 0. `amount`
    is signed microcredits; `balance` is what the environment's budget held after it. `reason` is a problem code, a
    grant's kind, a plan, or "".
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


ENTRY_KINDS = ("charge", "grant", "expiry", "refund")


def entry_id(partition: int, offset: int, index: int) -> str:
    """A fact's public id; it is never stored, since it follows from where the fact came from."""
    return f"{partition}-{offset}-{index}"
