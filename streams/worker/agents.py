"""The worker's flow, in one place: accept usage from producers, decide it, publish what follows.

`accept` reads usage and writes intake. `owner` reads intake and is the single writer of every account in its
partitions. Both acknowledge a record only when all that follows from it is acknowledged by the brokers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import groupby, zip_longest
from typing import Any

from schemas.commands import AnyCommand
from schemas.replies import Reply
from streams.core.fold import UnforeseenError
from streams.kafka.codecs import packed, replies_to
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.worker.batches import time_of
from streams.worker.decider import Decided, Decider, OwnTables
from streams.worker.lease import Lease
from streams.worker.tables import day_of, reply_records, seen_records, seen_rows

log = logging.getLogger(__name__)

# How long the owner's next batch may wait for callers that the last one answered: they ask again about now.
GATHER_SECONDS = 0.002


class IntakeGapError(Exception):
    """Intake records were passed over. Nothing after them may be decided: they could never be applied any more."""


class Owner:
    """The owner decides intake records and publishes what follows: journal, dedup index and kept replies, then
    accounts and replies."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        publisher: Publisher,
        tables: OwnTables,
        lease: Lease,
        committed: Callable[[int], int | None],
        first_record: Callable[[int, int], Awaitable[int | None]] | None = None,
    ) -> None:
        """`committed` gives the committed offset of an intake partition, the next one to read, or None where there is
        none. `first_record` asks the broker for the offset of the first record of a partition from an offset on;
        without it every gap in offsets is an error."""
        self.settings = settings
        self.topics = topics
        self.publisher = publisher
        self.committed = committed
        self.first_record = first_record
        self.decider = Decider(settings, topics, tables)
        self.lease = lease
        self._generation = -1
        self._next_offsets: dict[int, int] = {}
        # By partition: the last records of the batches that were applied, (offset, time), until they are committed.
        self._uncommitted: dict[int, deque[tuple[int, int]]] = defaultdict(deque)

    async def apply(self, events: list[Any]) -> None:
        """Apply intake records of one assignment; returns once all that follows from them is acknowledged.

        Raises, before a write, AssignmentEndedError once the assignment has ended, LeaseLostError once the partitions
        may be another worker's, and IntakeGapError where a record is missing.
        """
        if events[0].message.generation_id != self._generation:
            # Partitions may have been elsewhere meanwhile, and come back with newer accounts.
            self._generation = events[0].message.generation_id
            self.decider.forget()
            self._next_offsets.clear()
            self._uncommitted.clear()
        for event in events:
            message = event.message
            expected = self._next_offsets.get(message.partition)
            if expected is None:
                # Where nothing is committed yet, the first record of the partition is expected.
                expected = self.committed(message.partition) or 0
            if message.offset > expected:
                await self._check_gap(message.partition, expected, message.offset)
            self._next_offsets[message.partition] = message.offset + 1
        for messages in _days([event.message for event in events]):
            await self._apply_day(messages)

    async def _check_gap(self, partition: int, expected: int, offset: int) -> None:
        """Check that no record of intake is at `expected` or after it, before `offset`. Raises IntakeGapError.

        We write intake without transactions, and it is never compacted, so its offsets have gaps only where somebody
        else wrote with a transaction: its markers have offsets too, and so has what it aborted.
        """
        first = await self.first_record(partition, expected) if self.first_record is not None else None
        if first is None or first < offset:
            raise IntakeGapError(f"intake {partition}: {expected} to {offset - 1} were not delivered")
        log.error("intake %d: no record at %d to %d; who writes it with transactions?", partition, expected, offset - 1)

    async def _apply_day(self, messages: list[Any]) -> None:
        """Apply records that are of one day in each partition. Where they can't be decided together, for a fault that
        nobody foresaw, each is applied by itself: what is at fault is a dead letter then, and no record is read for
        ever."""
        try:
            await self._apply_batch(messages)
        except UnforeseenError:
            if len(messages) == 1:
                raise
            log.exception("%d intake records can't be decided together; each is tried by itself", len(messages))
            for message in messages:
                await self._apply_batch([message])

    async def _apply_batch(self, messages: list[Any]) -> None:
        by_partition: dict[int, list[Any]] = defaultdict(list)
        for message in messages:
            by_partition[message.partition].append(message)
        generation = messages[0].generation_id
        try:
            decided = {partition: self.decider.decide(partition, some) for partition, some in by_partition.items()}
            self.lease.check(generation)
            # An account's value says that its records are applied: by then their facts, dedup entries and kept replies
            # must be safe. As long as it does not say so, they are decided again, and give the same.
            noted = await asyncio.gather(
                *(
                    self._publish_facts(partition, each, by_partition[partition][0])
                    for partition, each in decided.items()
                )
            )
            # A worker that was paused in between, or has given a partition away, must not write accounts that are older
            # than its successor's, nor note their offset as if its tables had all that is before it.
            self.lease.check(generation)
            await asyncio.gather(
                *(
                    self._store(partition, each, by_partition[partition][0], offsets)
                    for (partition, each), offsets in zip(decided.items(), noted, strict=True)
                ),
                # The facts are on the log, so the decisions stand, whatever becomes of this process.
                self._reply([reply for each in decided.values() for reply in each.replies]),
            )
        except BaseException:
            # The decider's accounts are changed already, and nothing says that they were ever written.
            self.decider.forget()
            raise
        for partition, some in by_partition.items():
            self._expire(partition, some[-1])

    def _expire(self, partition: int, last: Any) -> None:
        """Remove what has expired by the time of the last batch that is committed. Batches after it may be decided
        again, and ask for what was there when they were decided first."""
        uncommitted, committed = self._uncommitted[partition], self.committed(partition) or 0
        expired_at_ms = 0
        while uncommitted and uncommitted[0][0] < committed:
            _, expired_at_ms = uncommitted.popleft()
        uncommitted.append((last.offset, time_of(last)))
        if expired_at_ms:
            self.decider.tables.expire(partition, expired_at_ms)

    async def _publish_facts(self, partition: int, decided: Decided, first: Any) -> list[int | None]:
        """Publish a partition's facts, dead letters, dedup index and kept replies; gives the offsets in the changelogs
        of the index, of the replies and of the recent replies."""
        # The local rows are quickest to write in key order.
        decided.seen = {dedup: decided.seen[dedup] for dedup in sorted(decided.seen)}
        seen = seen_records(decided.seen, day_of(time_of(first)), first.offset)
        by_key, by_request = (reply_records(rows, first.offset) for rows in decided.kept_rows)
        _, _, *offsets = await asyncio.gather(
            self.publisher.send_all(self.topics.journal, partition, decided.journal),
            self.publisher.send_all(self.topics.dead_letters, partition, decided.dead_letters),
            self.publisher.send_all(self.topics.seen_changelog, partition, seen),
            self.publisher.send_all(self.topics.replies_changelog, partition, by_key),
            self.publisher.send_all(self.topics.recent_replies_changelog, partition, by_request),
        )
        return offsets

    async def _store(self, partition: int, decided: Decided, first: Any, offsets: list[int | None]) -> None:
        """Publish a partition's accounts, then write the local tables; `offsets` are those that `_publish_facts`
        gave."""
        accounts_offset = await self.publisher.send_all(self.topics.accounts_changelog, partition, decided.values)
        # All changelogs have the batch before any local table does: the tables never lead them.
        tables = self.decider.tables
        if accounts_offset is not None:
            tables.accounts.file(partition).write(decided.values, accounts_offset)
        seen_offset, replies_offset, recent_offset = offsets
        if seen_offset is not None:
            tables.seen.file(partition).write(seen_rows(decided.seen, day_of(time_of(first))), seen_offset)
        if replies_offset is not None:
            tables.replies.file(partition).write(decided.kept_rows.by_key, replies_offset)
        if recent_offset is not None:
            tables.recent_replies.file(partition).write(decided.kept_rows.by_request, recent_offset)

    async def _reply(self, replies: list[tuple[AnyCommand, Reply]]) -> None:
        """Send replies, packed: all for one waiting process share as few records as fit."""
        of_instance: dict[tuple[int, str], list[tuple[str, Reply]]] = defaultdict(list)
        for command, reply in replies:
            to = command.reply_partition % self.settings.partitions, command.reply_instance
            of_instance[to].append((command.correlation, reply))
        by_partition: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        for (partition, instance), some in of_instance.items():
            by_partition[partition] += [(None, value) for value in packed(some, replies_to(instance))]
        await asyncio.gather(
            *(
                self.publisher.send_all(self.topics.replies, partition, records)
                for partition, records in by_partition.items()
            )
        )


def _days(messages: list[Any]) -> Iterator[list[Any]]:
    """Yield records of each partition's first day, then of each one's next, and so on, in order.

    The dedup index tells days apart. With one day a batch, decisions are the same however records are batched. But
    partitions are decided apart: where one's records are of another day than the other's, as in a log that is read
    again, they share a batch all the same.
    """
    by_partition: dict[int, list[Any]] = defaultdict(list)
    for message in messages:
        by_partition[message.partition].append(message)
    days = [
        [list(same_day) for _, same_day in groupby(some, key=lambda message: day_of(time_of(message)))]
        for some in by_partition.values()
    ]
    for of_each in zip_longest(*days, fillvalue=()):
        yield [message for some in of_each for message in some]
