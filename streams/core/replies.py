"""Kept replies: a command sent again gets the reply of the first time, if its key and its content are the same."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from schemas.accounts import Account
from schemas.commands import Admit, AnyCommand, CountRefused, CountRequest
from schemas.replies import Reply, StoredReply

REPLIES_KEPT = 32

_encode = msgspec.msgpack.Encoder().encode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def fingerprint(command: AnyCommand) -> bytes:
    """16 bytes over what a command asks, whoever waits for the reply and whenever it was sent."""
    neutral = msgspec.structs.replace(command, correlation="", reply_instance="", reply_partition=0, actor="")
    if isinstance(neutral, Admit):
        neutral = msgspec.structs.replace(neutral, usage=msgspec.structs.replace(neutral.usage, occurred_at_ms=0))
    return blake2b(_encode(neutral), digest_size=16).digest()


def decides(reply: Reply) -> bool:
    """Whether a reply settles what was asked. A request that the window stopped may be sent again under its key."""
    return reply.code != "rate_limited"


def reply_key(command: AnyCommand, reply: Reply | None = None) -> bytes:
    """16 bytes under which a command's reply is kept: its idempotency key, or else the request itself."""
    has_key = command.idempotency_key and (reply is None or decides(reply))
    return _hash(command.project, f"key:{command.idempotency_key}" if has_key else f"request:{command.correlation}")


def has_reply(account: Account, idempotency_key: str) -> bool:
    """Whether an account has kept the reply of a command under this key, for a repeat of it."""
    key = _hash(account.project, f"key:{idempotency_key}")
    return any(stored.key == key for stored in account.replies)


def is_reply_kept(command: AnyCommand) -> bool:
    """Whether the reply to this command is kept for a repeat. A counted request's is not worth an account's room:
    asking again is another request."""
    return not isinstance(command, CountRequest | CountRefused)


def kept_reply(stored: StoredReply) -> Reply:
    """The reply that an account has kept, decoded."""
    return _decode_reply(stored.reply)


def keep_reply(account: Account, command: AnyCommand, offset: int, reply: Reply) -> None:
    """Keep a reply for a repeat of its command; the oldest goes once an account has more than `REPLIES_KEPT`."""
    stored = StoredReply(reply_key(command, reply), fingerprint(command), offset, msgspec.Raw(_encode(reply)))
    account.replies.append(stored)
    if len(account.replies) > REPLIES_KEPT:
        del account.replies[: len(account.replies) - REPLIES_KEPT]


def _hash(project: str, text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16, key=project.encode()[:64]).digest()
