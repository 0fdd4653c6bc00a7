"""Clocks: an intake record that Kafka dates far ahead of this machine's clock stops the worker before it is decided.

The record's time is the time of the decision, for good: an account that was decided on in the year 2030 renews, expires
and counts its window from there, and no later record can take it back. One of the two clocks is wrong then, and the
worker can't tell which.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from schemas.times import utc
from streams.errors import OperatorError
from streams.kafka.clock import now_ms
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from streams.worker.batches import time_of


class ClockAheadError(OperatorError):
    """An intake record is dated too far ahead. Nothing of its batch is decided, and no fact is written for it."""

    def __init__(self, place: str, at_ms: int, clock_ms: int) -> None:
        super().__init__(
            f"Kafka's clock is ahead: {place} is of {utc(at_ms)}, and here it is {utc(clock_ms)}. Nothing is decided "
            "until that is put right: set the clock that is wrong (docs/operators.md, Clocks)"
        )


class Clocks:
    """Clocks compares the times of intake records with this machine's clock."""

    def __init__(self, settings: Settings, clock: Callable[[], int] = now_ms) -> None:
        """`clock` gives the time now, in Unix milliseconds."""
        self._ahead_ms_max = round(settings.clock_ahead_seconds_max * 1000)
        self._clock = clock

    def check(self, messages: Iterable[Any]) -> None:
        """Raise ClockAheadError where a message is dated further ahead than the setting allows."""
        clock_ms = self._clock()
        for message in messages:
            if time_of(message) > clock_ms + self._ahead_ms_max:
                raise ClockAheadError(
                    f"{message.topic}-{message.partition} at {message.offset}", time_of(message), clock_ms
                )

    def before(self, apply: Callable[[list[Any]], Awaitable[None]]) -> Callable[[list[Any]], Awaitable[None]]:
        """A function that applies events as `apply` does, once their times have been checked."""

        async def check_and_apply(events: list[Any]) -> None:
            self.check(event.message for event in events)
            await apply(events)

        return check_and_apply


async def check_clocks(settings: Settings) -> None:
    """Refuse to start where an intake record that waits to be decided is dated too far ahead; see ClockAheadError."""
    topics = topics_of(settings)
    waiting = [TopicPartition(topics.intake, number) for number in range(settings.partitions)]
    client = kafka_client_settings(settings)
    admin, consumer = AIOKafkaAdminClient(**client), AIOKafkaConsumer(**client)
    try:
        await consumer.start()
        clock_ms = now_ms()
        from_ms = clock_ms + round(settings.clock_ahead_seconds_max * 1000) + 1
        found = await consumer.offsets_for_times(dict.fromkeys(waiting, from_ms))
        ahead = {tp: first for tp, first in found.items() if first is not None}
        if not ahead:
            return
        await admin.start()
        committed = await _committed(admin, topics.worker_app, list(ahead))
        for tp, first in ahead.items():
            if first.offset >= committed.get(tp, 0):
                raise ClockAheadError(f"{tp.topic}-{tp.partition} at {first.offset}", first.timestamp, clock_ms)
    finally:
        await consumer.stop()
        await admin.close()


async def _committed(admin: AIOKafkaAdminClient, group: str, places: list[TopicPartition]) -> dict[TopicPartition, int]:
    try:
        offsets = await admin.list_consumer_group_offsets(group, partitions=places)
    except GroupCoordinatorNotAvailableError:
        return {}  # no group has ever committed anything on this Kafka
    return {tp: each.offset for tp, each in offsets.items()}
