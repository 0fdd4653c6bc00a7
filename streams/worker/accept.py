"""Accept: usage records are validated, dead-lettered with a reason, or packed into intake envelopes."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import Any

from schemas.events import EVENT_BYTES_MIN, PACKED_EVENT_BYTES_MIN
from schemas.problems import Rejection
from streams.core.acceptance import Accepted, accepting, dead_letter, named, unprocessable
from streams.core.cloudevents import accept_binary, kafka_attributes
from streams.core.packed_usage import accept_pack
from streams.core.price_list import PRICES_ID, Prices
from streams.kafka.codecs import encode_json, prices_of, usage_body
from streams.kafka.envelopes import Envelopes
from streams.kafka.formats import MARK, FormatError
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.slices import in_slices
from streams.worker.batches import time_of
from streams.worker.tables import BatchTable

log = logging.getLogger(__name__)

# After records of so many bytes the owner, and whatever else waits in the worker's loop, has its turn.
BYTES_AT_ONCE = 256 * 1024

Records = dict[int, list[tuple[bytes | None, bytes]]]


class Accept:
    """Accept validates usage records, dead-letters bad events with the reason, and packs good ones into envelopes."""

    def __init__(self, settings: Settings, topics: Topics, publisher: Publisher, accounts: BatchTable) -> None:
        self.settings = settings
        self.topics = topics
        self.publisher = publisher
        self._operations = PricedOperations(accounts)

    async def apply(self, events: list[Any]) -> None:
        """Publish the envelopes and dead letters of usage records; returns once they are acknowledged."""
        operations = self._operations.now()
        messages = [event.message for event in events]
        try:
            found = [await self._read(messages, operations)]
        except MemoryError:
            raise
        except Exception:
            # Nothing is written yet, and reading is pure: the fault is in a record, or in how we read it. The one that
            # fails by itself is a dead letter; the others go on.
            log.exception("%s usage records can't be read together; each is read by itself", len(messages))
            found = [await self._read_alone(message, operations) for message in messages]
        await asyncio.gather(
            *(
                self.publisher.send_all(topic, partition, records)
                for both in found
                for topic, by_partition in zip((self.topics.intake, self.topics.dead_letters), both, strict=True)
                for partition, records in by_partition.items()
            )
        )

    async def _read(self, messages: list[Any], operations: frozenset[str]) -> tuple[Records, Records]:
        """The envelopes and the dead letters of usage records, by partition."""
        envelopes = Envelopes(self.settings.partitions)
        dead: Records = defaultdict(list)
        size = 0
        for message in messages:
            now_ms = time_of(message)
            value = message.value or b""
            accepted, rejected = await self._events_of(message, operations)
            envelopes.add(accepted)
            bytes_min = PACKED_EVENT_BYTES_MIN if value.startswith(MARK) else EVENT_BYTES_MIN
            for index, text, rejection in named(value, rejected, bytes_min):
                letter = dead_letter(text, rejection, message.topic, message.partition, message.offset, index, now_ms)
                dead[message.partition].append((None, encode_json(letter)))
            size += len(value)
            if size > BYTES_AT_ONCE:
                await asyncio.sleep(0)
                size = 0
        return envelopes.records(), dead

    async def _events_of(self, message: Any, operations: frozenset[str]) -> Accepted:
        """The good and the bad events of a record, which is one event in binary mode or in structured mode, or many, or
        a pack of our own producers'."""
        value = message.value or b""
        try:
            attributes = kafka_attributes(message.headers) if message.headers else None
        except Rejection as rejection:
            return [], [(0, value, rejection)]
        if attributes is not None:
            return accept_binary(attributes, value, time_of(message), operations)
        events_max = self.settings.events_per_record_max
        if value.startswith(MARK):
            try:
                body = usage_body(value)
            except FormatError as error:
                # Anybody may write here, so a number alone is no reason to stop.
                return [], [(0, value, Rejection("unreadable_record", str(error)))]
            return await in_slices(accept_pack(body, time_of(message), operations, events_max))
        return await in_slices(accepting(value, time_of(message), operations, events_max=events_max))

    async def _read_alone(self, message: Any, operations: frozenset[str]) -> tuple[Records, Records]:
        try:
            return await self._read([message], operations)
        except MemoryError:
            raise
        except Exception as error:
            place = message.topic, message.partition, message.offset
            log.exception("record %s-%s at %s is a dead letter: it can't be read", *place)
            letter = dead_letter(message.value or b"", unprocessable(error), *place, 0, time_of(message))
            return {}, {message.partition: [(None, encode_json(letter))]}


class PricedOperations:
    """PricedOperations knows all operations that some price book in this process's partitions has a price for."""

    def __init__(self, accounts: BatchTable) -> None:
        self._accounts = accounts
        self._values: list[bytes | None] = []
        self._operations = Prices().operations()

    def now(self) -> frozenset[str]:
        """The operations that have a price in the price lists this process holds now."""
        values = [file.get_many([PRICES_ID.encode()])[0] for file in self._accounts.open_files()]
        if values != self._values:
            self._values = values
            self._operations = Prices().operations()
            for value in values:
                self._operations |= prices_of(value).operations()
        return self._operations
