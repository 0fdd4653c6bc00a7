"""Kept replies: a command sent again gets the reply of the first time, if its key and its content are the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

import msgspec

from schemas.commands import Admit, AnyCommand, CountRefused, CountRequest, TopUp
from schemas.problems import Rejection
from schemas.replies import KeptReply, Reply
from streams.core.acceptance import dedup_hash

KEY_CHARS_MAX = 255
_encode = msgspec.msgpack.Encoder().encode
# Each name is asked for some four times while its record is decided.
_name = lru_cache(maxsize=8192)(dedup_hash)


@dataclass(slots=True)
class Kept:
    """Kept replies, by the hash of the name that their command has: its caller's key (`by_key`), or, where it came
    without one, the request itself (`by_request`).

    A request that the window stopped is under its own name too: another one may come under the same key. So is a repeat
    under a key, with the limits as they were when it came: it is a request of its own.
    """

    by_key: dict[bytes, KeptReply] = field(default_factory=dict)
    by_request: dict[bytes, KeptReply] = field(default_factory=dict)

    def update(self, other: Kept) -> None:
        """Add the replies of another one; those go before the ones that are here under the same name."""
        self.by_key.update(other.by_key)
        self.by_request.update(other.by_request)


def check_key(key: str, field: str = "Idempotency-Key") -> None:
    """Check an idempotency key that a caller gave. Raises Rejection `invalid_request` where it is blank, too long, or
    has control characters: one that is not what its sender meant would make a second act of a repeat."""
    wrong = ""
    if not key.strip():
        wrong = "is blank; send one of your own, or leave it out"
    elif len(key) > KEY_CHARS_MAX:
        wrong = f"has {len(key)} characters; send {KEY_CHARS_MAX} at most"
    elif any(each < " " or each == "\x7f" for each in key):
        wrong = "has control characters; send one of printable characters"
    if wrong:
        raise Rejection("invalid_request", f"`{field}` {wrong}", field)


def fingerprint(command: AnyCommand) -> bytes:
    """16 bytes over what a command asks, whoever waits for the reply and whenever it was sent."""
    neutral = msgspec.structs.replace(command, correlation="", reply_instance="", reply_partition=0, actor="")
    if isinstance(neutral, Admit):
        neutral = msgspec.structs.replace(neutral, usage=msgspec.structs.replace(neutral.usage, occurred_at_ms=0))
    asked = _encode(neutral)
    if isinstance(neutral, TopUp) and neutral.bundle_usd:
        # Without the two fields that came later: a repeat of what an older version was asked is known by it.
        asked = _encode(["top_up", *msgspec.structs.astuple(neutral)[:-2]])
    return blake2b(asked, digest_size=16).digest()


def decides(reply: Reply) -> bool:
    """Whether a reply settles what was asked. A request that the window stopped may be sent again under its key."""
    return reply.code != "rate_limited"


def key_hash(command: AnyCommand) -> bytes:
    """16 bytes for a command's idempotency key: its name among the dedup hashes, and among the replies `by_key`."""
    return _name(command.project, "meterline:idempotency-key", command.idempotency_key)


def request_hash(command: AnyCommand) -> bytes:
    """16 bytes for the request that a command is, its name among the replies `by_request`."""
    return _name(command.project, "meterline:request", command.correlation)


def is_reply_kept(command: AnyCommand) -> bool:
    """Whether the reply to this command is kept for a repeat. A counted request's is not worth the room: asking again
    is another request."""
    return not isinstance(command, CountRequest | CountRefused)
