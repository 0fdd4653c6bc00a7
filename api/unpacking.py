"""Unpacking: a body that came packed by gzip is unpacked piece by piece, and never to more bytes than are taken."""

from __future__ import annotations

import zlib

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dashboard.view import answer_with_problem
from api.errors import problem_of_rejection, request_id_of
from schemas.problems import Rejection

# RFC 9110, 12.5.3: an answer that refuses a coding says which are taken.
TAKEN = "gzip, identity"
_GZIP = 16 + zlib.MAX_WBITS


class Unpacking:
    """Unpacking undoes `Content-Encoding: gzip`, and refuses other codings. A body that unpacks to more than
    `bytes_max` is refused before it is unpacked any further."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self.app = app
        self.bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
        given = [coding.strip().lower() for line in lines for coding in line.split(",")]
        codings = [coding for coding in given if coding and coding != "identity"]
        if not codings:
            await self.app(scope, receive, send)
            return
        if codings not in (["gzip"], ["x-gzip"]):
            refused = Rejection(
                "unsupported_encoding", f"{', '.join(codings)[:80]} is not taken here", "content-encoding"
            )
            await self._refuse(refused, scope, receive, send)
            return
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        headers = [each for each in scope["headers"] if each[0] not in (b"content-encoding", b"content-length")]
        try:
            await self.app({**scope, "headers": headers}, _Unpacked(receive, self.bytes_max), send_noted)
        except _UnpackingError as error:
            if is_answered:
                raise
            await self._refuse(error.rejection, scope, receive, send)

    async def _refuse(self, rejection: Rejection, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        response = answer_with_problem(request, problem_of_rejection(request_id_of(request), rejection))
        if rejection.status == 415:
            response.headers["accept-encoding"] = TAKEN
        await response(scope, receive, send)


class _Unpacked:
    """The messages of a packed body, unpacked. A body may be of several members, one after the other."""

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive = receive
        self._left = bytes_max
        self._bytes_max = bytes_max
        self._member = zlib.decompressobj(_GZIP)

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        body = self._unpacked(message.get("body", b""))
        if not message.get("more_body", False) and not self._member.eof:
            raise _UnpackingError(Rejection("unreadable_body", "The packed body is not whole"))
        return {**message, "body": body}

    def _unpacked(self, packed: bytes) -> bytes:
        pieces = []
        while packed:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            try:
                piece = self._member.decompress(packed, self._left + 1)
            except zlib.error:
                raise _UnpackingError(Rejection("unreadable_body", "The body is not packed by gzip")) from None
            self._left -= len(piece)
            if self._left < 0:
                detail = f"The body unpacks to more than {self._bytes_max} bytes"
                raise _UnpackingError(Rejection("body_too_large", detail))
            pieces.append(piece)
            packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return b"".join(pieces)


class _UnpackingError(BaseException):
    """Raised where a body can't be unpacked. It is no Exception, so no handler on the way takes it for its own."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(str(rejection))
        self.rejection = rejection
