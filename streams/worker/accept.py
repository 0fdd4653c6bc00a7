"""Accept: usage records are validated, dead-lettered with a reason, or packed into intake envelopes."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable
from typing import Any

from schemas.events import Usage
from schemas.problems import Rejection
from streams.core.acceptance import accept_record, dead_letter, named
from streams.core.cloudevents import accept_binary, kafka_attributes
from streams.core.foreign import why_unreadable
from streams.core.price_list import PRICES_ID, Prices
from streams.kafka.codecs import encode_json, prices_of
from streams.kafka.envelopes import Envelopes
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.worker.batches import time_of
from streams.worker.tables import BatchTable

log = logging.getLogger(__name__)

# After a record as large as this, whatever else waits in the worker's loop has its turn.
BYTES_AT_ONCE_MAX = 64 * 1024


class Accept:
    """Accept validates usage records, dead-letters bad events with the reason, and packs good ones into envelopes."""

    def __init__(self, settings: Settings, topics: Topics, publisher: Publisher, accounts: BatchTable) -> None:
        self.settings = settings
        self.topics = topics
        self.publisher = publisher
        self._operations = PricedOperations(accounts)

    async def apply(self, events: list[Any]) -> None:
        """Publish the envelopes and dead letters of usage records; returns once they are acknowledged."""
        envelopes = Envelopes(self.settings.partitions)
        dead: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        operations = self._operations.now()
        for event in events:
            message = event.message
            try:
                accepted, letters = self._read(message, operations)
            except MemoryError:
                raise
            except Exception as error:
                log.exception("usage %s-%s is a dead letter", message.partition, message.offset)
                accepted, letters = [], [self._letter(message, 0, message.value or b"", _unprocessable(error))]
            envelopes.add(accepted)
            dead[message.partition] += letters
            if len(message.value or b"") > BYTES_AT_ONCE_MAX:
                await asyncio.sleep(0)  # the owner has its turn between large records
        sends: list[Awaitable[Any]] = [
            self.publisher.send_all(self.topics.intake, partition, records)
            for partition, records in envelopes.records().items()
        ]
        sends += [
            self.publisher.send_all(self.topics.dead_letters, partition, letters) for partition, letters in dead.items()
        ]
        await asyncio.gather(*sends)

    def _read(self, message: Any, operations: frozenset[str]) -> tuple[list[Usage], list[tuple[bytes | None, bytes]]]:
        """The good events of a record, and the dead letters of the others."""
        value = message.value or b""
        now_ms, events_max = time_of(message), self.settings.events_per_record_max
        try:
            attributes = kafka_attributes(message.headers) if message.headers else None
        except Rejection as rejection:
            return [], [self._letter(message, 0, value, rejection)]
        if attributes is not None:
            accepted, rejected = accept_binary(attributes, value, now_ms, operations)
        else:
            accepted, rejected = accept_record(value, now_ms, operations, events_max=events_max)
        return accepted, [self._letter(message, *each) for each in named(value, rejected)] if rejected else []

    def _letter(self, message: Any, index: int, text: bytes, rejection: Rejection) -> tuple[None, bytes]:
        """The record of a dead letter: an event of a message, and why it is refused."""
        now_ms = time_of(message)
        letter = dead_letter(text, rejection, message.topic, message.partition, message.offset, index, now_ms)
        return None, encode_json(letter)


def _unprocessable(error: Exception) -> Rejection:
    return Rejection("unprocessable_record", f"Reading it failed: {why_unreadable(error)}")


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
