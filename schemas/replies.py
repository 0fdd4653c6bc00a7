"""Replies: the answers to commands, and the form in which an answer is stored for a repeat of its command."""

from __future__ import annotations

import msgspec

from schemas.problems import Rejection


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
    dedup hashes that it claimed. `shadow` is the code that limits on trial would have refused it with.
    `already_decided`: an earlier record decided what was asked, and this command had no effect of its own."""

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


def refusal(rejection: Rejection) -> Reply:
    """The reply to a command that is refused."""
    return Reply(rejection.status, rejection.code, rejection.detail, 0, 0, "", field=rejection.field or "")


class StoredReply(msgspec.Struct, array_like=True, gc=False):
    """A reply kept for a repeat of its command. `key` and `fingerprint` are 16-byte hashes of the command's key and
    content, `offset` is that of its intake record.

    `reply` is a Reply as MessagePack: an account has dozens of them, and hardly one is ever read again.
    """

    key: bytes
    fingerprint: bytes
    offset: int
    reply: msgspec.Raw
