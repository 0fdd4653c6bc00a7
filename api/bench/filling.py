"""Fills a worker's tables the way they come about: commands and envelopes on intake, which a worker decides."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.bench.workload import OPENING_BALANCE, Workload
from schemas.commands import CreateKey, CreateProject, TopUp
from schemas.prices import FIRST_PRICE_BOOK
from streams.agents import envelopes
from streams.codecs import encode
from streams.commands import CommandClient
from streams.core.acceptance import accept_record
from streams.core.plans import BUNDLES
from streams.errors import OperatorError
from streams.publisher import Publisher
from streams.settings import Settings
from streams.topics import partition_of, topics_of

ENVIRONMENT = "production"
DECISION_SECONDS_MAX = 600.0

_PACK = 1000
_ROUND_PROJECTS = 20_000
_BUNDLE_USD = 20


@dataclass(slots=True)
class Filler:
    """Writes to intake, asks for decisions, and knows what every project must have left, in microcredits."""

    settings: Settings
    publisher: Publisher
    commands: CommandClient
    projects: tuple[str, ...]
    expected: dict[str, int] = field(default_factory=dict)

    async def open_projects(self) -> None:
        """Put every project's opening on intake, and a key for it."""
        for start in range(0, len(self.projects), _ROUND_PROJECTS):
            by_partition: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
            for number, project in enumerate(self.projects[start : start + _ROUND_PROJECTS], start):
                partition = partition_of(project, self.settings.partitions)
                by_partition[partition] += ((None, command) for command in _opening(project, number))
            await self._send(by_partition)
        self.expected.update(dict.fromkeys(self.projects, OPENING_BALANCE))

    async def charge(self, workload: Workload) -> None:
        """Put a workload's events on intake, in envelopes as accept makes them."""
        now_ms = round(time.time() * 1000)
        records = workload.records(_PACK, self.settings.partitions)
        while some := list(itertools.islice(records, 20)):
            by_partition: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
            for record in some:
                accepted, rejected = accept_record(record.value, now_ms, FIRST_PRICE_BOOK.rates)
                assert not rejected
                by_partition[record.partition] += envelopes(accepted)
            await self._send(by_partition)
        for project, (_, spent) in workload.expected().items():
            self.expected[project] -= spent

    async def decide_everywhere(self) -> int:
        """Top up one project of every partition, and wait for the replies; returns how many were not as expected.

        Decided after all that was on intake before, by a worker that has the accounts.
        """
        topped_up = list(self._one_of_each_partition())
        for project in topped_up:
            self.expected[project] += BUNDLES[_BUNDLE_USD]
        replies = await asyncio.gather(*(self.commands.decide(self._top_up(project)) for project in topped_up))
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
            reference="bench",
            **self.commands.addressing(),
        )

    async def _send(self, by_partition: dict[int, list[tuple[bytes | None, bytes]]]) -> None:
        topic = topics_of(self.settings).intake
        await asyncio.gather(*(self.publisher.send_all(topic, to, records) for to, records in by_partition.items()))


@asynccontextmanager
async def filler(settings: Settings, projects: tuple[str, ...]) -> AsyncIterator[Filler]:
    """A Filler, connected."""
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


def _opening(project: str, number: int) -> tuple[bytes, bytes]:
    # No one waits for these replies, so the worker sends none.
    nobody = {"idempotency_key": "", "reply_instance": "", "reply_partition": 0}
    create = CreateProject(
        project=project,
        name=f"Project {number}",
        plan="enterprise",
        contract_allowance=OPENING_BALANCE,
        correlation=f"open-{number}",
        **nobody,
    )
    key = CreateKey(
        project=project,
        key_id=f"key-{number}",
        key_hash=hashlib.sha256(project.encode()).digest(),
        environment=ENVIRONMENT,
        scopes=["usage:write", "usage:read"],
        correlation=f"key-{number}",
        **nobody,
    )
    return encode(create), encode(key)
