"""Kept answers are given again to who repeats a request under its Idempotency-Key: it is charged once, and does not run
twice.

They are of one gateway process, in its memory, and bounded: the oldest go first. Where an answer is not kept any more,
or was another process's, too large, or set a cookie, a repeat is refused.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from schemas.problems import Rejection

KEPT_SECONDS = 24 * 3600.0
KEPT_BYTES_MAX = 32 * 1024 * 1024
ANSWER_BYTES_MAX = 64 * 1024
# What an answer takes beside its body and headers, as a bound on answers without any.
_ANSWER_OVERHEAD = 512
Identity = tuple[str, str]


@dataclass(slots=True)
class Exchange:
    """An Exchange notes a request's body, as a digest, and its answer, as long as that is small enough to be kept."""

    scope: Scope
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    size: int = 0
    is_whole: bool = False
    _request: Any = field(default_factory=lambda: blake2b(digest_size=16))
    _is_request_whole: bool = False

    def note_request(self, message: Message) -> None:
        """Note a part of the request's body."""
        if message["type"] == "http.request":
            self._request.update(message.get("body", b""))
            self._is_request_whole = not message.get("more_body", False)

    def note_answer(self, message: Message) -> None:
        """Note a part of the answer. The parts of one that is too large are not noted."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
            self.size = sum(len(name) + len(value) for name, value in self.headers) + _ANSWER_OVERHEAD
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self.size += len(part)
            self.is_whole = not message.get("more_body", False)
            if self.size <= ANSWER_BYTES_MAX:
                self.body.append(part)
            else:
                self.body.clear()

    @property
    def asked(self) -> bytes | None:
        """The digest of the request's body; None where the service did not read all of it."""
        headers = Headers(scope=self.scope)
        is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        return self._request.digest() if self._is_request_whole or is_empty else None


@dataclass(frozen=True, slots=True)
class ReplayedAnswer:
    """A ReplayedAnswer is the answer to a request whose body has the digest `asked`."""

    asked: bytes
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    size: int
    kept_at: float


class ReplayedAnswers:
    """ReplayedAnswers are found by a request's project and event id, for `KEPT_SECONDS`."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Identity, ReplayedAnswer] = OrderedDict()
        self._size = 0

    def keep(self, identity: Identity, exchange: Exchange) -> None:
        """Keep the answer of an exchange, if it can be given again."""
        is_small = exchange.is_whole and exchange.size <= ANSWER_BYTES_MAX
        has_cookie = any(name.lower() == b"set-cookie" for name, _ in exchange.headers)
        if not is_small or has_cookie or exchange.asked is None:
            return
        self._forget(identity)
        body = b"".join(exchange.body)
        kept = ReplayedAnswer(exchange.asked, exchange.status, exchange.headers, body, exchange.size, time.monotonic())
        self._answers[identity] = kept
        self._size += kept.size
        while self._size > KEPT_BYTES_MAX or self._is_old(next(iter(self._answers.values()))):
            self._forget(next(iter(self._answers)))

    async def answer_to(self, identity: Identity, scope: Scope, receive: Receive) -> ReplayedAnswer | None:
        """The answer that is kept for a request, whose body is read here; None where there is none. Raises Rejection
        `idempotency_key_reused` where the first request had another body."""
        kept = self._answers.get(identity)
        if kept is None or self._is_old(kept):
            return None
        repeat = Exchange(scope)
        while repeat.asked is None:
            message = await receive()
            if message["type"] != "http.request":
                return None
            repeat.note_request(message)
        if repeat.asked != kept.asked:
            raise Rejection("idempotency_key_reused", "Another request was sent under this Idempotency-Key before")
        return kept

    def _forget(self, identity: Identity) -> None:
        kept = self._answers.pop(identity, None)
        self._size -= kept.size if kept is not None else 0

    @staticmethod
    def _is_old(kept: ReplayedAnswer) -> bool:
        return time.monotonic() - kept.kept_at > KEPT_SECONDS
