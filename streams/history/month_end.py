"""The end of a month for good: all commands and events of it are decided, and history holds all facts of it.

A fact is booked at the broker's time of its intake record, so a month can still grow after its last instant: while
intake has records of it that no worker has decided, or the journal has facts of it that the historian has not written.
Kafka and ClickHouse themselves are asked, by partition. A month that is over stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.clickhouse.client import ClickHouse
from streams.clickhouse.historian import journal_sink
from streams.clickhouse.limits import LONG
from streams.kafka.stored import raw_pack_of
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings

# The most that the brokers' clocks may differ, from each other and from ours: a failover may set intake's time back.
CLOCKS_DIFFER_MAX = timedelta(minutes=5)


class Closing:
    """A Closing tells whether history is complete up to a time. It remembers the latest time for which it was."""

    def __init__(
        self, settings: Settings, clickhouse: ClickHouse, clocks_differ_max: timedelta = CLOCKS_DIFFER_MAX
    ) -> None:
        self._settings = settings
        self._clickhouse = clickhouse
        self._clocks_differ_max = clocks_differ_max
        self._complete_to = datetime.fromtimestamp(0, UTC)

    async def is_complete(self, until: datetime) -> bool:
        """Whether history has every fact booked before `until`, and no other can come.

        Raises KafkaError. Waits for a broker that is busy starting, for as long as the caller lets it.
        """
        if until <= self._complete_to:
            return True
        settled_at = until + self._clocks_differ_max
        if datetime.now(UTC) < settled_at or not await self._has_all(settled_at):
            return False
        self._complete_to = max(self._complete_to, until)
        return True

    async def _has_all(self, until: datetime) -> bool:
        topics, count = topics_of(self._settings), self._settings.partitions
        intake = [TopicPartition(topics.intake, number) for number in range(count)]
        connection = kafka_client_settings(self._settings)
        consumer = AIOKafkaConsumer(**connection, enable_auto_commit=False, max_partition_fetch_bytes=FETCH_BYTES)
        admin = AIOKafkaAdminClient(**connection)
        await consumer.start()
        try:
            await admin.start()
            ends = await consumer.end_offsets(intake)
            later = await consumer.offsets_for_times(dict.fromkeys(intake, round(until.timestamp() * 1000)))
            # The first intake record of each partition that comes too late to be of the month.
            firsts = {tp.partition: found.offset if (found := later.get(tp)) else ends[tp] for tp in intake}
            committed = await _committed(admin, topics.worker_app)
            # A record is committed once its facts are on the journal.
            if any(firsts[tp.partition] > max(0, committed[tp].offset if tp in committed else 0) for tp in intake):
                return False
            return await self._history_has(consumer, firsts)
        finally:
            await consumer.stop()
            await admin.close()

    async def _history_has(self, consumer: AIOKafkaConsumer, firsts: Mapping[int, int]) -> bool:
        """Whether ClickHouse holds all facts that the journal has of intake records before `firsts`, by partition.

        ClickHouse only ever lacks the newest facts of a partition. So one row of a record at or behind the first proves
        it; failing that, the journal is read on from ClickHouse's mark, and must have no fact above that mark.
        """
        sql = journal_sink(self._settings).marks_sql
        held = {
            row[0]: ((row[1], row[2]), row[3])
            for row in await asyncio.to_thread(self._clickhouse.limited(LONG).consistent().query, sql)
        }
        marks = {number: held.get(number, ((-1, -1), -1)) for number in firsts}
        waiting = [number for number, first in firsts.items() if marks[number][0][0] < first]
        journal = {number: TopicPartition(topics_of(self._settings).journal, number) for number in waiting}
        if not journal:
            return True
        ends = await consumer.end_offsets(list(journal.values()))
        consumer.assign(list(journal.values()))
        for number, tp in journal.items():
            # The record that held the last row may hold rows after it.
            consumer.seek(tp, max(marks[number][1], 0))
        # A crash of the owner makes it repeat facts, so the newest record alone does not tell.
        for number, tp in journal.items():
            while await consumer.position(tp) < ends[tp]:
                found = await consumer.getmany(tp, timeout_ms=100)
                for record in found.get(tp, []):
                    if record.offset < ends[tp] and raw_pack_of(record).last > marks[number][0]:
                        return False
        return True


async def _committed(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, Any]:
    while True:
        try:
            offsets: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(group)
            return offsets
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(0.1)
