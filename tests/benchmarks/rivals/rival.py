"""The parts that baselines share: their result, their topics, and the timing of one in a child process from outside.

A baseline is a blocking function of (Kafka's host:port, the workload, the longest it may take in seconds). It must not
be called in a running event loop. The time before the first event that it consumes is not counted.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from streams.embedded import lifeline
from streams.errors import OperatorError
from streams.kafka.publisher import Publisher
from streams.kafka.topics import kafka_client_settings, partition_of
from streams.settings import Settings
from tests.benchmarks.workload import Workload

# Meterline's own topics have as many partitions by default.
PARTITIONS = 4
START_SECONDS_MAX = 60.0

_POLL_SECONDS = 0.05
# No progress for this long is a stall. It is longer than the 5 s between two of Quix's checkpoints.
_STALL_SECONDS = 15.0
_STOP_SECONDS = 5.0
_FIRST_EVENT = "first-event"
_ROUND_BYTES = 4 * 1024 * 1024
_FETCH_BYTES = 8 * 1024 * 1024


class BaselineError(OperatorError):
    """A baseline could not be run to its end; the message quotes its log."""


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """The result of a baseline: `events` were charged in `seconds`, from the first one's consumption until the last one
    was durable.

    `note` says what was done, and whether it was less than the whole workload. `skipped` says what is not installed;
    nothing was measured then. `charged` is (ledger entries, microcredits) of each project, read back from the
    baseline's own store after the clock has stopped.
    """

    name: str
    events_per_second: float | None
    events: int
    seconds: float
    note: str
    skipped: str | None = None
    charged: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    def summary(self) -> dict[str, str | float | int | None]:
        """The result as JSON, without `charged`."""
        return {
            "name": self.name,
            "events_per_second": self.events_per_second,
            "events": self.events,
            "seconds": self.seconds,
            "note": self.note,
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class Run:
    """A run says how far a baseline came. `still_seconds` is how long it had made no progress when its time was up; 0
    where it came to its end."""

    events: int
    seconds: float
    still_seconds: float = 0.0


def measured(
    name: str, workload: Workload, run: Run, note: str, charged: dict[str, tuple[int, int]] | None
) -> BaselineResult:
    """The result of a run. What a reader must know to trust the figure is added to the note."""
    notes = [note]
    if run.events < workload.events:
        how = f"stopped after {run.seconds:.0f} s with {run.events:,} of {workload.events:,} events done"
        if run.still_seconds >= _STALL_SECONDS:
            moving = run.seconds - run.still_seconds
            rate = f", {run.events / moving:,.0f}/s until then" if moving > 0 else ""
            how = f"STALLED: {how} and no progress for the last {run.still_seconds:.0f} s{rate}"
        notes.append(how)
    elif charged is not None and (wrong := _wrongly_charged(workload, charged)):
        notes.append(f"WRONG: {wrong:,} projects were not charged what they owe")
    rate_or_none = round(run.events / run.seconds, 1) if run.seconds > 0 else None
    return BaselineResult(
        name, rate_or_none, run.events, round(run.seconds, 3), "; ".join(notes), charged=charged or {}
    )


def not_installed(name: str, what: str, remedy: str) -> BaselineResult:
    """The result of a baseline that lacks a part: that is said, and is no failure."""
    return BaselineResult(name, None, 0, 0.0, "", skipped=f"{what} is not installed: {remedy}")


class BenchKafka:
    """Kafka topics that a baseline has for itself, all with `prefix` in their names. Leaving the block deletes them."""

    def __init__(self, broker_url: str, name: str) -> None:
        self.prefix = f"bench-{name}-{secrets.token_hex(4)}"
        self._settings = Settings(kafka_url=broker_url)
        client = kafka_client_settings(self._settings)
        self._admin = AIOKafkaAdminClient(**client)
        self._watcher = AIOKafkaConsumer(**client)

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self._watcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(KafkaError):
            await self._admin.delete_topics([name for name in await self._admin.list_topics() if self.prefix in name])
        await self._watcher.stop()
        await self._admin.close()

    async def create(self, *topics: str) -> None:
        """Create topics of PARTITIONS partitions."""
        response = await self._admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
        failed = [str(error) for error in response.topic_errors if error[1]]
        if failed:
            raise BaselineError(f"Topics could not be created: {'; '.join(failed)}")

    async def produce(self, topic: str, records: Iterable[tuple[int, bytes | None, bytes]]) -> None:
        """Send records, each (partition, key, value), and return once all are acknowledged."""
        publisher = Publisher(self._settings)
        await publisher.start()
        rows: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        size = 0

        async def send_rows() -> None:
            await asyncio.gather(*(publisher.send_all(topic, to, some) for to, some in rows.items()))
            rows.clear()

        try:
            for partition, key, value in records:
                rows[partition].append((key, value))
                size += len(value)
                if size > _ROUND_BYTES:
                    await send_rows()
                    size = 0
            await send_rows()
        finally:
            await publisher.stop()

    async def length(self, topic: str) -> int:
        """The number of records that were ever written to a topic."""
        return sum((await self._watcher.end_offsets(partitions_of(topic))).values())

    async def committed(self, group: str, topic: str) -> int:
        """The number of a topic's records that a group has committed."""
        offsets = await self._admin.list_consumer_group_offsets(group)
        return sum(max(0, place.offset) for partition, place in offsets.items() if partition.topic == topic)

    async def read(self, topic: str) -> AsyncIterator[Any]:
        """Read the records that are in a topic now, each partition's in order."""
        ends = await self._watcher.end_offsets(partitions_of(topic))
        reader = self.reader()
        await reader.start()
        try:
            reader.assign(list(ends))
            for partition in ends:
                while await reader.position(partition) < ends[partition]:
                    for record in (await reader.getmany(partition, timeout_ms=1000)).get(partition, ()):
                        yield record
        finally:
            await reader.stop()

    def reader(self) -> AIOKafkaConsumer:
        """A consumer, not started, that belongs to no group and begins at the beginning."""
        return AIOKafkaConsumer(
            **kafka_client_settings(self._settings),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )


class BenchChild:
    """A benchmark's child process: `module` is run with Kafka's address, a topic prefix, a directory and `arguments`;
    `env` is added to its environment.

    The child calls `note_first_event` when it has consumed its first event. Leaving the block ends it.
    """

    def __init__(
        self, module: str, broker_url: str, prefix: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="meterline-bench-", ignore_cleanup_errors=True)
        self._dir = Path(self._scratch.name)
        self._module = module
        self._argv = [sys.executable, "-m", module, broker_url, prefix, str(self._dir), *arguments]
        self._env = env
        self._child: lifeline.Child | None = None

    def __enter__(self) -> Self:
        self._child = lifeline.start(self._module, self._argv, log_path=self._dir / "log", env=self._env)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._scratch.cleanup()

    def stop(self) -> None:
        """Stop the child, and wait until it has ended; its notes stay."""
        if self._child is not None:
            self._child.stop(_STOP_SECONDS)

    async def follow(self, done: Callable[[], Awaitable[int]], events: int, seconds_max: float) -> Run:
        """Time the child from its first event until `done` says `events`, for `seconds_max` at most.

        Raises BaselineError where the child ends before that, or does not begin.
        """
        begun_at = await self._first_event()
        count, moved_at = 0, begun_at
        while True:
            ended = self._child is None or self._child.poll() is not None
            now_done = await done()
            now = time.monotonic()
            if now_done > count:
                count, moved_at = min(now_done, events), now
            if count == events:
                return Run(events, now - begun_at)
            if now - begun_at >= seconds_max:
                return Run(count, now - begun_at, now - moved_at)
            if ended:
                raise self._failure(f"ended after {count:,} events")
            await asyncio.sleep(_POLL_SECONDS)

    def note(self, name: str) -> str | None:
        """The text that the child has last written to the file of this name in its directory, or None."""
        with suppress(FileNotFoundError):
            return (self._dir / name).read_text()
        return None

    def result(self, name: str, seconds_max: float) -> str:
        """Wait until the child has written the note of this name, and return its text. Raises BaselineError where the
        child ends without it, or takes longer than `seconds_max`."""
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            ended = self._child is None or self._child.poll() is not None
            if (text := self.note(name)) is not None:
                return text
            if ended:
                raise self._failure(f"ended without {name!r}")
            time.sleep(_POLL_SECONDS)
        raise self._failure(f"had no {name!r} after {seconds_max:.0f} s")

    def check(self, what: str) -> None:
        """Look whether the child still runs. Raises BaselineError, saying `what` it did, where it has ended."""
        if self._child is None or self._child.poll() is not None:
            raise self._failure(what)

    async def _first_event(self) -> float:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            ended = self._child is None or self._child.poll() is not None
            if begun_at := self.note(_FIRST_EVENT):
                return float(begun_at)
            if ended:
                raise self._failure("ended before it consumed an event")
            await asyncio.sleep(_POLL_SECONDS)
        raise self._failure(f"consumed nothing within {START_SECONDS_MAX:.0f} s")

    def _failure(self, what: str) -> BaselineError:
        log = (self._dir / "log").read_text(errors="replace").splitlines()[-15:]
        return BaselineError(f"{self._module} {what}. The end of its log:\n" + "\n".join(log))


def note_first_event(directory: Path) -> None:
    """Note the time of the first event, in a child. All processes of a machine share this clock."""
    write_note(directory, _FIRST_EVENT, repr(time.monotonic()))


def write_note(directory: Path, name: str, text: str) -> None:
    """Write a note for the parent, in a child. The parent sees it whole or not at all."""
    fresh = directory / f"{name}.new"
    fresh.write_text(text)
    fresh.rename(directory / name)


def partitions_of(topic: str) -> list[TopicPartition]:
    """The partitions of a baseline's topic."""
    return [TopicPartition(topic, number) for number in range(PARTITIONS)]


def single_events(workload: Workload) -> Iterator[tuple[int, bytes, bytes]]:
    """The workload as records of one event each, with the project as key: (partition, key, value)."""
    places = {project: (partition_of(project, PARTITIONS), project.encode()) for project in workload.project_ids()}
    for project, text in workload:
        partition, key = places[project]
        yield partition, key, text


def _wrongly_charged(workload: Workload, charged: dict[str, tuple[int, int]]) -> int:
    expected = workload.expected()
    return sum(charged.get(project) != expected.get(project) for project in charged.keys() | expected.keys())
