"""The accounts view: a read-only copy of every account, from the accounts changelog, to look up balances and keys in.

The copy is kept on disk with the offset it has been brought up to, so a restart reads only what is new. The view knows
how far behind it is.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.accounts import Account
from schemas.problems import Rejection
from streams.core.foreign import UnreadableError
from streams.core.price_list import PRICES_ID, Prices
from streams.core.projects import BILLING_PREFIX
from streams.errors import OperatorError
from streams.kafka.codecs import check_account, decode_account, offset_of_account, prices_of
from streams.kafka.formats import FormatError
from streams.kafka.pace import FetchPace
from streams.kafka.stored import other_timelines
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, partition_of, topics_of
from streams.settings import Settings
from streams.space import no_space
from streams.state.damage import opened
from streams.state.directory import claim
from streams.state.rocks import VersionedFile

log = logging.getLogger(__name__)

_FETCH_WAIT_MS = 100
# Nobody asks how old a copy is more often than this; a change ends the wait.
_IDLE_FETCH_WAIT_MS = 300
# While accounts change all the time, the changes of this long are taken together: an account that changed often is
# written once then, and the broker is asked less. The first change after a rest is taken at once. Any longer, and who
# lists what was just made would miss it.
_GATHER_SECONDS = 0.01
_RECORDS_MAX = 5000
_SILENCE_SECONDS_MAX = 30.0


class AccountsView:
    """An AccountsView follows the accounts changelog. `get` is a local read; `lag_ms` bounds how old its answer may
    be."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        self._topic = topics_of(settings).accounts_changelog
        self._directory = directory
        self._files: dict[int, VersionedFile] = {}
        self._caught_up_at: dict[int, float] = {}
        self._positions: dict[int, int] = {}
        # When a change of an account was read last.
        self.read_at: float | None = None
        self._prices = Prices()
        self._prices_value: bytes | None = None
        self._advanced = asyncio.Condition()
        # Who waits for which record in which account: waking all of them for each record would cost more than they do.
        self._waiting: set[tuple[str, int, asyncio.Future[None]]] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the copy and begin to follow the changelog; `is_ready` once it has caught up."""
        await claim(self._directory, self._settings)
        consumer = self._consumer = AIOKafkaConsumer(
            **kafka_client_settings(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await consumer.start()
        partitions = [TopicPartition(self._topic, number) for number in range(self._settings.partitions)]
        consumer.assign(partitions)
        for tp in partitions:
            self._open(tp.partition)
        await self._drop_other_timelines(partitions)
        for tp in partitions:
            held = self._files[tp.partition].changelog_offset()
            self._positions[tp.partition] = 0 if held is None else held + 1
            consumer.seek(tp, self._positions[tp.partition])
        self._reader = asyncio.create_task(self._follow_or_tell(consumer, partitions))

    def _open(self, partition: int) -> None:
        self._files[partition] = opened(VersionedFile, self._path(partition))

    def _path(self, partition: int) -> Path:
        return self._directory / f"accounts-{partition}"

    async def _drop_other_timelines(self, partitions: list[TopicPartition]) -> None:
        """Begin anew the files that hold what the changelog does not: Kafka was restored from an older backup."""
        offsets = {tp: self._files[tp.partition].changelog_offset() for tp in partitions}

        def is_held(record: Any) -> bool:
            return self._files[record.partition].get_many([record.key]) == [record.value]

        held = {tp: offset for tp, offset in offsets.items() if offset is not None}
        for tp in await other_timelines(self._settings, held, is_held):
            log.warning("the local copy of %s-%s is not of this Kafka; it is read anew", tp.topic, tp.partition)
            self._files[tp.partition].close()
            shutil.rmtree(self._path(tp.partition))
            self._open(tp.partition)

    async def stop(self) -> None:
        """Stop following and close the copy."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()
        for file in self._files.values():
            file.close()
        self._files.clear()

    @property
    def is_ready(self) -> bool:
        """Whether every partition has been read to its end once, and is being followed."""
        return self.is_alive and len(self._caught_up_at) == self._settings.partitions

    @property
    def is_alive(self) -> bool:
        """Whether the changelog is being followed, into files that are sound."""
        is_followed = self._reader is not None and not self._reader.done()
        return is_followed and all(file.is_sound for file in self._files.values())

    def get(self, project: str) -> Account | None:
        """The project's account, or None where there is none. The caller may change it: it is a copy.

        Raises Rejection `unreadable_account`.
        """
        value = self._value(project)
        return None if value is None else decoded_account(value)

    def offset(self, project: str) -> int | None:
        """The offset of the last intake record that the project's account has in it; None where there is no account.
        It takes a fraction of what `get` takes."""
        value = self._value(project)
        return None if value is None else offset_of_account(value)

    def _value(self, project: str) -> bytes | None:
        file = self._files[partition_of(project, self._settings.partitions)]
        return file.get_many([project.encode()])[0]

    def _has(self, project: str, min_offset: int) -> bool:
        value = self._value(project)
        return value is not None and offset_of_account(value) >= min_offset

    @property
    def records_read(self) -> int:
        """The positions in the changelog summed over all partitions; the sum rises with every record read."""
        return sum(self._positions.values())

    def prices(self) -> Prices:
        """The price list of partition 0, which decides on every price book first."""
        value = self._files[0].get_many([PRICES_ID.encode()])[0] if self._files else None
        if value != self._prices_value:
            self._prices_value = value
            self._prices = prices_of(value)
        return self._prices

    def values(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """The (key, stored value) of every account of a partition: projects, billing accounts and the price list."""
        yield from self._files[partition].items()

    def prices_in(self, partition: int) -> Prices:
        """The price list of a partition: the announcements and withdrawals that it has been told of."""
        return prices_of(self._files[partition].get_many([PRICES_ID.encode()])[0])

    def all(self) -> Iterator[Account]:
        """Every project's account."""
        return self.after("")

    def billing_accounts(self) -> Iterator[Account]:
        """Every billing account, by partition and id."""
        for file in self._files.values():
            for key, value in file.items(BILLING_PREFIX.encode()):
                if not key.startswith(BILLING_PREFIX.encode()):
                    break
                yield from _readable(key, value)

    def on_billing_account(self, billing_account: str) -> Iterator[Account]:
        """The accounts of projects on a billing account's invoice now. Every account is passed over, but
        only those that may be on it are decoded."""
        named = billing_account.encode()
        for file in self._files.values():
            for key, value in file.items():
                if b":" not in key and named in value:
                    for account in _readable(key, value):
                        if account.billing_account == billing_account:
                            yield account

    def after(self, project: str) -> Iterator[Account]:
        """The accounts of projects behind `project`, by partition and id; "" is before all."""
        partitions = self._settings.partitions
        first = partition_of(project, partitions) if project else 0
        for partition in range(first, partitions):
            start = project.encode() if project and partition == first else b""
            for key, value in self._files[partition].items(start):
                if key != start and b":" not in key:
                    yield from _readable(key, value)

    def projects_after(self, project: str) -> Iterator[tuple[bytes, bytes]]:
        """The (id, stored value) of every project behind `project`, by id; "" is before all."""
        start = project.encode()
        for key, value in heapq.merge(*(file.items(start) for file in self._files.values()), key=itemgetter(0)):
            if key != start and b":" not in key:
                yield key, value

    def lag_ms(self, project: str) -> int:
        """Milliseconds since the copy of this project's partition was last known to be complete; -1 if it never was."""
        caught_up_at = self._caught_up_at.get(partition_of(project, self._settings.partitions))
        return -1 if caught_up_at is None else round((time.monotonic() - caught_up_at) * 1000)

    def lags(self) -> dict[int, float]:
        """Seconds since the copy of each partition was last known to be complete; a partition that never was is left
        out."""
        now = time.monotonic()
        return {partition: now - caught_up_at for partition, caught_up_at in sorted(self._caught_up_at.items())}

    async def wait_for(self, project: str, min_offset: int, timeout_seconds: float) -> bool:
        """Wait until the account has the intake record at `min_offset` in it; False where it did not in time."""

        if self._has(project, min_offset):
            return True
        reached = asyncio.get_running_loop().create_future()
        waiting = (project, min_offset, reached)
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(timeout_seconds):
                await reached
                return True
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiting)

    async def intake_end(self, project: str, timeout_seconds: float) -> int | None:
        """The offset that the next intake record of the project's partition will have; None where Kafka does not say so
        in time."""
        tp = TopicPartition(topics_of(self._settings).intake, partition_of(project, self._settings.partitions))
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(timeout_seconds):
                if self._consumer is not None:
                    return int((await self._consumer.end_offsets([tp]))[tp])
        return None

    async def advanced(self, timeout_seconds: float) -> bool:
        """Wait until something new was read; False where nothing was in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._advanced:
                await self._advanced.wait()
                return True
        return False

    async def _follow_or_tell(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        try:
            await self._follow(consumer, partitions)
        except Exception as error:
            full = no_space(error, self._directory)
            is_told = full is not None or isinstance(error, FormatError)
            log.critical("the accounts are followed no more: %s", full or error, exc_info=not is_told)
            raise

    async def _follow(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        pace = FetchPace(_FETCH_WAIT_MS, _IDLE_FETCH_WAIT_MS)
        while True:
            records = await consumer.getmany(timeout_ms=pace.wait_ms, max_records=_RECORDS_MAX)
            pace.note(consumer, bool(records))
            for tp, partition_records in records.items():
                # A record without a key is nobody's account, whoever wrote it.
                rows = [(record.key, record.value) for record in partition_records if record.key]
                for _, value in rows:
                    if value is not None:
                        # Each that can't be read here would be a failed call later.
                        check_account(value)
                self._files[tp.partition].merge(rows, partition_records[-1].offset)
                self._positions[tp.partition] = partition_records[-1].offset + 1
            for tp in partitions:
                highwater, told_at_ms = consumer.highwater(tp), consumer.last_poll_timestamp(tp)
                if highwater is not None and self._positions[tp.partition] >= highwater:
                    # As old as what the broker said last: while it is silent nobody knows how much is new.
                    age_seconds = max(0.0, time.time() - told_at_ms / 1000)
                    self._caught_up_at[tp.partition] = time.monotonic() - age_seconds
            if records:
                self.read_at = time.monotonic()
                for project, min_offset, reached in self._waiting:
                    if not reached.done() and self._has(project, min_offset):
                        reached.set_result(None)
                async with self._advanced:
                    self._advanced.notify_all()
                if sum(map(len, records.values())) < _RECORDS_MAX:
                    await asyncio.sleep(_GATHER_SECONDS)


def decoded_account(value: bytes) -> Account:
    """The account in a stored value. Raises Rejection `unreadable_account`: no other project is harmed."""
    try:
        return decode_account(value)
    except UnreadableError as error:
        raise Rejection("unreadable_account", f"The stored account can't be read: {error}") from None


def _readable(key: bytes, value: bytes) -> Iterator[Account]:
    """The account in a stored value; none, and a line in the log, where it can't be read."""
    try:
        yield decoded_account(value)
    except Rejection as rejection:
        log.error("account %r is passed over: %s", key, rejection)


@asynccontextmanager
async def read_accounts(settings: Settings, directory: Path) -> AsyncIterator[AccountsView]:
    """Make a fresh copy of every account, read to the changelog's present end.

    Raises OperatorError where nothing of the changelog can be read.
    """
    view = AccountsView(settings, directory)
    await view.start()
    try:
        deadline = time.monotonic() + _SILENCE_SECONDS_MAX
        read = view.records_read
        while not view.is_ready:
            if view.records_read > read:
                read, deadline = view.records_read, time.monotonic() + _SILENCE_SECONDS_MAX
            if not view.is_alive or time.monotonic() > deadline:
                raise OperatorError(
                    f"Nothing can be read of {topics_of(settings).accounts_changelog} with {settings.partitions} "
                    "partitions: are METERLINE_TOPIC_PREFIX and METERLINE_PARTITIONS those of the running system?"
                )
            await asyncio.sleep(0.02)
        yield view
    finally:
        await view.stop()
