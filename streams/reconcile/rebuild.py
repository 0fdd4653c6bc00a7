"""The rebuild proves that state follows from the log alone: it folds intake from offset 0, and compares account bytes.

It runs on a live system. All that the worker group has committed is in the accounts changelog. So the rebuild reads the
commits, then the changelog to its end, then folds up to the commits and compares. An account that has moved on since is
compared at the very record that its snapshot goes up to.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streams.core.fold import UnforeseenError
from streams.errors import OperatorError
from streams.kafka.codecs import decode_account, encode_account
from streams.kafka.stored import check_stored
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.accounts_view import read_accounts
from streams.worker.batches import time_of
from streams.worker.decider import Decider, OwnTables, tables_of_one
from streams.worker.tables import day_of, seen_rows

RECORDS_AT_ONCE = 64
_NAMED_MAX = 20


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild: how many records were folded and accounts compared, and which accounts differ."""

    accounts: int = 0
    records: int = 0
    different: int = 0
    named: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every account came out byte by byte as it is stored."""
        return not self.different

    def as_json(self) -> dict[str, Any]:
        """The result as one JSON object."""
        return {"ok": self.ok} | asdict(self)

    def compare(self, name: str, rebuilt: bytes | None, stored: bytes) -> None:
        """Compare one account, and count it; one that an older version stored, as this one would store it."""
        self.accounts += 1
        if rebuilt != stored and rebuilt != encode_account(decode_account(stored)):
            self.different += 1
            if len(self.named) < _NAMED_MAX:
                self.named.append(name)


async def rebuild(settings: Settings, on_progress: Callable[[str], None] = lambda _text: None) -> Rebuilt:
    """Fold all of intake anew, in a directory that is removed afterwards.

    Raises OperatorError where intake does not begin at offset 0 any more.
    """
    began_at = time.monotonic()
    found = Rebuilt()
    with tempfile.TemporaryDirectory(prefix="meterline-rebuild-") as directory:
        await check_stored(settings, "accounts", "intake")
        committed = await _committed(settings)
        on_progress("reading the accounts")
        async with read_accounts(settings, Path(directory) / "stored") as view:
            for partition in range(settings.partitions):
                with tables_of_one(Path(directory) / f"{partition}", settings) as tables:
                    fold = _Fold(settings, partition, tables, found)
                    await fold.run(committed.get(partition, 0), dict(view.values(partition)), on_progress)
    found.seconds = round(time.monotonic() - began_at, 3)
    return found


class _Fold:
    """The fold of one partition, from its first record on."""

    def __init__(self, settings: Settings, partition: int, tables: OwnTables, found: Rebuilt) -> None:
        self._settings = settings
        self._partition = partition
        self._tables = tables
        self._found = found
        self._topic = topics_of(settings).intake
        self._decider = Decider(settings, topics_of(settings), tables)

    async def run(self, committed: int, stored: dict[bytes, bytes], on_progress: Callable[[str], None]) -> None:
        """Fold up to `committed` and compare; then go on, one record at a time, for accounts that have moved on."""
        moved = {key: decode_account(value).last_offset for key, value in stored.items()}
        moved = {key: offset for key, offset in moved.items() if offset >= committed}
        end = max(moved.values(), default=committed - 1) + 1
        waiting: list[Any] = []
        compared = False
        async for message in self._messages(end):
            if message.offset >= committed and not compared:
                self._fold(waiting)
                waiting = []
                self._compare(stored, moved)
                compared = True
            if waiting and (len(waiting) >= RECORDS_AT_ONCE or _day(waiting[0]) != _day(message)):
                self._fold(waiting)
                waiting = []
            waiting.append(message)
            one_at_a_time = message.offset >= committed
            if one_at_a_time:
                self._fold(waiting)
                waiting = []
            if one_at_a_time:
                for key in [key for key, offset in moved.items() if offset == message.offset]:
                    value = self._tables.accounts.file(self._partition).get_many([key])[0]
                    self._found.compare(key.decode(), value, stored[key])
            if not message.offset % 500:
                on_progress(f"partition {self._partition}: {message.offset:,} of {end:,} records")
        self._fold(waiting)
        if not compared:
            self._compare(stored, moved)

    async def _messages(self, end: int) -> AsyncIterator[Any]:
        consumer = AIOKafkaConsumer(
            **kafka_client_settings(self._settings), auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES
        )
        await consumer.start()
        try:
            place = TopicPartition(self._topic, self._partition)
            consumer.assign([place])
            first = (await consumer.beginning_offsets([place]))[place]
            if first:
                raise OperatorError(
                    f"{self._topic}-{self._partition} begins at offset {first}: what was before is gone, so accounts "
                    "can't be rebuilt; its retention.ms must be -1"
                )
            next_offset = 0
            while next_offset < end:
                for record in (await consumer.getmany(place, timeout_ms=1000)).get(place, []):
                    if record.offset < end:
                        # The record as Faust hands it to the owner, whose code reads it here.
                        yield SimpleNamespace(
                            partition=self._partition,
                            offset=record.offset,
                            value=record.value,
                            timestamp=record.timestamp / 1000,
                        )
                    next_offset = record.offset + 1
        finally:
            await consumer.stop()

    def _fold(self, messages: list[Any]) -> None:
        """Fold messages of one day, as the owner does, and write what it writes to the files."""
        if not messages:
            return
        partition = self._partition
        try:
            decided = self._decider.decide(partition, messages)
        except UnforeseenError:
            self._decider.forget()
            if len(messages) == 1:
                raise
            for message in messages:
                self._fold([message])
            return
        last = messages[-1].offset
        tables, (by_key, by_request) = self._tables, decided.kept_rows
        tables.accounts.file(partition).write(decided.values, last)
        tables.seen.file(partition).write(seen_rows(dict(sorted(decided.seen.items())), _day(messages[0])), last)
        tables.replies.file(partition).write(by_key, last)
        tables.recent_replies.file(partition).write(by_request, last)
        tables.expire(partition, time_of(messages[-1]))
        self._found.records += len(messages)

    def _compare(self, stored: dict[bytes, bytes], moved: dict[bytes, int]) -> None:
        keys = [key for key in stored if key not in moved]
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            for key, value in zip(some, self._tables.accounts.file(self._partition).get_many(some), strict=True):
                self._found.compare(key.decode(), value, stored[key])


def _day(message: Any) -> int:
    return day_of(time_of(message))


async def _committed(settings: Settings) -> dict[int, int]:
    """The next offset that the workers have to read, by intake partition."""
    topics = topics_of(settings)
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(topics.worker_app)
    finally:
        await admin.close()
    return {place.partition: found.offset for place, found in offsets.items() if place.topic == topics.intake}
