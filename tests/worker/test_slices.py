"""Large and hostile input is read in slices: whatever else waits in the loop has its turn meanwhile."""

from __future__ import annotations

import asyncio
import gc
import time
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.events import EVENTS_PER_RECORD_MAX
from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.worker.accept import Accept
from tests.core.builders import START_MS
from tests.core.test_foreign import text

# Of this process's own time: other processes of the machine do not count. Read at once, these take up to 1.5 s.
HELD_SECONDS_MAX = 0.2

HOSTILE = {
    "a great many objects": b"[" + b"{}," * 330_000 + b"{}]",
    "as many as are taken": b"[" + b"{}," * (EVENTS_PER_RECORD_MAX - 1) + b"{}]",
    "good events, and one that is none": b"[" + b",".join([text("a")] * 9_000) + b",01]",
    "good events alone": b"[" + b",".join([text("a")] * EVENTS_PER_RECORD_MAX) + b"]",
    "arrays that close the wrong way": b"[" + b"[{" * 125_000 + b"}" * 250_000,
    "arrays in arrays": b"[" + b"[a]" * 300_000,
    "pairs behind an opener": b"[" + b"a[]a{" * 200_000,
    "strings and brackets": b"[" + b'"["[' * 250_000,
    "names without values": b"[" + b'{"":' * 250_000,
    "no JSON at all": b"[" + b"\xff" * 1_000_000,
    "escapes without an end": b"[" + b'\\"' * 1_000_000,
    "quotes": b"[" + b'"' * 1_000_000,
    "one deep nest": b"[" * 1_000_000 + b"]" * 1_000_000,
}


class Kept:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []

    async def send_all(self, topic: str, _partition: int, records: list[tuple[bytes | None, bytes]]) -> None:
        self.records += [(topic, value) for _, value in records]


async def longest_hold(work: Any) -> float:
    """The longest time, in seconds of this thread's own, for which work held the loop."""
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        at = time.thread_time()
        while not done:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, at = max(longest, now - at), now

    # The collector would go through all that other tests have left in this process, at once.
    gc.collect()
    gc.freeze()
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await work
    done = True
    await watching
    return longest


@pytest.mark.parametrize("name", HOSTILE)
def test_accept_holds_the_loop_for_a_moment_only(name: str) -> None:
    kept: Any = Kept()
    nothing: Any = SimpleNamespace(open_files=list)
    settings = Settings()
    accept = Accept(settings, topics_of(settings), kept, nothing)
    message = SimpleNamespace(
        topic="usage", partition=0, offset=1, timestamp=START_MS / 1000, value=HOSTILE[name], headers=()
    )
    began_at = time.thread_time()
    held = asyncio.run(longest_hold(accept.apply([SimpleNamespace(message=message)])))
    assert held < HELD_SECONDS_MAX
    assert time.thread_time() - began_at < 5
    letters = sum(topic == topics_of(settings).dead_letters for topic, _ in kept.records)
    assert letters <= 2 + len(HOSTILE[name]) // 64
    if name.startswith("good events"):
        assert any(topic == topics_of(settings).intake for topic, _ in kept.records)
