"""A receiver of webhooks in a process of its own: `python -m tests.benchmarks.courier.receiver PORT`.

A path's first word says how it answers: `slow` after 15 seconds, `failing` with 500 always, `once` with 500 the first
time a notice comes, all others with 200 at once. `GET /log` gives what came since the last one, and forgets it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

import uvloop

SLOW_SECONDS = 15.0
# Of each request: its path, the notice's id, when it came and when its notice was stated, Unix ms, and the status.
Receipt = tuple[str, str, float, float, int]


class _Protocol(asyncio.Protocol):
    receipts: list[Receipt] = []
    seen: set[str] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, mark, rest = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            size = int(headers.get("content-length", "0"))
            if len(rest) < size:
                return
            body, self._buffer = rest[:size], rest[size:]
            self._take(first.split(" ")[1], headers, body)

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        if path == "/log":
            receipts, _Protocol.receipts = _Protocol.receipts, []
            self._answer(200, json.dumps(receipts).encode())
            return
        kind, notice_id = path.split("/")[1], headers["webhook-id"]
        status = 500 if kind == "failing" or (kind == "once" and notice_id not in self.seen) else 200
        self.seen.add(notice_id)
        stated = datetime.fromisoformat(json.loads(body)["timestamp"]).timestamp() * 1000
        self.receipts.append((path, notice_id, time.time() * 1000, stated, status))
        if kind == "slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._answer, status, b"")
        else:
            self._answer(status, b"")

    def _answer(self, status: int, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Protocol, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
