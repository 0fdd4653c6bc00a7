"""The real historian, between a simulated journal and a ClickHouse of lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import TopicPartition

from streams.clickhouse import historian
from streams.clickhouse.client import Pack
from streams.clickhouse.historian import Sink
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(slots=True)
class Tables:
    """The tables of a simulated ClickHouse: rows by table. A block is there as a whole or not at all."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"facts": [], "dead_letters": []})


class Client:
    """The connection of a historian to ClickHouse. The world decides when a `call` is done, and whether it fails."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tables = world.history
        self.calls: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def call(self, function: Callable[[], Any]) -> Any:
        done = asyncio.get_running_loop().create_future()
        self.calls.append((function, done))
        return await done

    def consistent(self) -> Client:
        """There is one server, which has all."""
        return self

    def limited(self, _limits: object) -> Client:
        """A simulated query takes no time, so there is nothing to limit."""
        return self

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Answer the historian's query for its marks: each partition's highest row, and the journal offset of it; or,
        with parameters, what the rows at these marks have. Nothing is erased here."""
        if "count()" in sql or "erasures" in sql:
            return [(0,)] if "count()" in sql else []
        if parameters is not None:
            return self._witnesses(sql, parameters)
        if "FROM dead_letters" in sql:
            newest: dict[int, int] = {}
            for row in self.tables.rows["dead_letters"]:
                partition = row["journal_partition"]
                newest[partition] = max(newest.get(partition, -1), row["journal_offset"])
            return [(partition, offset, 0, offset) for partition, offset in newest.items()]
        marks: dict[int, tuple[int, int]] = {}
        journal: dict[int, int] = {}
        for row in self.tables.rows["facts"]:
            partition = row["partition"]
            marks[partition] = max(marks.get(partition, (-1, -1)), (row["offset"], row["position"]))
            journal[partition] = max(journal.get(partition, -1), row["journal_offset"])
        return [(partition, *mark, journal[partition]) for partition, mark in marks.items()]

    def _witnesses(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        places = zip(parameters["partitions"], parameters["offsets"], parameters["positions"], strict=True)
        if "FROM dead_letters" in sql:
            letters = {
                (row["journal_partition"], row["journal_offset"], 0): row for row in self.tables.rows["dead_letters"]
            }
            return [
                (
                    at[0],
                    *(
                        letters[at][name]
                        for name in ("code", "topic", "partition", "offset", "position", "event", "received_at")
                    ),
                )
                for at in places
            ]
        facts = {(row["partition"], row["offset"], row["position"]): row for row in self.tables.rows["facts"]}
        return [(at[0], *(facts[at][name] for name in ("project", "kind", "booked_at"))) for at in places]

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Note an erasure that the historian begins."""
        self.world.say(lambda: f"the historian: {sql.partition(' (')[0]}")

    def insert_packs(self, table: str, shared: Mapping[str, str], columns: Mapping[str, str], packs: list[Pack]) -> int:
        """Insert the packs as one block."""
        rows = [
            dict(zip([*shared, *columns], [*pack.shared, *row], strict=True))
            for pack in packs
            for row in msgspec.msgpack.decode(pack.rows)
        ]
        self.world.say(lambda: f"the historian writes {len(rows)} rows to {table}")
        self.tables.rows[table] += rows
        return len(rows)


class Consumer:
    """The Kafka consumer of a historian; it owns every partition of its topic."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.topic = ""
        self.listener: Any = None
        self.positions: dict[TopicPartition, int] = {}
        self.polling: asyncio.Future[Any] | None = None
        self._fetcher = SimpleNamespace()

    def subscribe(self, topics: list[str], listener: Any) -> None:
        (self.topic,) = topics
        self.listener = listener

    async def start(self) -> None:
        self.world.historian_consumers.append(self)
        await self.assign()

    async def assign(self) -> None:
        """Assign all partitions, for the first time or again, at their ends: the historian must seek to its marks."""
        tps = [TopicPartition(self.topic, number) for number in range(self.world.partitions)]
        self.positions = {tp: self.world.kafka.log(self.topic, tp.partition).end for tp in tps}
        await self.listener.on_partitions_assigned(tps)

    async def rebalance(self) -> None:
        """Revoke all partitions, and assign them again."""
        await self.listener.on_partitions_revoked(list(self.positions))
        await self.assign()

    async def stop(self) -> None:
        pass

    async def commit(self, offsets: object = None) -> None:
        pass

    def assignment(self) -> set[TopicPartition]:
        return set(self.positions)

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.world.kafka.log(*tp).end for tp in tps}

    def highwater(self, tp: TopicPartition) -> int:
        return self.world.kafka.log(*tp).end

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[tp] = offset

    async def getmany(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        self.polling = asyncio.get_running_loop().create_future()
        try:
            found: dict[TopicPartition, list[Any]] = await self.polling
            return found
        finally:
            self.polling = None

    def poll(self, records_max: int) -> dict[TopicPartition, list[Any]]:
        """Take the next records of one partition that has any, and move its position past them."""
        ready = [tp for tp, position in self.positions.items() if self.world.kafka.log(*tp).end > position]
        if not ready:
            return {}
        tp = self.world.rng.choice(ready)
        records = self.world.kafka.log(*tp).read(self.positions[tp], None, records_max)
        self.positions[tp] = records[-1].offset + 1
        return {tp: records}


class HistorianProcess:
    """A process with the historian of one sink, from its start until it dies."""

    def __init__(self, world: World, sink: Sink) -> None:
        self.sink = sink
        self.tasks: Process = set()
        self.empty_polls = 0
        self.client = Client(world)
        client: Any = self.client
        self.historian = historian.Historian(world.settings, client, sink)
        self.running = world.loop.start(self.tasks, self.historian.run())
        world.loop.drain()
        self.consumer = world.historian_consumers.pop()


class AsyncioInHistory:
    """The `asyncio` that the historian sees: work for a thread becomes a call that the world completes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def to_thread(function: Any, *args: Any, **options: Any) -> Any:
        client = args[0] if isinstance(args[0] if args else None, Client) else function.__self__
        return await client.call(partial(function, *args, **options))
