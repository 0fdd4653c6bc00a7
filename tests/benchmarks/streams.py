"""Open streams: so many readers of live ledgers, each of a project of its own. This module, run, is the child process
that they are in.

A reader asks GET /v1/ledger/stream with its project's key and counts what it is told, without looking at it: the server
is what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Self, cast

import msgspec
import uvloop

from streams.embedded import lifeline
from streams.errors import OperatorError
from streams.settings import Settings
from tests.benchmarks.admission.callers import key_of
from tests.benchmarks.rivals.rival import BenchChild, write_note
from tests.benchmarks.workload import Workload

_OPENED, _TOLD = "opened", "told"
_OPEN_SECONDS_MAX = 60.0
_AT_ONCE = 50
_TELL_SECONDS = 0.25
_MESSAGE = b"\ndata:"


class StreamCounts(msgspec.Struct):
    """The counts of all readers so far: how many are open, how many were ended, and the messages that they got."""

    open: int = 0
    ended: int = 0
    messages: int = 0


class OpenStreams:
    """Streams of the first `count` projects of a workload are open while the block runs. Raises OperatorError where one
    is refused, or, at its end, was ended."""

    def __init__(self, settings: Settings, address: str, count: int, projects: int) -> None:
        arguments = (address, str(count), str(projects))
        self._child = BenchChild(__name__, settings.kafka_url or "", settings.topic_prefix, *arguments)

    def __enter__(self) -> Self:
        self._child.__enter__()
        try:
            self._child.result(_OPENED, _OPEN_SECONDS_MAX)
        except BaseException:
            self._child.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and (ended := self.counts().ended):
                raise OperatorError(f"{ended} open streams were ended by the server")
        finally:
            self._child.__exit__()

    def counts(self) -> StreamCounts:
        """The counts so far, at most a quarter of a second old."""
        return msgspec.json.decode(self._child.note(_TOLD) or b"{}", type=StreamCounts)


class _Reader(asyncio.Protocol):
    """A reader of one stream. Its `opened` is done once the server has begun to answer well."""

    def __init__(self, request: bytes, counts: StreamCounts) -> None:
        self._request, self._counts = request, counts
        self._tail = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the messages; a mark may come in two pieces."""
        if not self.opened.done():
            line = data.split(b"\r\n", 1)[0]
            if not line.startswith(b"HTTP/1.1 200 "):
                self.opened.set_exception(OperatorError(f"A stream was refused: {data[:600].decode(errors='replace')}"))
                return
            self._counts.open += 1
            self.opened.set_result(None)
        data = self._tail + data
        self._counts.messages += data.count(_MESSAGE)
        self._tail = data[1 - len(_MESSAGE) :]

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the stream has ended."""
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("The server has closed the connection"))
        else:
            self._counts.ended += 1


async def _read(directory: Path, address: str, count: int, projects: int) -> None:
    counts, loop = StreamCounts(), asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    turns = asyncio.Semaphore(_AT_ONCE)

    async def begin(project: str) -> None:
        request = (
            f"GET /v1/ledger/stream HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key_of(project)}\r\n"
            "accept: text/event-stream\r\n\r\n"
        )
        async with turns:
            _, reader = await loop.create_connection(lambda: _Reader(request.encode(), counts), host, int(port))
            await reader.opened

    async with asyncio.TaskGroup() as tasks:
        for project in Workload(0, projects).project_ids()[:count]:
            tasks.create_task(begin(project))
    write_note(directory, _OPENED, "")
    while True:
        write_note(directory, _TOLD, msgspec.json.encode(counts).decode())
        await asyncio.sleep(_TELL_SECONDS)


if __name__ == "__main__":
    lifeline.watch()
    uvloop.run(_read(Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6])))
