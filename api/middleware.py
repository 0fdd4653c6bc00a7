"""The layer around every request: an id, its limits, a bound for its body, and an answer where we fail.

It is plain ASGI, so that a streamed answer stays a stream.
"""

from __future__ import annotations

from typing import Any

from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers.addresses import AddressLimits, client_address
from api.callers.calls import (
    Call,
    begin_call,
    count,
    find_full,
    is_inner,
    keep_answer,
    known_rate,
    operation_of,
    refuse_at_edge,
)
from api.callers.keys import hash_key
from api.dashboard.sessions import Session, find_session
from api.dashboard.static_files import PREFIX as STATIC
from api.dashboard.view import DASHBOARD, answer_with_problem, is_below
from api.dependencies import caller_with
from api.errors import problem_of_failure, problem_of_rejection
from schemas.accounts import Limits
from schemas.problems import Rejection
from streams.http_answers import (
    check_headers,
    problem_of,
    request_id_for,
)
from streams.kafka.clock import now_ms
from streams.limit_headers import rate_headers, retry_after_seconds
from streams.settings import Settings

# How long a request waits depends on what it costs, and each of a batch is refused by itself.
JUDGED_BY_BODY = frozenset({"/v1/admissions", "/v1/admissions/batch"})


# Requests of one session.
SESSION_LIMITS = Limits(600, 1200, cost_ceiling=0)


class Front:
    """Front is the layer around every request, and the only one that all of them pass. In order:

    1. It takes the request's well-formed x-request-id, or makes one, and puts it on the answer.
    2. It finds out who calls, holds calls without a valid key to the window of their address, and puts the limit
       headers on every answer to a project's key, or to no key. A call of a project whose window is full for certain is
       refused here, before its body is read, unless it is an admission, whose route refuses it.
    3. It refuses a body larger than `request_body_bytes_max`, whether its length is announced or it just keeps coming.
    4. It counts, when it is answered, a call that its route has not counted in its project's window: one to an unknown
       path, one whose body can't be read, an admission that was never decided. Where that window is full, the answer
       becomes a 429.
    5. It answers 500 where an error is raised that nobody foresaw, so that this answer has its headers too.

    It is one layer, since each costs a request two functions for every message.
    """

    # Probes come often and from one address, and may come with a key: they are never limited. Nor are the files of
    # pages: to refuse one costs as much as to give it, and a page without its files is none.
    UNCAPPED_PATHS = frozenset({"/healthz", "/readyz"})

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._trusted = settings.trusted_proxies
        self._body_bytes_max = settings.request_body_bytes_max
        self._addresses = AddressLimits(
            Limits(settings.public_requests_per_minute, settings.public_burst, cost_ceiling=0)
        )
        self._sessions = AddressLimits(SESSION_LIMITS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or is_inner(scope):
            await self.app(scope, receive, send)
            return
        request_id, headers, call = request_id_for(scope), _first_of_each(scope), begin_call(scope)
        answer = _Answer(self, scope, receive, send, call, request_id)
        limited = self._find_caller(scope, call, headers) or self._refused_at_edge(scope, call)
        if limited is not None:
            await answer.refuse(limited)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._body_bytes_max:
            await self._refuse_body(answer)
            return
        try:
            await self.app(scope, _Body(receive, self._body_bytes_max).receive, answer.send)
        except ClientDisconnect:
            return  # there is nobody to answer
        except _BodyTooLarge:
            if answer.is_begun:
                raise
            await self._refuse_body(answer)
        except Exception as error:
            if answer.is_begun:
                raise
            await answer.tell(problem_of_failure(request_id, error), answer.send)

    async def _refuse_body(self, answer: _Answer) -> None:
        detail = f"At most {self._body_bytes_max} bytes are taken"
        await answer.tell(problem_of(answer.request_id, "body_too_large", detail), answer.send)

    def _find_caller(self, scope: Scope, call: Call, headers: dict[bytes, bytes]) -> Rejection | None:
        """Look the key up, or count the call in its address' window. Returns a Rejection where that window is full."""
        scheme, key = get_authorization_scheme_param(headers.get(b"authorization", b"").decode("latin-1"))
        key = key if scheme.lower() == "bearer" else ""
        key_hash = hash_key(key)
        peer = scope["client"][0] if scope.get("client") else ""
        forwarded_for = _all_of(scope, b"x-forwarded-for") if b"x-forwarded-for" in headers else ()
        address = call.address = client_address(peer, forwarded_for, self._trusted)
        try:
            check_headers(scope, (b"authorization",))
        except Rejection as rejection:
            # Which of several is meant can't be told, so it is nobody's call.
            key, call.refusal = "", rejection
        if not key and is_below(DASHBOARD, scope["path"]):
            session = find_session(scope, scope["app"].state.sessions, headers)
            if session is not None:
                return self._count_session(call, session)
        is_suspect = not key or self._addresses.was_refused(address, key_hash)
        if is_suspect and (limited := self._count_address(scope, call, address)) is not None:
            return limited
        if key:
            try:
                services = scope["app"].state.services
                call.caller, account = caller_with(services, key)
                call.rate = None
                find_full(services, call, account)
                return None
            except Rejection as rejection:
                call.refusal = rejection
                if rejection.code == "not_ready":
                    return None
        if not is_suspect:
            limited = self._count_address(scope, call, address)
            self._addresses.refuse(address, key_hash)
            return limited
        return None

    def _count_session(self, call: Call, session: Session) -> Rejection | None:
        """Count a request for a page. A page asks for several things, and none of them is a request of its project."""
        rate = self._sessions.count(session.id, now_ms(), False)
        if not rate.retry_at_ms:
            return None
        call.rate = rate
        seconds = retry_after_seconds(rate)
        return Rejection("rate_limited", f"This session asks for too many pages. Retry after {seconds} seconds")

    def _refused_at_edge(self, scope: Scope, call: Call) -> Rejection | None:
        path = scope["path"]
        if call.full is None or path in self.UNCAPPED_PATHS or path in JUDGED_BY_BODY:
            return None
        try:
            refuse_at_edge(scope["app"].state.services, call, operation_of(scope))
        except Rejection as rejection:
            return rejection
        return None

    def _count_address(self, scope: Scope, call: Call, address: str) -> Rejection | None:
        if scope["path"] in self.UNCAPPED_PATHS or is_below(STATIC, scope["path"]):
            return None
        call.rate = self._addresses.count(address, now_ms(), scope["app"].state.busyness.is_busy)
        if not call.rate.retry_at_ms:
            return None
        seconds = retry_after_seconds(call.rate)
        return Rejection("rate_limited", f"Rate limit exceeded for address {address}. Retry after {seconds} seconds")

    async def count(self, scope: Scope, call: Call) -> None:
        """Count a call that its route has not counted, and find the state of its window, for the headers of its answer.
        Raises Rejection where the window is full."""
        if call.project is None:
            return
        services = scope["app"].state.services
        if scope["path"] not in self.UNCAPPED_PATHS:
            await count(services, call, operation_of(scope))
        if call.rate is None:
            call.rate = known_rate(services, call.project)

    def keep(self, scope: Scope, call: Call, status: int, body: bytes) -> None:
        """Keep an answer that refused a request, or told of a decision, for whoever asks by the request's id."""
        if (status < 400 and not call.entry_ids) or scope["path"] in self.UNCAPPED_PATHS:
            return
        # Before the services have started there is nobody to keep it.
        if (services := getattr(scope["app"].state, "services", None)) is not None:
            keep_answer(services.answers, scope, call, status, body)


class _Answer:
    """The answer to a request on its way out. It may be replaced by a 429 as it begins."""

    def __init__(self, front: Front, scope: Scope, receive: Receive, send: Send, call: Call, request_id: str) -> None:
        self.scope = scope
        self.receive = receive
        self.request_id = request_id
        self.is_begun = False
        self._front = front
        self._send = send
        self._call = call
        self._is_replaced = False
        self._status = 0
        self._body = b""

    async def send(self, message: Message) -> None:
        """Send a message of the answer, once the call is counted."""
        self.is_begun = True
        if message["type"] == "http.response.start":
            try:
                await self._front.count(self.scope, self._call)
            except Rejection as rejection:
                self._is_replaced = True
                await self.refuse(rejection)
        if not self._is_replaced:
            await self._send_with_headers(message)

    async def refuse(self, rejection: Rejection) -> None:
        """Answer with a rejection, without a count."""
        await self.tell(problem_of_rejection(self.request_id, rejection), self._send_with_headers)

    async def tell(self, problem: dict[str, Any], send: Send) -> None:
        """Answer with a problem; by a page, where one was asked for."""
        response = answer_with_problem(Request(self.scope), problem)
        await response(self.scope, self.receive, send)

    async def _send_with_headers(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", ()))
            if (rate := self._call.rate) is not None:
                limits = rate_headers(rate, message["status"])
                headers += [(name.lower().encode(), value.encode()) for name, value in limits.items()]
            headers.append((b"x-request-id", self.request_id.encode()))
            message["headers"] = headers
        elif self._status >= 400 and not self._body:
            self._body = message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._front.keep(self.scope, self._call, self._status, self._body)
        await self._send(message)


class _Body:
    """The body of a request, of so many bytes at most."""

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self._received = 0

    async def receive(self) -> Message:
        """Receive a message. Raises _BodyTooLarge."""
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._bytes_max:
            raise _BodyTooLarge
        return message


class _BodyTooLarge(BaseException):
    """Raised where a body is too large. It is no Exception, so no handler on the way can take it for its own error."""


def _first_of_each(scope: Scope) -> dict[bytes, bytes]:
    """The first header of each name."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value)
    return headers


def _all_of(scope: Scope, name: bytes) -> list[str]:
    """The values of all headers of a name."""
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]
