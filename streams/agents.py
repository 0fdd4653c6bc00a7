"""The flow, in one place: accept what producers send, decide it, publish what follows.

`accept` reads usage and writes intake. `owner` reads intake and is the single writer of every account in its
partitions. Both acknowledge a record only when all that follows from it is acknowledged by the brokers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from schemas.commands import Envelope, IntakeRecord
from schemas.events import Usage
from schemas.ledger import Account
from schemas.prices import FIRST_PRICE_BOOK
from streams.codecs import (
    decode_account,
    decode_intake,
    encode,
    encode_account,
    encode_json,
    fact_bytes,
    packed,
    usage_bytes,
)
from streams.core.acceptance import accept_record, dead_letter
from streams.core.owner import Effects, IntakeItem, Unreadable, fold, needed
from streams.lease import Lease
from streams.publisher import Publisher
from streams.runtime import CycleCollector
from streams.settings import Settings
from streams.tables import BatchTable, day_of, first_offset_of, seen_records, seen_rows
from streams.topics import Topics, partition_of

log = logging.getLogger(__name__)

# Per partition; some 2 KB each.
ACCOUNTS_CACHED_MAX = 5_000


class Accept:
    """Validate usage records, dead-letter what is bad with its reason, pack what is good into envelopes."""

    def __init__(self, settings: Settings, topics: Topics, publisher: Publisher) -> None:
        self.settings = settings
        self.topics = topics
        self.publisher = publisher

    async def apply(self, events: list[Any]) -> None:
        """Publish the envelopes and dead letters of these usage records; returns once they are acknowledged."""
        by_partition: dict[int, list[Usage]] = defaultdict(list)
        dead: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        for event in events:
            message = event.message
            now_ms = round(message.timestamp * 1000)
            accepted, rejected = accept_record(message.value, now_ms, FIRST_PRICE_BOOK.rates)
            for usage in accepted:
                by_partition[partition_of(usage.project, self.settings.partitions)].append(usage)
            for index, text, rejection in rejected:
                letter = dead_letter(text, rejection, message.topic, message.partition, message.offset, index, now_ms)
                dead[message.partition].append((None, encode_json(letter)))
        sends: list[Awaitable[Any]] = [
            self.publisher.send_all(self.topics.intake, partition, envelopes(usages))
            for partition, usages in by_partition.items()
        ]
        sends += [
            self.publisher.send_all(self.topics.dead_letters, partition, letters) for partition, letters in dead.items()
        ]
        await asyncio.gather(*sends)


class IntakeGapError(Exception):
    """Intake records were passed over. Nothing after them may be decided: they could never be applied any more."""


class Owner:
    """Decide intake records and publish what follows: journal, then changelogs, then local tables, then replies."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        publisher: Publisher,
        accounts: BatchTable,
        seen: BatchTable,
        lease: Lease,
    ) -> None:
        self.settings = settings
        self.topics = topics
        self.publisher = publisher
        self.accounts = accounts
        self.seen = seen
        self.lease = lease
        self._cache: dict[int, dict[str, Account]] = defaultdict(dict)
        self._generation = -1
        self._next_offsets: dict[int, int] = {}

    async def apply(self, events: list[Any]) -> None:
        """Apply these intake records; returns once all that follows from them is acknowledged.

        Raises, before a write, LeaseLostError once the partitions may be another's, and IntakeGapError where a record
        is missing: intake is written without transactions and never compacted, so its offsets have no gaps.
        """
        by_partition: dict[int, list[IntakeItem]] = defaultdict(list)
        if events[0].message.generation_id != self._generation:
            # Partitions may have been elsewhere meanwhile, and come back with newer accounts.
            self._generation = events[0].message.generation_id
            self._cache.clear()
            self._next_offsets.clear()
        for event in events:
            message = event.message
            expected = self._next_offsets.get(message.partition, message.offset)
            if message.offset > expected:
                raise IntakeGapError(
                    f"intake {message.partition}: {expected} to {message.offset - 1} were not delivered"
                )
            self._next_offsets[message.partition] = message.offset + 1
            by_partition[message.partition].append(
                IntakeItem(message.offset, round(message.timestamp * 1000), _intake_body(message))
            )
        try:
            effects = {partition: self.decide(partition, items) for partition, items in by_partition.items()}
            self.lease.check()
            await asyncio.gather(*(self._publish_facts(partition, each) for partition, each in effects.items()))
            self.lease.check()
            await asyncio.gather(
                *(self._store(partition, each, by_partition[partition]) for partition, each in effects.items())
            )
        except BaseException:
            # The accounts in it are changed already, and nothing says that this was ever written.
            self._cache.clear()
            raise
        await self._reply([reply for each in effects.values() for reply in each.replies])

    def decide(self, partition: int, items: list[IntakeItem]) -> Effects:
        """Read what the items need from the local tables, and fold them over it."""
        projects, hashes = needed(items)
        accounts = self._cache[partition]
        if len(accounts) > ACCOUNTS_CACHED_MAX:
            accounts.clear()
        keys = [project.encode() for project in projects if project not in accounts]
        for value in self.accounts.file(partition).get_many(keys):
            if value is not None:
                account = decode_account(value)
                accounts[account.project] = account
        hash_list = sorted(hashes)
        since_day = day_of(items[0].at_ms) - self.settings.dedup_days
        seen: dict[bytes, int] = {}
        for dedup, value in zip(hash_list, self.seen.file(partition).get_many(hash_list), strict=True):
            if value is not None and (first_offset := first_offset_of(value, since_day)) is not None:
                seen[dedup] = first_offset
        return fold(partition, items, accounts, seen, FIRST_PRICE_BOOK, self.topics.intake)

    async def _publish_facts(self, partition: int, effects: Effects) -> None:
        records = [(None, encode(pack)) for pack in packed(effects.facts, fact_bytes)]
        letters = [(None, encode_json(letter)) for letter in effects.dead_letters]
        await asyncio.gather(
            self.publisher.send_all(self.topics.journal, partition, records),
            self.publisher.send_all(self.topics.dead_letters, partition, letters),
        )

    async def _store(self, partition: int, effects: Effects, items: list[IntakeItem]) -> None:
        day = day_of(items[0].at_ms)
        accounts = [(project.encode(), encode_account(account)) for project, account in effects.accounts.items()]
        seen = list(seen_records(effects.seen, day, items[0].offset))
        # The index first: an account's value says that its records are applied, so what they made seen must be safe by
        # then. And both are acknowledged before either is applied: the local tables never lead their changelogs.
        seen_offset = await self.publisher.send_all(self.topics.seen_changelog, partition, seen)
        accounts_offset = await self.publisher.send_all(self.topics.accounts_changelog, partition, accounts)
        if accounts_offset is not None:
            self.accounts.file(partition).write(accounts, accounts_offset)
        if seen_offset is not None:
            self.seen.file(partition).write(seen_rows(effects.seen, day), seen_offset)

    async def _reply(self, replies: list[tuple[int, Any]]) -> None:
        by_partition: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        for partition, reply in replies:
            by_partition[partition % self.settings.partitions].append((None, encode(reply)))
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


def envelopes(usages: list[Usage]) -> list[tuple[bytes | None, bytes]]:
    """Intake records for one partition's usage, in order."""
    return [(None, encode(Envelope(pack))) for pack in packed(usages, usage_bytes)]


async def work(
    stream: Any, records_max: int, is_current: Callable[[Any], bool], apply: Callable[[list[Any]], Awaitable[None]]
) -> None:
    """Take what has arrived, apply it as one batch, acknowledge it in order; forever.

    Records of an assignment that has ended are let go unacknowledged: their new owner has them.
    """
    collector = CycleCollector()
    async for batch in batches(stream, records_max):
        current = [event for event in batch if is_current(event)]
        if current:
            await apply(current)
            for event in current:
                event.ack()
            collector.tick()


async def batches(stream: Any, records_max: int) -> AsyncIterator[list[Any]]:
    """Lists of at most `records_max` events: waits for the first and takes those that are there already.

    Nothing polls: an idle worker sleeps, and a record that comes alone is not kept waiting for company.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=2 * records_max)

    async def read() -> None:
        async for event in stream.noack().events():
            await queue.put(event)

    reader = asyncio.create_task(read())
    try:
        while True:
            taking = asyncio.ensure_future(queue.get())
            await asyncio.wait({taking, reader}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                reader.result()
                return
            batch = [taking.result()]
            while len(batch) < records_max and not queue.empty():
                batch.append(queue.get_nowait())
            yield batch
    finally:
        reader.cancel()
