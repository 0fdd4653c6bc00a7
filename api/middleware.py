"""Layers around every request: they give it an id, hold it to its limits, bound its body, and answer where we fail.

They are plain ASGI, so that a streamed answer stays a stream.
"""

from __future__ import annotations

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers.addresses import AddressLimits, client_address
from api.callers.calls import Call, begin_call, count, find_full, known_rate, operation_of, refuse_at_edge
from api.callers.keys import hash_key
from api.dependencies import caller_with
from api.errors import problem_of_failure, problem_of_rejection
from schemas.accounts import Limits
from schemas.problems import Rejection
from streams.http_answers import problem_response, rate_headers, request_id_for, response_of, retry_after_seconds
from streams.kafka.clock import now_ms
from streams.settings import Settings

ADMISSIONS = "/v1/admissions"
# Each request of a batch is refused by itself.
BATCH = "/v1/admissions/batch"


class RequestIds:
    """RequestIds takes a request's well-formed x-request-id, or makes one, and puts it on the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_for(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class RequestLimits:
    """Limits finds out who calls, holds calls without a valid key to the window of their address, and puts the limit
    headers on every answer to a project's key, or to no key.

    A call of a project whose window is full for certain is refused here, before its body is read.

    A call that its route has not counted in its project's window is counted when it is answered: one to an unknown
    path, one whose body can't be read, an admission that was never decided. Where that window is full, the answer
    becomes a 429.
    """

    # Probes come often and from one address, and may come with a key: they are never limited.
    UNCAPPED_PATHS = frozenset({"/healthz", "/readyz"})

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._trusted = settings.trusted_proxies
        self._addresses = AddressLimits(
            Limits(settings.public_requests_per_minute, settings.public_burst, cost_ceiling=0)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = begin_call(scope)
        is_replaced = False

        async def send_limited(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start":
                try:
                    await self._count(scope, call)
                except Rejection as rejection:
                    is_replaced = True
                    await refuse(rejection)
            if not is_replaced:
                await send_with_headers(message)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and call.rate is not None:
                MutableHeaders(scope=message).update(rate_headers(call.rate, message["status"]))
            await send(message)

        async def refuse(rejection: Rejection) -> None:
            response = response_of(problem_of_rejection(_request_id(scope), rejection))
            await response(scope, receive, send_with_headers)

        limited = self._find_caller(scope, call) or self._refused_at_edge(scope, call)
        if limited is not None:
            await refuse(limited)
        else:
            await self.app(scope, receive, send_limited)

    def _find_caller(self, scope: Scope, call: Call) -> Rejection | None:
        """Look the key up, or count the call in its address' window. Returns a Rejection where that window is full."""
        headers = Headers(scope=scope)
        scheme, key = get_authorization_scheme_param(headers.get("authorization"))
        key = key if scheme.lower() == "bearer" else ""
        key_hash = hash_key(key)
        peer = scope["client"][0] if scope.get("client") else ""
        address = client_address(peer, headers.getlist("x-forwarded-for"), self._trusted)
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

    def _refused_at_edge(self, scope: Scope, call: Call) -> Rejection | None:
        path = scope["path"]
        if call.full is None or path in self.UNCAPPED_PATHS or path == BATCH:
            return None
        try:
            # Other calls under an Idempotency-Key are counted before their key is looked at.
            key = Headers(scope=scope).get("idempotency-key", "") if path == ADMISSIONS else ""
            refuse_at_edge(scope["app"].state.services, call, operation_of(scope), key)
        except Rejection as rejection:
            return rejection
        return None

    def _count_address(self, scope: Scope, call: Call, address: str) -> Rejection | None:
        if scope["path"] in self.UNCAPPED_PATHS:
            return None
        call.rate = self._addresses.count(address, now_ms(), scope["app"].state.busyness.is_busy)
        if not call.rate.retry_at_ms:
            return None
        seconds = retry_after_seconds(call.rate)
        return Rejection("rate_limited", f"Rate limit exceeded for address {address}. Retry after {seconds} seconds")

    async def _count(self, scope: Scope, call: Call) -> None:
        if call.project is None:
            return
        services = scope["app"].state.services
        if scope["path"] not in self.UNCAPPED_PATHS:
            await count(services, call, operation_of(scope))
        if call.rate is None:
            call.rate = known_rate(services, call.project)


class Failures:
    """Failures answers 500 where an error is raised that nobody foresaw, so that this answer has its headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except ClientDisconnect:
            return  # there is nobody to answer
        except Exception as error:
            if is_answered:
                raise
            await response_of(problem_of_failure(_request_id(scope), error))(scope, receive, send)


class BodyLimit:
    """BodyLimit refuses a body larger than `bytes_max`, whether its length is announced or it just keeps coming."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self.app = app
        self.bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > self.bytes_max:
            await self._refuse(scope, receive, send)
            return
        received = 0
        answered = False

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.bytes_max:
                raise _BodyTooLarge
            return message

        async def send_noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, receive_counted, send_noted)
        except _BodyTooLarge:
            if answered:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(_request_id(scope), "body_too_large", f"At most {self.bytes_max} bytes are taken")
        await response(scope, receive, send)


class _BodyTooLarge(BaseException):
    """Raised where a body is too large. It is no Exception, so no handler on the way can take it for its own error."""


def _request_id(scope: Scope) -> str:
    return str(scope.get("meterline.request_id", ""))
