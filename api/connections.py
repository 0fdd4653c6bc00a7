"""Connections to the HTTP service: how long a client may take for its part of a request, and how many of them there may
be, in all and from one address.

uvicorn bounds none of that: a client that sends a byte now and then, or reads one, would hold its connection for ever.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.callers.addresses import Network, client_address, is_trusted
from streams.http_answers import problem_of
from streams.kafka.codecs import encode_json
from streams.settings import Settings

log = logging.getLogger(__name__)

HEAD_BYTES_MAX = 64 * 1024
_SWEEP_SECONDS = 1.0
_TOLD_EVERY_SECONDS = 10.0


class Awaited(Enum):
    """The part of a request that a connection waits for; RESTING is none, between requests or while one is answered."""

    HEAD = auto()
    BODY = auto()
    RESTING = auto()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of connections: seconds for a head, for a body, and for a client to read what was written; how many
    there may be, in all and from one address. `trusted` are proxies, which count in all only."""

    head_seconds: float
    body_seconds: float
    write_seconds: float
    connections_max: int
    per_address_max: int
    trusted: Sequence[Network] = ()

    @classmethod
    def of(cls, settings: Settings, connections_max: int) -> ConnectionLimits:
        """The limits that settings name, with at most `connections_max`, which the system gives."""
        return cls(
            settings.request_head_seconds,
            settings.request_body_seconds,
            settings.answer_read_seconds,
            min(settings.connections_max, connections_max),
            settings.connections_per_address_max,
            settings.trusted_proxies,
        )


@dataclass(slots=True)
class Crowd:
    """The number of open connections by address, and who has to make room; "" is whoever is held to no share."""

    connections_max: int
    per_address_max: int
    count: int = 0
    by_address: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> None:
        """Count a new connection."""
        self.count += 1
        if address:
            self.by_address[address] += 1

    def leave(self, address: str) -> None:
        """Count a connection that has ended."""
        self.count -= 1
        if address:
            self.by_address[address] -= 1
            if not self.by_address[address]:
                del self.by_address[address]

    def full_for(self, address: str) -> str | None:
        """Why there is no room for one more connection of this address; None where there is."""
        if address and self.by_address[address] >= self.per_address_max:
            return f"At most {self.per_address_max} connections are taken from one address"
        if self.count >= self.connections_max:
            return f"At most {self.connections_max} connections are taken at once"
        return None

    def heaviest_beside(self, address: str) -> str | None:
        """The address that makes room for one more of `address` where all room is taken: the one with the most; None
        where `address` would have its fair share with what it has."""
        if not self.by_address or (address and self.by_address[address] >= self.count // len(self.by_address)):
            return None
        heaviest, most = max(self.by_address.items(), key=lambda each: each[1])
        return heaviest if most > self.by_address[address] + 1 else None


class Connections:
    """The open connections of this process. `run` ends those that take too long; `refused` and `ended` count, by
    reason, what became of the others."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.crowd = Crowd(limits.connections_max, limits.per_address_max)
        self.refused = 0
        self.ended: Counter[str] = Counter()
        # Told of each request that is refused here, beside the app: its scope as far as there is one, where it came
        # from, and the status and body of the answer.
        self.on_refused: Callable[[MutableMapping[str, Any], str, int, bytes], None] | None = None
        # Told when the server begins to stop: it waits for answers under way, and some would go on for ever.
        self.on_shutdown: Callable[[], None] = lambda: None
        self._open: dict[str, dict[GuardedProtocol, None]] = {}
        self._untold = 0
        self._told_at = -_TOLD_EVERY_SECONDS

    def protocol(self) -> Any:
        """The factory that uvicorn calls for the protocol of each new connection."""
        return partial(GuardedProtocol, self)

    async def run(self) -> None:
        """End connections that take too long, until cancelled."""
        limits = self.limits
        shortest = min(limits.head_seconds, limits.body_seconds, limits.write_seconds)
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, shortest / 4))
            now = time.monotonic()
            for each in [each for some in self._open.values() for each in some]:
                if reason := each.overdue(now, limits):
                    self.ended[reason] += 1

    def enter(self, protocol: GuardedProtocol, address: str) -> str | None:
        """Take a new connection, or say why not. Where there is no room at all, the oldest connection that waits for
        its client makes room, of the address that has the most of them."""
        why = self.crowd.full_for(address)
        if why is not None and self.crowd.count >= self.limits.connections_max:
            heaviest = self.crowd.heaviest_beside(address)
            waiting = self._waiting_of(heaviest) if heaviest is not None else None
            if waiting is not None:
                self.ended["made_room"] += 1
                self.leave(waiting)
                waiting.end()
                why = self.crowd.full_for(address)
        if why is not None:
            self._refuse()
            return why
        protocol.address = address
        self.crowd.enter(address)
        self._open.setdefault(address, {})[protocol] = None
        return None

    def leave(self, protocol: GuardedProtocol) -> None:
        """Forget a connection that has ended, if it was taken."""
        address = protocol.address
        if address is None:
            return
        protocol.address = None
        self.crowd.leave(address)
        some = self._open[address]
        del some[protocol]
        if not some:
            del self._open[address]

    def _waiting_of(self, address: str) -> GuardedProtocol | None:
        return next((each for each in self._open[address] if each.waits_for_client), None)

    def _refuse(self) -> None:
        self.refused += 1
        self._untold += 1
        now = time.monotonic()
        if now - self._told_at >= _TOLD_EVERY_SECONDS:
            log.warning("%d connections were refused; %d are open", self._untold, self.crowd.count)
            self._untold, self._told_at = 0, now


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which notes what it waits for, and since when. `address` is that of a connection that was
    taken."""

    def __init__(
        self, guard: Connections, config: Config, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.guard = guard
        self.address: str | None = None
        self.part = Awaited.HEAD
        self.since = time.monotonic()
        self.head_bytes = 0
        self._writing_since: float | None = None
        self._closing_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or answer that there is no room."""
        super().connection_made(transport)
        peer, trusted = self.client[0] if self.client else "", self.guard.limits.trusted
        address = "" if is_trusted(peer, trusted) else client_address(peer, [], trusted)
        if (why := self.guard.enter(self, address)) is not None:
            self._refuse("too_many_connections", why, {"retry-after": "1"})

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        self.guard.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note that a head has begun, and how long it is."""
        if self.part is Awaited.RESTING:
            self._wait_for(Awaited.HEAD)
        super().data_received(data)
        if self.part is Awaited.HEAD:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES_MAX:
                self._refuse("head_too_large", f"The head of a request has at most {HEAD_BYTES_MAX} bytes")

    def on_message_begin(self) -> None:
        """Note that a head has begun, perhaps right behind the request before it."""
        if self.part is not Awaited.HEAD:
            self._wait_for(Awaited.HEAD)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the body is to come."""
        self._wait_for(Awaited.BODY)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the request is there."""
        self._wait_for(Awaited.RESTING)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that the connection rests from now on, unless more is to come."""
        super().on_response_complete()
        if self.part is Awaited.RESTING:
            self.since = time.monotonic()

    def shutdown(self) -> None:
        """Let the answer under way be the last."""
        self.guard.on_shutdown()
        super().shutdown()

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as we write."""
        self._writing_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self._writing_since = None
        super().resume_writing()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing of ours is under way: no request is being answered that has come whole."""
        return self.part is not Awaited.RESTING or self._is_answered

    @property
    def _is_answered(self) -> bool:
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def end(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    def overdue(self, now: float, limits: ConnectionLimits) -> str:
        """End the connection if its client takes too long for something, and say for what; "" where it does not."""
        if self.transport.is_closing():
            if self._closing_since is None:
                self._closing_since = now
            elif now - self._closing_since > limits.write_seconds:
                self.transport.abort()
                return "read"
        elif self._writing_since is not None and now - self._writing_since > limits.write_seconds:
            self.transport.abort()
            return "read"
        elif self.part is Awaited.HEAD and now - self.since > limits.head_seconds:
            self._give_up(f"The head of the request did not come within {limits.head_seconds:g} seconds")
            return "head"
        elif self.part is Awaited.BODY and self.flow.read_paused:
            self.since = now  # we did not read
        elif self.part is Awaited.BODY and now - self.since > limits.body_seconds:
            self._give_up(f"The body of the request did not come within {limits.body_seconds:g} seconds")
            return "body"
        elif self.part is Awaited.RESTING and self._is_answered and now - self.since > self.timeout_keep_alive + 1:
            self.transport.close()
            return "rest"
        return ""

    def _wait_for(self, part: Awaited) -> None:
        self.part = part
        self.since = time.monotonic()
        self.head_bytes = 0

    def _give_up(self, detail: str) -> None:
        """Say that the client took too long, where it waits for an answer that has not begun."""
        is_in_head = self.part is Awaited.HEAD
        asks = self.head_bytes > 0 and self._is_answered if is_in_head else not self.cycle.response_started
        if asks:
            self._refuse("request_timeout", detail)
        else:
            self.transport.close()

    def _refuse(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        if self.transport.is_closing():
            return
        # The app has begun with a request whose body is to come, and it has an id.
        is_begun = self.part is Awaited.BODY and self.cycle is not None
        scope: MutableMapping[str, Any] = cast(Any, self.cycle.scope) if is_begun else {"method": "*"}
        request_id = scope.setdefault("meterline.request_id", f"req_{secrets.token_hex(8)}")
        problem = problem_of(request_id, code, detail)
        body = encode_json(problem)
        told: Iterable[tuple[str, str]] = (
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("x-request-id", request_id),
            ("connection", "close"),
            *(headers or {}).items(),
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in told)
        if self.guard.on_refused is not None:
            self.guard.on_refused(scope, self.client[0] if self.client else "", problem["status"], body)
        self.transport.write(STATUS_LINE[problem["status"]] + lines.encode() + b"\r\n" + body)
        self.transport.close()
