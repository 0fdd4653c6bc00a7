"""Exchanges of HTTP/1.1 on one connection: a post, and what is wanted of its answer. h11 says what bytes mean.

httpcore, by which posts go through a proxy, has locks, traces and generators around h11 that cost more than it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import h11
import httpcore

_READ_BYTES: Final = 65_536
# An answer's head is no longer.
_HEAD_BYTES_MAX: Final = 100 * 1024


class HttpConnection:
    """An HttpConnection posts, one request after the other, and ends where what follows could not be told apart."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)

    @property
    def is_free(self) -> bool:
        """Whether another request may follow: the last answer was read to its end, and nothing has come since, neither
        bytes nor the end."""
        is_over = self._http.our_state is h11.IDLE and not self._http.trailing_data[0]
        return is_over and not self._stream.get_extra_info("is_readable")

    async def post(
        self, target: bytes, headers: Sequence[tuple[str, str]], body: bytes, answer_bytes_max: int
    ) -> tuple[h11.Response, bytes]:
        """Post a body; gives the answer's head, and the first bytes of its body. Raises httpcore's NetworkError and
        RemoteProtocolError."""
        try:
            request = h11.Request(method="POST", target=target, headers=list(headers))
            return await self._exchange(request, body, answer_bytes_max)
        except h11.ProtocolError as error:
            raise httpcore.RemoteProtocolError(str(error)) from error

    async def close(self) -> None:
        """End the connection at once."""
        await self._stream.aclose()

    async def _exchange(self, request: h11.Request, body: bytes, answer_bytes_max: int) -> tuple[h11.Response, bytes]:
        http, stream = self._http, self._stream
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            await stream.write(http.send(part) or b"")
        head: h11.Response | None = None
        answer = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                come = await stream.read(_READ_BYTES)
                if not come and head is None:
                    raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
                http.receive_data(come)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) >= answer_bytes_max:
                    break
            elif isinstance(event, h11.EndOfMessage):
                if http.our_state is http.their_state is h11.DONE:
                    http.start_next_cycle()
                break
        assert head is not None
        return head, answer[:answer_bytes_max]
