"""The flow, in one place: accept what producers send, decide it, publish what follows.

`accept` reads usage and writes intake. `owner` reads intake and is the single writer of every account in its
partitions. Both acknowledge a record only when all that follows from it is acknowledged by the brokers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import msgspec

from schemas.commands import AnyCommand, IntakeRecord
from schemas.events import Usage
from schemas.ledger import Account, Reply
from streams.codecs import (
    decode_account,
    decode_intake,
    encode_account,
    encode_envelope,
    encode_facts,
    encode_json,
    packed,
    prices_of,
    replies_to,
)
from streams.core.acceptance import accept_record, dead_letter
from streams.core.owner import Effects, IntakeItem, Unreadable, fold, needed
from streams.core.price_list import PRICES_ID, Prices
from streams.lease import AssignmentEndedError, Lease
from streams.publisher import Publisher
from streams.runtime import CycleCollector
from streams.settings import Settings
from streams.tables import BatchTable, File, day_of, first_offset_of, seen_records, seen_rows
from streams.topics import Topics, partition_of

log = logging.getLogger(__name__)

# Per partition; some 2 KB each.
ACCOUNTS_CACHED_MAX = 5_000

# How long the owner's next batch may wait for those who were answered by the last one.
GATHER_SECONDS = 0.002

# Events go from decoding to encoding in groups of about this size, and the objects of each group take the place of the
# last one's in the processor's cache. Whole batches took nearly twice as long.
PACKED_AT_ONCE = 500
FOLDED_AT_ONCE_BYTES = 64 * 1024


class Accept:
    """Validate usage records, dead-letter what is bad with its reason, pack what is good into envelopes."""

    def __init__(self, settings: Settings, topics: Topics, publisher: Publisher, accounts: BatchTable) -> None:
        self.settings = settings
        self.topics = topics
        self.publisher = publisher
        self._operations = PricedOperations(accounts)

    async def apply(self, events: list[Any]) -> None:
        """Publish the envelopes and dead letters of these usage records; returns once they are acknowledged."""
        envelopes = Envelopes(self.settings.partitions)
        dead: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        operations = self._operations.now()
        for event in events:
            message = event.message
            now_ms = _at_ms(message)
            accepted, rejected = accept_record(message.value, now_ms, operations)
            envelopes.add(accepted)
            for index, text, rejection in rejected:
                letter = dead_letter(text, rejection, message.topic, message.partition, message.offset, index, now_ms)
                dead[message.partition].append((None, encode_json(letter)))
        sends: list[Awaitable[Any]] = [
            self.publisher.send_all(self.topics.intake, partition, records)
            for partition, records in envelopes.records().items()
        ]
        sends += [
            self.publisher.send_all(self.topics.dead_letters, partition, letters) for partition, letters in dead.items()
        ]
        await asyncio.gather(*sends)


class PricedOperations:
    """Every operation that some price book in this process's partitions has a price for."""

    def __init__(self, accounts: BatchTable) -> None:
        self._accounts = accounts
        self._values: list[bytes | None] = []
        self._operations = Prices().operations()

    def now(self) -> frozenset[str]:
        """As the tables are."""
        values = [file.get_many([PRICES_ID.encode()])[0] for file in self._accounts.open_files()]
        if values != self._values:
            self._values = values
            self._operations = Prices().operations()
            for value in values:
                self._operations |= prices_of(value).operations()
        return self._operations


class Envelopes:
    """Packs usage into intake records, by partition, as it comes."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._waiting: dict[int, list[Usage]] = defaultdict(list)
        self._of_project: dict[str, list[Usage]] = {}
        self._records: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)

    def add(self, usages: list[Usage]) -> None:
        """Take these; what has become enough for a record is encoded at once."""
        of_project = self._of_project
        for usage in usages:
            waiting = of_project.get(usage.project)
            if waiting is None:
                waiting = self._waiting[partition_of(usage.project, self._partitions)]
                of_project[usage.project] = waiting
            waiting.append(usage)
        for partition, waiting in self._waiting.items():
            if len(waiting) >= PACKED_AT_ONCE:
                self._pack(partition, waiting)

    def records(self) -> dict[int, list[tuple[bytes | None, bytes]]]:
        """Everything added, by partition, in order."""
        for partition, waiting in self._waiting.items():
            self._pack(partition, waiting)
        return self._records

    def _pack(self, partition: int, waiting: list[Usage]) -> None:
        self._records[partition] += [(None, value) for value in packed(waiting, encode_envelope)]
        waiting.clear()


@dataclass(slots=True)
class Decided:
    """What the records of one partition lead to, its facts as journal records."""

    journal: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    dead_letters: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)
    replies: list[tuple[AnyCommand, Reply]] = field(default_factory=list)

    def add(self, effects: Effects) -> None:
        self.journal += [(None, value) for value in packed(effects.facts, encode_facts)]
        self.dead_letters += [(None, encode_json(letter)) for letter in effects.dead_letters]
        self.accounts.update(effects.accounts)
        self.seen.update(effects.seen)
        self.replies += effects.replies


class IntakeGapError(Exception):
    """Intake records were passed over. Nothing after them may be decided: they could never be applied any more."""


class Tables(Protocol):
    """One of the owner's tables: a file of rows a partition."""

    def file(self, partition: int) -> File:
        """The partition's rows."""


class Decider:
    """Folds the records of a partition over local tables, and writes to none."""

    def __init__(self, settings: Settings, topics: Topics, accounts: Tables, seen: Tables) -> None:
        self._dedup_days = settings.dedup_days
        self._intake_topic = topics.intake
        self.accounts = accounts
        self.seen = seen
        self._cache: dict[int, dict[str, Account]] = defaultdict(dict)

    def forget(self) -> None:
        """What is in memory may not be what is stored."""
        self._cache.clear()

    def decide(self, partition: int, messages: list[Any]) -> Decided:
        """Fold the records of one partition over the local tables, a few at a time."""
        accounts = self._cache[partition]
        if len(accounts) > ACCOUNTS_CACHED_MAX:
            accounts.clear()
        seen: dict[bytes, int] = {}
        since_day = day_of(_at_ms(messages[0])) - self._dedup_days
        decided = Decided()
        for few in _warm(messages):
            items = [IntakeItem(message.offset, _at_ms(message), _intake_body(message)) for message in few]
            self._look_up(partition, items, accounts, seen, since_day)
            decided.add(fold(partition, items, accounts, seen, self._intake_topic))
        return decided

    def _look_up(
        self,
        partition: int,
        items: list[IntakeItem],
        accounts: dict[str, Account],
        seen: dict[bytes, int],
        since_day: int,
    ) -> None:
        """Add what folding the items needs to `accounts` and `seen`, which go before what is stored."""
        projects, hashes = needed(items)
        keys = [project.encode() for project in projects if project not in accounts]
        for value in self.accounts.file(partition).get_many(keys):
            if value is not None:
                account = decode_account(value)
                accounts[account.project] = account
        hash_list = sorted(hashes - seen.keys())
        for dedup, value in zip(hash_list, self.seen.file(partition).get_many(hash_list), strict=True):
            if value is not None and (first_offset := first_offset_of(value, since_day)) is not None:
                seen[dedup] = first_offset


class Owner:
    """Decide intake records and publish what follows: journal and dedup index, then accounts and replies."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        publisher: Publisher,
        accounts: Tables,
        seen: Tables,
        lease: Lease,
        committed: Callable[[int], int | None],
    ) -> None:
        """`committed` tells an intake partition's committed offset, the next one to read, where there is one."""
        self.settings = settings
        self.topics = topics
        self.publisher = publisher
        self.committed = committed
        self.decider = Decider(settings, topics, accounts, seen)
        self.lease = lease
        self._generation = -1
        self._next_offsets: dict[int, int] = {}

    async def apply(self, events: list[Any]) -> None:
        """Apply these intake records; returns once all that follows from them is acknowledged.

        They are of one assignment. Raises, before a write, AssignmentEndedError once that has ended, LeaseLostError
        once the partitions may be another's, and IntakeGapError where a record is missing: intake is written without
        transactions and never compacted, so its offsets have no gaps.
        """
        if events[0].message.generation_id != self._generation:
            # Partitions may have been elsewhere meanwhile, and come back with newer accounts.
            self._generation = events[0].message.generation_id
            self.decider.forget()
            self._next_offsets.clear()
        for event in events:
            message = event.message
            expected = self._next_offsets.get(message.partition)
            if expected is None:
                # Where nothing is committed yet, the first record there is.
                expected = self.committed(message.partition) or 0
            if message.offset > expected:
                raise IntakeGapError(
                    f"intake {message.partition}: {expected} to {message.offset - 1} were not delivered"
                )
            self._next_offsets[message.partition] = message.offset + 1
        # The dedup index tells days apart. A batch of one day decides the same however records are batched.
        for _, same_day in groupby((event.message for event in events), key=lambda message: day_of(_at_ms(message))):
            await self._apply_day(list(same_day))

    async def _apply_day(self, messages: list[Any]) -> None:
        by_partition: dict[int, list[Any]] = defaultdict(list)
        for message in messages:
            by_partition[message.partition].append(message)
        generation = messages[0].generation_id
        try:
            decided = {
                partition: self.decider.decide(partition, messages) for partition, messages in by_partition.items()
            }
            self.lease.check(generation)
            # An account's value says that its records are applied: by then their facts, and what they made seen, must
            # be safe. Without it they are decided again, and give the same facts and the same index.
            seen_offsets = await asyncio.gather(
                *(
                    self._publish_facts(partition, each, by_partition[partition][0])
                    for partition, each in decided.items()
                )
            )
            stored = {
                partition: [(project.encode(), encode_account(account)) for project, account in each.accounts.items()]
                for partition, each in decided.items()
            }
            # Whoever was paused in between, or has given a partition away, must not write accounts that are older than
            # its successor's, nor note their offset as if it had all that is before it.
            self.lease.check(generation)
            await asyncio.gather(
                *(
                    self._store(partition, stored[partition], each.seen, by_partition[partition][0], seen_offset)
                    for (partition, each), seen_offset in zip(decided.items(), seen_offsets, strict=True)
                ),
                # The facts are on the log, so this is how it was decided, whatever becomes of us.
                self._reply([reply for each in decided.values() for reply in each.replies]),
            )
        except BaseException:
            # The accounts in it are changed already, and nothing says that this was ever written.
            self.decider.forget()
            raise

    async def _publish_facts(self, partition: int, decided: Decided, first: Any) -> int | None:
        """Journal, dead letters and dedup index; gives the index's offset in its changelog."""
        # In key order, which is the quickest to write.
        decided.seen = dict(sorted(decided.seen.items()))
        seen = seen_records(decided.seen, day_of(_at_ms(first)), first.offset)
        _, _, seen_offset = await asyncio.gather(
            self.publisher.send_all(self.topics.journal, partition, decided.journal),
            self.publisher.send_all(self.topics.dead_letters, partition, decided.dead_letters),
            self.publisher.send_all(self.topics.seen_changelog, partition, seen),
        )
        return seen_offset

    async def _store(
        self,
        partition: int,
        accounts: list[tuple[bytes, bytes]],
        seen: dict[bytes, int],
        first: Any,
        seen_offset: int | None,
    ) -> None:
        accounts_offset = await self.publisher.send_all(self.topics.accounts_changelog, partition, accounts)
        # Both changelogs have it before either table does: the local tables never lead them.
        if accounts_offset is not None:
            self.decider.accounts.file(partition).write(accounts, accounts_offset)
        if seen_offset is not None:
            self.decider.seen.file(partition).write(seen_rows(seen, day_of(_at_ms(first))), seen_offset)

    async def _reply(self, replies: list[tuple[AnyCommand, Reply]]) -> None:
        """Those of one process together, in as few records as they fit in."""
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


def _intake_body(message: Any) -> IntakeRecord | Unreadable:
    """What a record says. Only accept and the API write intake, but what can't be read must not stop the partition."""
    try:
        return decode_intake(message.value)
    except (msgspec.DecodeError, TypeError) as error:
        log.error("intake %s-%s can't be read: %s", message.partition, message.offset, error)
        return Unreadable(message.value or b"", str(error))


def _at_ms(message: Any) -> int:
    at_seconds: float = message.timestamp
    return round(at_seconds * 1000)


def _warm(messages: list[Any]) -> Iterator[list[Any]]:
    """The messages, in order, so few at a time that what becomes of them stays in the processor's cache."""
    few: list[Any] = []
    size = 0
    for message in messages:
        few.append(message)
        size += len(message.value or b"")
        if size >= FOLDED_AT_ONCE_BYTES:
            yield few
            few, size = [], 0
    if few:
        yield few


async def work(
    stream: Any,
    records_max: int,
    is_current: Callable[[Any], bool],
    apply: Callable[[list[Any]], Awaitable[None]],
    gather_seconds: float = 0.0,
) -> None:
    """Take what has arrived, apply it as one batch, acknowledge it in order; forever. See `batches`.

    Records of an assignment that has ended are let go unacknowledged: their new owner has them.
    """
    collector = CycleCollector()
    async for batch in batches(stream, records_max, gather_seconds):
        newest = batch[-1].message.generation_id
        current = [event for event in batch if event.message.generation_id == newest and is_current(event)]
        if current:
            try:
                await apply(current)
            except AssignmentEndedError as ended:
                log.info("%s records are let go: %s", len(current), ended)
                continue
            for event in current:
                event.ack()
            collector.tick()


async def batches(stream: Any, records_max: int, gather_seconds: float = 0.0) -> AsyncIterator[list[Any]]:
    """Lists of at most `records_max` events: waits for the first and takes those that are there already.

    Nothing polls: an idle worker sleeps, and a record that comes alone is not kept waiting for company. But where the
    last batch was of several, and fewer wait now, others are given `gather_seconds` to join: who was answered by that
    batch asks again about now, and two small batches cost nearly twice as much as one.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=2 * records_max)

    async def read() -> None:
        async for event in stream.noack().events():
            await queue.put(event)

    reader = asyncio.create_task(read())
    last = 0
    try:
        while True:
            taking = asyncio.ensure_future(queue.get())
            await asyncio.wait({taking, reader}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                reader.result()
                return
            batch = [taking.result()]
            if gather_seconds and 1 + queue.qsize() < last:
                await asyncio.sleep(gather_seconds)
            while len(batch) < records_max and not queue.empty():
                batch.append(queue.get_nowait())
            last = len(batch)
            yield batch
    finally:
        reader.cancel()
