"""Marks: what the dedup index keeps beside an id, so that what it was claimed for can be told from anything else.

The mark of an event or a job is eight bytes over its content (operation, quantity, surcharge, environment) and over
what came of it. So few contents can be asked for that no two of them share a mark (`test_marks.py` tries them all).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from schemas.accounts import Hold
from schemas.events import Usage
from schemas.facts import entry_id as id_of_entry
from schemas.problems import CODES

MARK_BYTES = 8
# What the mark of a use begins with that was charged in part: its hold was captured, and what it has more was refused.
_IN_PART = b"part"


class Claim(NamedTuple):
    """A claim on an id: the `offset` of the intake record that decided it first, and its mark, which is b"" where there
    is none: on an Idempotency-Key, a correction, and whatever an older version claimed."""

    offset: int
    mark: bytes = b""


# The dedup index as the fold sees it: the claims by the hash of what they are on.
Seen = dict[bytes, Claim]


@lru_cache(maxsize=1 << 14)
def _mark(operation: str, quantity: int, surcharge: str, environment: str, code: str = "") -> bytes:
    text = f"{code}:{environment}:{quantity}:{surcharge}:{operation}"
    return blake2b(text.encode(), digest_size=MARK_BYTES).digest()


def mark_of(usage: Usage, code: str = "") -> bytes:
    """The mark of a use that was charged, or, with a `code`, of one that was refused so."""
    return _mark(usage.operation, usage.quantity, usage.surcharge, usage.environment, code)


def mark_in_part(usage: Usage) -> bytes:
    """The mark of a use that was charged in part, and refused in part."""
    return _IN_PART + mark_of(usage)[: MARK_BYTES - len(_IN_PART)]


def is_charged_in_part(claim: Claim) -> bool:
    """Whether a claim is that of a use that was charged in part."""
    return claim.mark.startswith(_IN_PART)


def mark_of_hold(hold: Hold) -> bytes:
    """The mark of the use that a hold was placed for, as it is once it is charged."""
    return _mark(hold.lines[0].operation, hold.lines[0].quantity, surcharge_of(hold), hold.environment)


def surcharge_of(hold: Hold) -> str:
    """The operation that a hold would charge beside its first, or ""."""
    return hold.lines[1].operation if len(hold.lines) > 1 else ""


def came_of(claim: Claim, usage: Usage) -> str | None:
    """The code that a use with the content of this one was refused with, or "" where it was charged, if in part; None
    where the id was claimed for another content. A claim without a mark is taken for the same content, charged."""
    if not claim.mark or claim.mark in (mark_of(usage), mark_in_part(usage)):
        return ""
    return next((code for code in CODES if claim.mark == mark_of(usage, code)), None)


def mark_of_amount(microcredits: int) -> bytes:
    """The mark of a hold that was captured: what that charged."""
    return microcredits.to_bytes(MARK_BYTES, "big")


def amount_of(claim: Claim) -> int:
    """The microcredits that a captured hold was charged."""
    return int.from_bytes(claim.mark, "big")


def mark_of_entry(entry_id: str) -> bytes:
    """The mark of a payment: the index, within its record, of the entry that it was booked by."""
    return int(entry_id.rpartition("-")[2]).to_bytes(MARK_BYTES, "big")


def entry_of(claim: Claim, partition: int) -> str:
    """The id of the entry that a payment was booked by."""
    return id_of_entry(partition, claim.offset, int.from_bytes(claim.mark, "big"))
