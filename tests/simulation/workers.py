"""Workers of a world: the real agents on a simulated broker, disk and clock; and the consumer group they are in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from streams.worker.accept import Accept
from streams.worker.agents import Owner
from streams.worker.batches import work
from streams.worker.decider import OwnTables
from streams.worker.lease import Lease, LeaseLostError
from tests.simulation.disk import TABLES, Disk, apply_changelog
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


class Died(BaseException):
    """Raised where a process dies, between two of its writes."""


class SimulatedLease(Lease):
    """The real lease, measured by the world's clock."""

    def __init__(self, world: World) -> None:
        super().__init__(world.session_seconds)
        self._world = world

    def now(self) -> float:  # type: ignore[override]
        return self._world.mono


class Message:
    """A message: a record as Faust delivers it, with the generation of the assignment under which it was fetched."""

    __slots__ = ("generation_id", "headers", "offset", "partition", "timestamp", "topic", "value")

    def __init__(self, record: Any, generation_id: int) -> None:
        self.topic = record.topic
        self.partition = record.partition
        self.offset = record.offset
        self.timestamp = record.at_ms / 1000
        self.value = record.value
        self.headers = ()
        self.generation_id = generation_id


class Event:
    """An event, which `work` takes from a stream and acknowledges."""

    __slots__ = ("_worker", "message")

    def __init__(self, worker: Worker, message: Message) -> None:
        self._worker = worker
        self.message = message

    def ack(self) -> None:
        place = (self.message.topic, self.message.partition)
        acked = self._worker.acked
        acked[place] = max(acked.get(place, 0), self.message.offset + 1)


class Stream:
    """A Faust stream: the events that were fetched and not yet taken."""

    def __init__(self) -> None:
        self.arrived: deque[Event] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Event]:
        while True:
            while self.arrived:
                yield self.arrived.popleft()
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def deliver(self, events: Iterable[Event]) -> None:
        self.arrived.extend(events)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@dataclass(slots=True, eq=False)
class Send:
    """A send under way by the publisher: `records` have still to reach the log, in order; then `done` is set."""

    topic: str
    partition: int
    records: deque[tuple[bytes | None, bytes]]
    done: asyncio.Future[int]
    last_offset: int = -1


@dataclass(slots=True, eq=False)
class Recovery:
    """The recovery of a table's partition: it reads the changelog from `position` to `highwater`, where that ended at
    the assignment."""

    table: str
    topic: str
    partition: int
    position: int
    highwater: int


class Worker:
    """A worker process. It ends only by dying; its host starts another on the same disk."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.name = f"{host.name}.{host.starts}"
        self.is_alive = True
        self.is_paused = False
        self.is_deaf = False
        self.is_slow = False
        self.is_member = False
        self.generation = -1
        self.assigned: tuple[int, ...] = ()
        self.recoveries: list[Recovery] = []
        self.positions: dict[tuple[str, int], int] = {}
        self.acked: dict[tuple[str, int], int] = {}
        self.sends: list[Send] = []
        self.lease = SimulatedLease(world)
        self.tables = host.disk.tables(world.dedup_days, world.kept_for)
        self.streams = {world.topics.usage: Stream(), world.topics.intake: Stream()}
        files = {
            name: SimpleNamespace(file=table.partition_file, open_files=table.open_files)
            for name, table in self.tables.items()
        }
        settings: Any = SimpleNamespace(
            dedup_days=world.dedup_days,
            kept_for=world.kept_for,
            partitions=world.partitions,
            events_per_record_max=1000,
        )
        publisher: Any = self
        accept = Accept(settings, world.topics, publisher, files["accounts"])
        owner = Owner(
            settings,
            world.topics,
            publisher,
            OwnTables(*(files[name] for name in TABLES)),  # type: ignore[arg-type]
            self.lease,  # type: ignore[arg-type]
            lambda partition: world.kafka.committed.get((world.topics.intake, partition)),
        )
        self.tasks: Process = set()
        self._agents = [
            world.loop.start(self.tasks, self._run(world.topics.usage, accept.apply)),
            world.loop.start(self.tasks, self._run(world.topics.intake, owner.apply)),
        ]
        world.loop.drain()

    async def _run(self, topic: str, apply: Callable[[list[Any]], Awaitable[None]]) -> None:
        async def counted(events: list[Any]) -> None:
            self.world.say(lambda: f"{self.name} takes {_places(events)}")
            self.world.taken.update(
                (each.message.topic, each.message.partition, each.message.offset) for each in events
            )
            await apply(events)

        await work(self.streams[topic], self.world.batch_records_max, self._is_current, counted)

    def _is_current(self, event: Event) -> bool:
        return event.message.generation_id == self.generation

    async def send_all(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes]]) -> int | None:
        """Send records, in place of the publisher: the world decides when each reaches the log, and when all are
        acknowledged."""
        queued = deque(records)
        if not queued:
            return None
        send = Send(topic, partition, queued, asyncio.get_running_loop().create_future())
        self.sends.append(send)
        return await send.done

    @property
    def unsent(self) -> bool:
        """Whether this worker has begun to send records that have not reached their log yet."""
        return any(send.records for send in self.sends)

    def failure(self) -> BaseException | None:
        """The error that ended an agent, if one has ended."""
        for task in self._agents:
            if task.done():
                return task.exception() or RuntimeError("an agent returned")
        return None

    def assign(self, generation: int, partitions: tuple[int, ...]) -> None:
        """Assign partitions, as a rebalance does: buffered records are dropped, the tables recovered, and reading goes
        on where it was committed.

        A batch that an agent has already begun is not interrupted; Faust does not interrupt it either.
        """
        world = self.world
        self.is_member = True
        self.generation = generation
        self.lease.assign(generation)
        for stream in self.streams.values():
            stream.arrived.clear()
        for table in self.tables.values():
            for partition in set(self.assigned) - set(partitions):
                if (file := table._files.pop(partition, None)) is not None:
                    file.close()
        self.assigned = partitions
        self.positions.clear()
        self.acked = {place: offset for place, offset in self.acked.items() if place[1] in partitions}
        self.recoveries = []
        for table, topic in world.changelogs.items():
            for partition in partitions:
                held = self.tables[table].partition_file(partition).changelog_offset()
                position = 0 if held is None else held + 1
                end = world.kafka.log(topic, partition).end
                self.recoveries.append(Recovery(table, topic, partition, position, end))
        self._read_on()

    def recover(self, recovery: Recovery, records_max: int) -> None:
        """Apply the next records of a changelog, as a worker's recovery does it."""
        log = self.world.kafka.log(recovery.topic, recovery.partition)
        records = log.read(recovery.position, recovery.highwater, records_max)
        if records:
            apply_changelog(self.tables[recovery.table], records)
            recovery.position = records[-1].offset + 1
            self.world.say(
                lambda: f"{self.name} recovers {recovery.table}-{recovery.partition} to {records[-1].offset}"
            )
        else:
            self.recoveries.remove(recovery)
            self._read_on()

    def _read_on(self) -> None:
        """Go on reading the input from where it was committed, once every table is recovered."""
        if not self.recoveries:
            committed = self.world.kafka.committed
            for topic in self.streams:
                for partition in self.assigned:
                    self.positions[topic, partition] = committed.get((topic, partition), 0)

    def fetch(self, topic: str, partition: int, records_max: int) -> bool:
        """Deliver the next records of a partition; returns whether there were any."""
        position = self.positions[topic, partition]
        records = self.world.kafka.log(topic, partition).read(position, None, records_max)
        if not records:
            return False
        self.positions[topic, partition] = records[-1].offset + 1
        self.streams[topic].deliver(Event(self, Message(record, self.generation)) for record in records)
        return True


@dataclass(slots=True, eq=False)
class Host:
    """A host is a machine with a disk, and the worker that runs on it, if one does."""

    name: str
    disk: Disk
    worker: Worker | None = None
    starts: int = 0


@dataclass(slots=True)
class Group:
    """The consumer group, as its coordinator knows it: the members, what each owns, and when each was last heard of."""

    generation: int = 0
    owners: dict[int, Worker] = field(default_factory=dict)
    heard_at: dict[Worker, float] = field(default_factory=dict)
    joining: list[Worker] = field(default_factory=list)

    def commit(self, worker: Worker, committed: dict[tuple[str, int], int]) -> None:
        """Take a worker's acknowledged positions, unless its generation has ended."""
        for place, offset in worker.acked.items():
            is_owner = worker.generation == self.generation and self.owners.get(place[1]) is worker
            if is_owner and offset > committed.get(place, 0):
                committed[place] = offset
        worker.acked.clear()


def is_lease_lost(failure: BaseException) -> bool:
    """Whether a worker stopped because it may not own its partitions any more."""
    return isinstance(failure, LeaseLostError)


def _places(events: list[Any]) -> str:
    return " ".join(f"{e.message.topic.rpartition('.')[2]}-{e.message.partition}@{e.message.offset}" for e in events)
