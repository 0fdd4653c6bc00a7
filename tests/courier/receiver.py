"""A receiver of webhooks on a port of its own: it answers as a path is told to, and notes what came and when."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field

HANGS_UP = 0


@dataclass(frozen=True)
class Receipt:
    """A request that came: `at` is when its body was there, Unix seconds."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def notice_id(self) -> str:
        """The id of the notice."""
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A receiver answers a path by its `plans`, one status after the other, and then with 200; after its `seconds`.
    With a status of HANGS_UP it ends the connection instead."""

    plans: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self, port: int = 0) -> None:
        """Listen from now on."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.close()
        await self._server.wait_closed()

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[Receipt]:
        """The requests that came at a path."""
        return [each for each in self.receipts if each.path == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.receipts.append(Receipt(path, headers, body, time.time()))
                plan = self.plans[path]
                status = plan.pop(0) if plan else self.always.get(path, 200)
                if path in self.seconds:
                    await asyncio.sleep(self.seconds[path])
                if status == HANGS_UP:
                    break
                answer = b"taken" if status < 300 else b"not taken"
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(answer), answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
