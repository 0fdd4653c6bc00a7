"""Facts, as far as the model tells them."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """A fact, as far as the model tells it: all but its metadata."""

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
    held: int
    cents: int
    billing_account: str
