"""Open streams: so many readers of live ledgers, each of a project of its own. This module, run, is the child process
that they are in.

A reader asks GET /v1/ledger/stream with its project's key, counts what it is told, and notes how long after its
decision each entry came, by the time of its fact, which is the broker's.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from datetime import datetime
from functools import partial
from itertools import accumulate
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
_BOOKED_AT = re.compile(rb'"booked_at":"([^"]+)Z"')
_GAP = b"event: gap"
# Waits are counted by the millisecond; longer ones are taken for so long.
_WAIT_MS_MAX = 60_000


class StreamCounts(msgspec.Struct):
    """The counts of all readers so far: how many were opened, and ended; the entries and the gaps that they were told,
    and within how many milliseconds half of the entries came, and 95%."""

    open: int = 0
    ended: int = 0
    entries: int = 0
    gaps: int = 0
    p50_ms: int = 0
    p95_ms: int = 0


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


class _StreamReader(asyncio.Protocol):
    """A reader of one stream. Its `opened` is done once the server has begun to answer well."""

    def __init__(self, request: bytes, counts: StreamCounts, waits: array[int]) -> None:
        self._request, self._counts, self._waits = request, counts, waits
        self._rest = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count what has come whole."""
        if not self.opened.done():
            line = data.split(b"\r\n", 1)[0]
            if not line.startswith(b"HTTP/1.1 200 "):
                self.opened.set_exception(OperatorError(f"A stream was refused: {data[:600].decode(errors='replace')}"))
                return
            self._counts.open += 1
            self.opened.set_result(None)
        now_ms = 1000 * time.time()
        whole, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        self._counts.gaps += whole.count(_GAP)
        for found in _BOOKED_AT.finditer(whole):
            booked_ms = 1000 * datetime.fromisoformat(f"{found[1].decode()}+00:00").timestamp()
            self._waits[min(_WAIT_MS_MAX, max(0, int(now_ms - booked_ms)))] += 1
            self._counts.entries += 1

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the stream has ended."""
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("The server has closed the connection"))
        else:
            self._counts.ended += 1


async def _read(directory: Path, address: str, count: int, projects: int) -> None:
    counts, loop = StreamCounts(), asyncio.get_running_loop()
    waits = array("q", bytes(8 * (_WAIT_MS_MAX + 1)))
    host, _, port = address.rpartition(":")
    turns = asyncio.Semaphore(_AT_ONCE)

    async def begin(project: str) -> None:
        request = (
            f"GET /v1/ledger/stream HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key_of(project)}\r\n"
            "accept: text/event-stream\r\n\r\n"
        )
        made = partial(_StreamReader, request.encode(), counts, waits)
        async with turns:
            _, reader = await loop.create_connection(made, host, int(port))
            await reader.opened

    async with asyncio.TaskGroup() as tasks:
        for project in Workload(0, projects).project_ids()[:count]:
            tasks.create_task(begin(project))
    write_note(directory, _OPENED, "")
    while True:
        counts.p50_ms, counts.p95_ms = (_within(waits, share * counts.entries) for share in (0.5, 0.95))
        write_note(directory, _TOLD, msgspec.json.encode(counts).decode())
        await asyncio.sleep(_TELL_SECONDS)


def _within(waits: array[int], count: float) -> int:
    """The milliseconds within which so many of the entries came."""
    return next((ms for ms, reached in enumerate(accumulate(waits)) if reached >= count), _WAIT_MS_MAX)


if __name__ == "__main__":
    lifeline.watch()
    uvloop.run(_read(Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6])))
