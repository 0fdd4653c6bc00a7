"""Replies: the answers to commands, and the form in which an answer is kept for a repeat of its command."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from schemas.problems import Rejection
from schemas.times import DAY_MS, MINUTE_MS


class RateState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The state of a project's request window: `remaining` requests of `limit` a minute. The window is full again at
    `reset_at_ms`. A request that was limited would pass at `retry_at_ms`; 0 where it passed."""

    limit: int
    remaining: int
    reset_at_ms: int
    retry_at_ms: int


class Reply(msgspec.Struct, array_like=True, gc=False):
    """A reply answers a command: an HTTP status, a code ("" on success), the amount charged or granted, and the
    budget's available credits after it, in microcredits. `entry_id` names the first fact that the command left,
    `hold_id` the open hold that it placed or found, `field` the part of the command that was wrong. `claims` are the
    dedup hashes that it claimed, each with its mark behind it. `shadow` is the code that limits on trial would
    have refused it with. `already_decided`: an earlier record decided what was asked, and this command
    had no effect of its own. `cents` are the US cents due for it; negative is given back."""

    status: int
    code: str
    detail: str
    amount: int
    available: int
    entry_id: str
    hold_id: str = ""
    hold_expires_at_ms: int = 0
    field: str = ""
    rate: RateState | None = None
    claims: list[bytes] = []
    shadow: str = ""
    already_decided: bool = False
    cents: int = 0


def refusal(rejection: Rejection) -> Reply:
    """The reply to a command that is refused."""
    return Reply(rejection.status, rejection.code, rejection.detail, 0, 0, "", field=rejection.field or "")


class KeptReply(msgspec.Struct, array_like=True, gc=False):
    """A reply kept for a repeat of its command. `at_ms` and `offset` are those of the intake record that decided it,
    `fingerprint` is a 16-byte hash of what the command asked."""

    at_ms: int
    offset: int
    fingerprint: bytes
    reply: Reply


@dataclass(frozen=True, slots=True)
class KeptFor:
    """How long replies are kept, in milliseconds between the times of the record that decided and of the one that asks
    again. No other clock counts: a record that is folded anew finds what it found the first time."""

    key_ms: int = DAY_MS
    request_ms: int = 10 * MINUTE_MS


KEPT_FOR = KeptFor()
