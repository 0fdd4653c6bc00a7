"""Readers of many live ledgers at once. This module, run, is the child process that they are in."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from streams.embedded import lifeline
from tests.benchmarks.admission.callers import key_of
from tests.benchmarks.rivals.rival import write_note
from tests.benchmarks.workload import Workload

OPENED, RESULT = "opened", "result"
_BOOKED_AT = re.compile(rb'"booked_at":"([^"]+)Z"')


class ReadPlan(msgspec.Struct, frozen=True):
    """A plan of reading: `streams` are opened at a server's `address`, of as many of `projects`, for `seconds`."""

    address: str
    projects: int
    streams: int
    seconds: float


class Told(msgspec.Struct, frozen=True):
    """What was told: how many entries, gaps and refusals, and how many milliseconds after its decision half of the
    entries, and 95 %, were there."""

    entries: int
    gaps: int
    refused: int
    p50_ms: float
    p95_ms: float


class _Reader(asyncio.Protocol):
    def __init__(self, request: bytes, waits_ms: array[float]) -> None:
        self._request, self._waits_ms = request, waits_ms
        self.is_open, self.is_refused, self.gaps = asyncio.get_running_loop().create_future(), False, 0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.is_open.done():
            self.is_refused = not data.startswith(b"HTTP/1.1 200")
            self.is_open.set_result(None)
        now = time.time()
        whole, found, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest
        self.gaps += whole.count(b"event: gap")
        for match in _BOOKED_AT.finditer(whole + found):
            booked_at = datetime.fromisoformat(match[1].decode() + "+00:00").timestamp()
            self._waits_ms.append(1000 * (now - booked_at))


async def _read(plan: ReadPlan, directory: Path) -> Told:
    host, _, port = plan.address.rpartition(":")
    waits_ms = array("d")
    readers = []
    for project in Workload(0, plan.projects).project_ids()[: plan.streams]:
        request = (
            f"GET /v1/ledger/stream HTTP/1.1\r\nhost: {plan.address}\r\nauthorization: Bearer {key_of(project)}\r\n\r\n"
        ).encode()
        _, reader = await asyncio.get_running_loop().create_connection(
            partial(_Reader, request, waits_ms), host, int(port)
        )
        await reader.is_open
        readers.append(reader)
    write_note(directory, OPENED, "")
    del waits_ms[:]
    await asyncio.sleep(plan.seconds)
    ordered = sorted(waits_ms)
    refused, gaps = sum(each.is_refused for each in readers), sum(each.gaps for each in readers)
    at = [round(ordered[len(ordered) * percent // 100], 1) if ordered else 0.0 for percent in (50, 95)]
    return Told(len(ordered), gaps, refused, *at)


if __name__ == "__main__":
    lifeline.watch()
    told = uvloop.run(_read(msgspec.json.decode(sys.argv[4], type=ReadPlan), Path(sys.argv[3])))
    write_note(Path(sys.argv[3]), RESULT, msgspec.json.encode(told).decode())
