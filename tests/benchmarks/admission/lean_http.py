"""A lean HTTP/1.1 client over one kept connection, with only what a benchmark needs: the server is what is timed."""

from __future__ import annotations

import asyncio
from typing import cast

_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "


class LeanConnection(asyncio.Protocol):
    """A connection that carries one request at a time. The server must send a content-length, as ours does."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answered: asyncio.Future[int] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> LeanConnection:
        """Connect to a server."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def ask(self, request: bytes) -> int:
        """Send a request, and return its status once the whole answer is there. Raises ConnectionError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("The server has closed the connection")
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(_END)
        if head_end < 0 or self._answered is None:
            return
        head = self._buffer[: head_end + 2].lower()
        at = head.index(_LENGTH) + len(_LENGTH)
        if len(self._buffer) >= head_end + len(_END) + int(head[at : head.index(b"\r\n", at)]):
            self._answered.set_result(int(head[9:12]))
            self._answered, self._buffer = None, b""

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionError("The server has closed the connection"))
