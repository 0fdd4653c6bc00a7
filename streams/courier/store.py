"""The courier's state of one partition: deliveries that wait and how others ended, its endpoints' health, and how far
the journal was read. It is a local file with a changelog, as the owner's accounts are: the changelog is written first.

Each value bears the epoch of the courier that wrote it, which rises with each that gets the partition. So what a
courier writes that was paused, and does not know that it has lost the partition, is older than its successor's.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.courier import CourierRecord, Delivery, EndedDelivery, EndpointHealth, JournalMark, WantedReplay
from streams.core.foreign import UnreadableError
from streams.kafka.codecs import check_courier, decode_courier, encode_courier, epoch_of
from streams.kafka.publisher import Publisher
from streams.kafka.stored import other_timelines
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.damage import opened
from streams.state.rocks import VersionedFile

log = logging.getLogger(__name__)

# How long it is known how a delivery ended: for a replay of those that failed, and so that none is made twice.
KEPT_MS = 30 * 86_400_000
_MARK = b"mark"
_WAITS, _ENDED, _HEALTH, _REPLAY = b"waits", b"ended", b"health", b"replay"
_POLL_MS = 200
_RECORDS_MAX = 4000
_AT_ONCE = 500

R = TypeVar("R", Delivery, EndedDelivery, EndpointHealth, JournalMark, WantedReplay)
# A record and its key, or None where what the key had is no more.
Change = tuple[bytes, CourierRecord | None]


def waiting_key(endpoint_id: str, notice_id: str) -> bytes:
    """The key of a delivery that waits."""
    return b"\0".join((_WAITS, endpoint_id.encode(), notice_id.encode()))


def ended_key(endpoint_id: str, notice_id: str) -> bytes:
    """The key of a delivery that has ended."""
    return b"\0".join((_ENDED, endpoint_id.encode(), notice_id.encode()))


def health_key(endpoint_id: str) -> bytes:
    """The key of an endpoint's health."""
    return b"\0".join((_HEALTH, endpoint_id.encode()))


def replay_key(fact_id: str) -> bytes:
    """The key of the replay that a fact asked for."""
    return b"\0".join((_REPLAY, fact_id.encode()))


def ended(delivery: Delivery, is_delivered: bool, attempts: int, at_ms: int) -> list[Change]:
    """The changes by which a delivery ends."""
    notice, endpoint_id = delivery.notice, delivery.endpoint_id
    return [
        (ended_key(endpoint_id, notice.id), EndedDelivery(is_delivered, attempts, notice.at_ms, at_ms)),
        (waiting_key(endpoint_id, notice.id), None),
    ]


def again(delivery: Delivery) -> list[Change]:
    """The changes by which a delivery that had ended, or was not there, waits."""
    notice_id, endpoint_id = delivery.notice.id, delivery.endpoint_id
    return [(waiting_key(endpoint_id, notice_id), delivery), (ended_key(endpoint_id, notice_id), None)]


class DeliveryStore:
    """A DeliveryStore is opened, brought up to date by `recover`, and claimed; then it is read and written. Writes that
    come while one is on its way go together. Before each, `check` raises where the partition is another's by now."""

    def __init__(
        self, settings: Settings, publisher: Publisher, partition: int, check: Callable[[], None] = lambda: None
    ) -> None:
        topics = topics_of(settings)
        self.place = TopicPartition(topics.courier_changelog, partition)
        self.epoch = 0
        self._reports = topics.deliveries
        self._publisher = publisher
        self._check = check
        self._path = settings.courier_dir / f"deliveries-{partition}"
        self._file = opened(VersionedFile, self._path)
        self._queue: list[tuple[Sequence[Change], Sequence[bytes], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False

    def changelog_offset(self) -> int | None:
        """The offset of the newest changelog record that the file has."""
        return self._file.changelog_offset()

    def has(self, key: bytes, value: bytes | None) -> bool:
        """Whether a key has just this value."""
        return self._file.get_many([key]) == [value]

    def begin_anew(self) -> None:
        """Forget all that the file has."""
        self._file.close()
        shutil.rmtree(self._path)
        self._file = opened(VersionedFile, self._path)

    def merge(self, records: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        """Take over records of the changelog, the newest of which has this offset. Raises FormatError."""
        records = list(records)
        for _, value in records:
            if value is not None:
                check_courier(value)
        self._file.merge(records, offset)

    async def claim(self) -> JournalMark:
        """Begin an epoch; gives how far the journal was read."""
        (value,) = self._file.get_many([_MARK])
        mark = self._decoded(_MARK, value, JournalMark) or JournalMark(0, 0)
        self.epoch = max(mark.epoch, epoch_of(value) if value else 0) + 1
        mark = JournalMark(self.epoch, mark.journal_offset, mark.offset, mark.index)
        await self.write([(_MARK, mark)])
        return mark

    def mark(self, journal_offset: int, place: tuple[int, int]) -> Change:
        """The change that notes how far the journal was read."""
        return _MARK, JournalMark(self.epoch, journal_offset, *place)

    def waiting(self) -> Generator[None, None, list[Delivery]]:
        """The deliveries that wait, read in steps."""
        found = yield from self._items(_WAITS, Delivery)
        # What an earlier courier wrote last may have come behind what its successor wrote of how the delivery ended.
        return [each for key, each in found if not self._has_ended(key, each)]

    def _has_ended(self, key: bytes, delivery: Delivery) -> bool:
        keys = [key, ended_key(delivery.endpoint_id, delivery.notice.id)]
        waits, end = self._file.get_many(keys)
        return waits is not None and end is not None and epoch_of(end) > epoch_of(waits)

    def health(self) -> Generator[None, None, list[tuple[str, EndpointHealth]]]:
        """The health of endpoints that are not sound, each with its endpoint's id, read in steps."""
        found = yield from self._items(_HEALTH, EndpointHealth)
        return [(key.partition(b"\0")[2].decode(errors="replace"), health) for key, health in found]

    def replays(self) -> Generator[None, None, list[tuple[bytes, WantedReplay]]]:
        """The replays that are not done, each with its key, read in steps."""
        return self._items(_REPLAY, WantedReplay)

    def delivery(self, endpoint_id: str, notice_id: str) -> Delivery | None:
        """The delivery of a notice to an endpoint that waits, or None where none does."""
        key = waiting_key(endpoint_id, notice_id)
        return self._decoded(key, self._file.get_many([key])[0], Delivery)

    def ended(self, endpoint_id: str, notice_id: str) -> EndedDelivery | None:
        """How a delivery ended, or None where it has not, or nobody knows any more."""
        key = ended_key(endpoint_id, notice_id)
        return self._decoded(key, self._file.get_many([key])[0], EndedDelivery)

    def is_known(self, endpoint_id: str, notice_id: str) -> bool:
        """Whether there is, or was, a delivery of a notice to an endpoint."""
        keys = [waiting_key(endpoint_id, notice_id), ended_key(endpoint_id, notice_id)]
        return any(value is not None for value in self._file.get_many(keys))

    def expired(self, at_ms: int) -> Generator[None, None, list[bytes]]:
        """The keys of deliveries that ended more than KEPT_MS ago, read in steps."""
        keys = []
        for number, (key, value) in enumerate(self._rows(_ENDED)):
            if not number % _AT_ONCE:
                yield
            record = self._decoded(key, value, EndedDelivery)
            if record is None or record.ended_at_ms < at_ms - KEPT_MS:
                keys.append(key)
        return keys

    async def write(self, changes: Sequence[Change], reports: Sequence[bytes] = ()) -> None:
        """Write changes and reports of attempts; returns once all are on the log, the reports first, and the changes in
        the file. Raises KafkaError where that is not known, and what `check` does."""
        if self._is_closed:
            raise RuntimeError(f"the courier's state of partition {self.place.partition} is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((changes, reports, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_queued())
        await done

    async def close(self) -> None:
        """Let what is being written end, and close the file."""
        self._is_closed = True
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        self._file.close()

    async def _write_queued(self) -> None:
        while self._queue:
            some, self._queue = self._queue, []
            rows = [
                (key, None if record is None else encode_courier(record, self.epoch))
                for changes, _, _ in some
                for key, record in changes
            ]
            try:
                self._check()
                reports = [(None, report) for _, each, _ in some for report in each]
                # A report is repeated where the change was lost.
                if reports:
                    await self._publisher.send_all(self._reports, self.place.partition, reports)
                    # It may have taken long, as a paused process does.
                    self._check()
                offset = await self._publisher.send_all(self.place.topic, self.place.partition, rows)
                self._file.write(rows, offset)
            except Exception as error:
                for _, _, done in some:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, _, done in some:
                    if not done.done():
                        done.set_result(None)

    def _rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        first = prefix + b"\0"
        for key, value in self._file.items(first):
            if not key.startswith(first):
                return
            yield key, value

    def _items(self, prefix: bytes, kind: type[R]) -> Generator[None, None, list[tuple[bytes, R]]]:
        found: list[tuple[bytes, R]] = []
        for number, (key, value) in enumerate(self._rows(prefix)):
            if not number % _AT_ONCE:
                yield
            record = self._decoded(key, value, kind)
            if record is not None:
                found.append((key, record))
        return found

    def _decoded(self, key: bytes, value: bytes | None, kind: type[R]) -> R | None:
        """The record in a stored value; None, and a line in the log, where it can't be read."""
        if value is None:
            return None
        try:
            record: Any = decode_courier(value)
        except UnreadableError as error:
            log.error("the courier's record %r is passed over: %s", key, error)
            return None
        if not isinstance(record, kind):
            log.error("the courier's record %r is passed over: it is a %s", key, type(record).__name__)
            return None
        return record


async def recover(settings: Settings, stores: Sequence[DeliveryStore]) -> None:
    """Bring stores up to their changelogs' present ends. One that is of another Kafka, or of one restored from an older
    backup, is read anew."""
    by_place = {store.place: store for store in stores}
    held = {place: at for place, store in by_place.items() if (at := store.changelog_offset()) is not None}
    for place in await other_timelines(settings, held, lambda record: _has(by_place, record)):
        log.warning("the local copy of %s-%s is not of this Kafka; it is read anew", place.topic, place.partition)
        by_place[place].begin_anew()
    consumer = AIOKafkaConsumer(
        **kafka_client_settings(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    await consumer.start()
    try:
        consumer.assign(list(by_place))
        ends = await consumer.end_offsets(list(by_place))
        for place, store in by_place.items():
            at = store.changelog_offset()
            consumer.seek(place, 0 if at is None else at + 1)
        left = {place for place in by_place if ends[place] > 0}
        while left:
            for place, records in (await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)).items():
                # A record without a key is none of ours, whoever wrote it.
                rows = [(record.key, record.value) for record in records if record.key]
                by_place[place].merge(rows, records[-1].offset)
                await asyncio.sleep(0)
            # The position tells, not the records: the last of them may be compacted away.
            left = {place for place in left if await consumer.position(place) < ends[place]}
    finally:
        await consumer.stop()


def _has(stores: dict[TopicPartition, DeliveryStore], record: Any) -> bool:
    return stores[TopicPartition(record.topic, record.partition)].has(record.key, record.value)


def directory_of(settings: Settings) -> Path:
    """The directory of a courier's copy of the accounts."""
    return settings.courier_dir / "accounts"
