"""The network of posts: asyncio's own sockets and TLS, for httpcore.

httpcore's own network costs as much as all else of a post, and can't tell that the other side of a kept TLS connection
has hung up: here the end is noticed when it comes.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

# Of an answer so much is read ahead.
_BUFFER_BYTES_MAX = 65_536


class TcpNetwork(httpcore.AsyncNetworkBackend):
    """A TcpNetwork connects to addresses by TCP."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect. Raises httpcore's ConnectError and ConnectTimeout."""
        try:
            async with asyncio.timeout(timeout):
                transport, wire = await asyncio.get_running_loop().create_connection(_Wire, host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(transport, wire)


class _Wire(asyncio.Protocol):
    """A wire has what has come on a connection, and whether that has ended. Nothing is held back on the way out: a
    request is small, and the next one waits for its answer."""

    def __init__(self) -> None:
        self.come = bytearray()
        self.is_over = False
        self.error: Exception | None = None
        self._transport: Any = None
        self._is_paused = False
        self._waiting: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.come += data
        if len(self.come) >= _BUFFER_BYTES_MAX and self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.is_over = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over, self.error = True, exc
        self._wake()

    async def read(self, bytes_max: int) -> bytes:
        """Read what has come since the last time; b"" at the end. Raises httpcore.ReadError."""
        if not self.come and not self.is_over:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        some = bytes(self.come[:bytes_max])
        del self.come[:bytes_max]
        if self._is_paused and not self.is_over:
            self._is_paused = False
            self._transport.resume_reading()
        if not some and self.error is not None:
            raise httpcore.ReadError(str(self.error)) from self.error
        return some

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Stream(httpcore.AsyncNetworkStream):
    """A stream writes once it is read from: the head and the body of a request go together."""

    def __init__(self, transport: asyncio.Transport, wire: _Wire) -> None:
        self._transport = transport
        self._wire = wire
        self._unwritten: list[bytes] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unwritten:
            self._transport.write(b"".join(self._unwritten))
            self._unwritten.clear()
        try:
            async with asyncio.timeout(timeout):
                return await self._wire.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unwritten.append(buffer)

    async def aclose(self) -> None:
        self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        wire = _Wire()
        try:
            if self._wire.come:
                raise ssl.SSLError("the other side spoke first")
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    self._transport, wire, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            self._transport.abort()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            self._transport.abort()
            raise httpcore.ConnectError(str(error)) from error
        except BaseException:
            self._transport.abort()
            raise
        assert transport is not None
        wire.connection_made(transport)
        return _Stream(transport, wire)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            is_known = self._wire.is_over or bool(self._wire.come) or self._transport.is_closing()
            return is_known or _has_come(self._transport.get_extra_info("socket").fileno())
        return self._transport.get_extra_info(info)


def _has_come(descriptor: int) -> bool:
    """Whether there is something at a socket that the loop has not come to yet, if only the end."""
    looked_at = select.poll()
    looked_at.register(descriptor, select.POLLIN)
    return bool(looked_at.poll(0))
