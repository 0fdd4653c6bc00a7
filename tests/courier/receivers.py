"""Receivers for tests: servers on the loopback address that record what they get, and answer as a test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache

import trustme

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request that a receiver got; the names of its headers are in lower case. `name` is what TLS was asked for."""

    line: str
    headers: dict[str, str]
    body: bytes
    name: str


@dataclass(slots=True)
class Receiver:
    """A receiver records requests, and gives its answers one after another, the last again and again. It ends a
    connection after one answer, unless it `keeps` connections; an answer of b"" always ends it."""

    port: int = 0
    answers: list[Answer] = field(default_factory=lambda: [OK])
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    keeps: bool = False
    names: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self.connections += 1
        try:
            # A test that is over ends its receivers' connections: streams would log that as an error.
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
                while await self._serve(reader, writer) and self.keeps:
                    pass
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
        finally:
            self.ended += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; gives whether another may follow."""
        first = await reader.readexactly(1)
        if first == b"\x16":
            # A server of plain HTTP does so with TLS.
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Received(line, headers, body, self.names[-1] if self.names else ""))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)
        return bool(answer)


@cache
def authority() -> trustme.CA:
    """The authority that issues the receivers' certificates."""
    return trustme.CA()


@cache
def trusting() -> ssl.SSLContext:
    """A context that trusts that authority alone."""
    return ssl.create_default_context(cadata=authority().cert_pem.bytes().decode())


@asynccontextmanager
async def receiver(*names: str, answer: Answer = OK) -> AsyncIterator[Receiver]:
    """A receiver with a certificate for these names; one without names speaks plain HTTP."""
    there = Receiver(answers=[answer])
    tls = None
    if names:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority().issue_cert(*names).configure_cert(tls)
        tls.sni_callback = lambda _socket, name, _context: there.names.append(name or "")
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0, ssl=tls)
    there.port = server.sockets[0].getsockname()[1]
    async with server:
        yield there
