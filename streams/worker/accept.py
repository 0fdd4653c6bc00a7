"""Accept: usage records are validated, dead-lettered with a reason, or packed into intake envelopes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from typing import Any

from streams.core.acceptance import accept_record, dead_letter
from streams.core.price_list import PRICES_ID, Prices
from streams.kafka.codecs import encode_json, prices_of
from streams.kafka.envelopes import Envelopes
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.worker.batches import time_of
from streams.worker.tables import BatchTable


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
            now_ms = time_of(message)
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
