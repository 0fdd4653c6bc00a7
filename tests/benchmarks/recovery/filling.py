"""Changelogs for bench recovery are filled the way they come about: the worker's owner decides commands and envelopes.

The owner runs in this process, without Faust and on larger batches. A worker takes 64 records at once, which is right
for envelopes; with that, millions of commands would take a quarter of an hour.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.commands import CountRequest, CreateKey, CreateProject, TopUp
from schemas.prices import FIRST_PRICE_BOOK
from streams.collector import CycleCollector, tune_collector
from streams.core.acceptance import accept_record
from streams.core.plans import BUNDLES
from streams.errors import OperatorError
from streams.kafka.codecs import encode_intake
from streams.kafka.command_client import CommandClient
from streams.kafka.envelopes import Envelopes
from streams.kafka.publisher import Publisher
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from streams.settings import Settings
from streams.state.rocks import VersionedFile
from streams.worker.agents import Owner
from streams.worker.decider import OwnTables
from streams.worker.lease import Lease
from streams.worker.tables import BatchTable, File, replies_file, seen_file
from tests.benchmarks.workload import OPENING_BALANCE, Workload

ENVIRONMENT = "production"
DECISION_SECONDS_MAX = 3600.0

_PACK = 1000
_GENERATION = 1
_BATCH_RECORDS_MAX = 4000
_BATCH_BYTES_MAX = 4 * 1024 * 1024
_ROUND_PROJECTS = 20_000
_BUNDLE_USD = 20
# Nobody waits for these replies.
_NOBODY: dict[str, Any] = {"idempotency_key": "", "reply_instance": "", "reply_partition": 0}


@dataclass(slots=True)
class Filler:
    """A filler writes to intake, asks for decisions, and knows what each project must have left, in microcredits."""

    settings: Settings
    publisher: Publisher
    commands: CommandClient
    projects: tuple[str, ...]
    expected: dict[str, int] = field(default_factory=dict)

    async def open_projects(self) -> None:
        """Put commands on intake that open each project and make a key for it."""
        for start in range(0, len(self.projects), _ROUND_PROJECTS):
            by_partition: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
            for number, project in enumerate(self.projects[start : start + _ROUND_PROJECTS], start):
                partition = partition_of(project, self.settings.partitions)
                by_partition[partition] += ((None, command) for command in _opening(project, number))
            await self._send(by_partition)
        self.expected.update(dict.fromkeys(self.projects, OPENING_BALANCE))

    async def count_each(self) -> None:
        """Put a request of each project on intake, which is counted in its window."""
        by_partition: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        for number, project in enumerate(self.projects):
            count = CountRequest(
                project=project, operation="bench", environment=ENVIRONMENT, correlation=f"count-{number}", **_NOBODY
            )
            by_partition[partition_of(project, self.settings.partitions)].append((None, encode_intake(count)))
        await self._send(by_partition)

    async def charge(self, workload: Workload) -> None:
        """Put the events of a workload on intake, in envelopes as accept makes them."""
        now_ms = round(time.time() * 1000)
        records = workload.records(_PACK, self.settings.partitions)
        while some := list(itertools.islice(records, 20)):
            envelopes = Envelopes(self.settings.partitions)
            for record in some:
                accepted, rejected = accept_record(record.value, now_ms, FIRST_PRICE_BOOK.rates)
                assert not rejected
                envelopes.add(accepted)
            await self._send(envelopes.records())
        for project, (_, spent) in workload.expected().items():
            self.expected[project] -= spent

    async def decide_all(self, directory: Path) -> None:
        """Decide all that is on intake now, with tables in `directory`. Offsets are committed for the worker's group,
        which has no member meanwhile."""
        consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            group_id=topics_of(self.settings).worker_app,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            intake = [TopicPartition(topics_of(self.settings).intake, n) for n in range(self.settings.partitions)]
            consumer.assign(intake)
            ends = await consumer.end_offsets(intake)
            committed = {tp.partition: await consumer.committed(tp) for tp in intake}
            with _owner(self.settings, self.publisher, directory, committed.get) as owner:
                collector = CycleCollector()
                for tp in intake:
                    consumer.pause(*intake)
                    consumer.resume(tp)
                    async for batch in _batches(consumer, tp, ends[tp]):
                        await owner.apply(batch)
                        collector.tick()
            await consumer.commit(ends)
        finally:
            await consumer.stop()

    async def decide_everywhere(self) -> int:
        """Top up one project in every partition, and wait for the replies; returns how many were not as expected.

        The top-ups are decided after all that was on intake before, so the worker has the accounts by then.
        """
        topped_up = list(self._one_of_each_partition())
        for project in topped_up:
            self.expected[project] += BUNDLES[_BUNDLE_USD]
        replies = await asyncio.gather(*(self.commands.decide(self._top_up(project)) for project in topped_up))
        # A reply may be sent before its account is stored. Once a later command has its reply, the account is stored.
        await asyncio.gather(*(self.commands.decide(self._count(project)) for project in topped_up))
        return sum(
            reply.status != 200 or reply.available != self.expected[project]
            for project, (reply, _) in zip(topped_up, replies, strict=True)
        )

    def _one_of_each_partition(self) -> Iterator[str]:
        found: set[int] = set()
        for project in self.projects:
            partition = partition_of(project, self.settings.partitions)
            if partition not in found:
                found.add(partition)
                yield project
            if len(found) == self.settings.partitions:
                return
        raise OperatorError(f"{len(self.projects)} accounts do not reach all {self.settings.partitions} partitions")

    def _top_up(self, project: str) -> TopUp:
        return TopUp(
            project=project,
            environment=ENVIRONMENT,
            bundle_usd=_BUNDLE_USD,
            reference="",
            **self.commands.addressing(),
        )

    def _count(self, project: str) -> CountRequest:
        return CountRequest(project=project, operation="bench", environment=ENVIRONMENT, **self.commands.addressing())

    async def _send(self, by_partition: dict[int, list[tuple[bytes | None, bytes]]]) -> None:
        topic = topics_of(self.settings).intake
        await asyncio.gather(*(self.publisher.send_all(topic, to, records) for to, records in by_partition.items()))


@asynccontextmanager
async def filler(settings: Settings, projects: tuple[str, ...]) -> AsyncIterator[Filler]:
    """A filler that is connected to Kafka while its block runs."""
    tune_collector()
    patient = settings.model_copy(update={"reply_timeout_seconds": DECISION_SECONDS_MAX})
    publisher = Publisher(patient)
    commands = CommandClient(patient, publisher)
    await publisher.start()
    try:
        await commands.start()
        yield Filler(patient, publisher, commands, projects)
    finally:
        await commands.stop()
        await publisher.stop()


class _TableFiles(dict[int, File]):
    """Files of a table's partitions, in place of the table."""

    def __init__(self, open_file: Callable[[int], File]) -> None:
        super().__init__()
        self._open_file = open_file

    def file(self, partition: int) -> File:
        if partition not in self:
            self[partition] = self._open_file(partition)
        return self[partition]


@dataclass(frozen=True, slots=True)
class _Message:
    """A message with the fields of a record that the owner reads; `timestamp` is in seconds, as Faust has it."""

    partition: int
    offset: int
    timestamp: float
    value: bytes
    generation_id: int = _GENERATION


@dataclass(frozen=True, slots=True)
class _Event:
    message: _Message


@contextmanager
def _owner(
    settings: Settings, publisher: Publisher, directory: Path, committed: Callable[[int], int | None]
) -> Iterator[Owner]:
    accounts = _TableFiles(lambda partition: VersionedFile(directory / "accounts" / str(partition)))
    seen = _TableFiles(lambda partition: seen_file(directory / "seen" / str(partition), settings.dedup_days))
    kept_for = settings.kept_for
    replies = _TableFiles(lambda partition: replies_file(directory / "replies" / str(partition), kept_for.key_ms))
    recent = _TableFiles(lambda partition: replies_file(directory / "recent" / str(partition), kept_for.request_ms))
    lease = Lease(float("inf"))
    lease.assign(_GENERATION)
    tables = OwnTables(*(cast(BatchTable, each) for each in (accounts, seen, replies, recent)))
    try:
        yield Owner(settings, topics_of(settings), publisher, tables, lease, committed)
    finally:
        for files in (accounts, seen, replies, recent):
            for file in files.values():
                file.close()


async def _batches(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> AsyncIterator[list[Any]]:
    """Batches of the partition's records below `end`, limited in their records and their bytes."""
    batch: list[_Event] = []
    size = 0
    while await consumer.position(tp) < end:
        for record in (await consumer.getmany(tp, timeout_ms=1000, max_records=_BATCH_RECORDS_MAX)).get(tp, ()):
            batch.append(_Event(_Message(record.partition, record.offset, record.timestamp / 1000, record.value)))
            size += len(record.value)
            if size >= _BATCH_BYTES_MAX or len(batch) >= _BATCH_RECORDS_MAX:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _opening(project: str, number: int) -> tuple[bytes, bytes]:
    create = CreateProject(
        project=project,
        name=f"Project {number}",
        plan="enterprise",
        contract_allowance=OPENING_BALANCE,
        correlation=f"open-{number}",
        **_NOBODY,
    )
    key = CreateKey(
        project=project,
        key_id=f"key-{number}",
        key_hash=hashlib.sha256(project.encode()).digest(),
        environment=ENVIRONMENT,
        scopes=["usage:write", "usage:read"],
        correlation=f"key-{number}",
        **_NOBODY,
    )
    return encode_intake(create), encode_intake(key)
