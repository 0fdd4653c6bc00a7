"""The Faust tables, `accounts`, `seen` and two of kept replies, on RocksDB files that we read and write by the batch.

Faust assigns their partitions and recovers them from their changelogs; the owner writes all, changelog first.
"""

from __future__ import annotations

import gc
import logging
import shutil
import struct
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import faust
import msgspec
from faust.exceptions import ImproperlyConfigured
from faust.stores.base import Store
from faust.types import TP

from schemas.events import HASH_BYTES
from schemas.times import DAY_MS
from streams.core.foreign import UnreadableError, read
from streams.core.marks import MARK_BYTES, Claim, Seen
from streams.kafka.codecs import decode_kept_replies, decode_kept_reply, encode_kept_replies, packed
from streams.settings import Settings
from streams.state.damage import opened
from streams.state.rocks import PartitionFile, SegmentedFile, VersionedFile

log = logging.getLogger(__name__)

_SEEN_KEY = struct.Struct(">HIQ")
_SEEN_VALUE = struct.Struct(">QH")
_MARKED_VALUE = struct.Struct(f">Q{MARK_BYTES}sH")
# The last byte of the key of a changelog record whose entries have marks; the key of one without has no such byte.
_MARKED = b"\x01"
_OFFSET = struct.Struct(">Q")
_REPLIES_KEY = struct.Struct(">QI")

# A broker's clock may step back, and another's be behind: replies stay for so long after they have expired.
SPARE_MS = 10_000

Rows = list[tuple[bytes, bytes | None]]
ToRows = Callable[[bytes, bytes | None], Rows]
File = PartitionFile | SegmentedFile


class PartitionedStore(Store):  # type: ignore[misc]
    """A Faust store with one file for each partition. `to_rows` turns a changelog record into the rows it stands
    for."""

    def __init__(self, table: faust.Table, open_file: Callable[[int], File], to_rows: ToRows, directory: Path) -> None:
        super().__init__(f"meterline://{table.name}", table.app, table, key_type=bytes, value_type=bytes)
        self.open_file = open_file
        self.to_rows = to_rows
        self.directory = directory
        self._files: dict[int, File] = {}

    def partition_file(self, partition: int) -> File:
        """The partition's file, opened on first use."""
        file = self._files.get(partition)
        if file is None:
            file = self._files[partition] = opened(self.open_file, partition)
        return file

    def open_files(self) -> list[File]:
        """The files of the partitions that are open here."""
        return list(self._files.values())

    def open_partitions(self) -> list[int]:
        """The numbers of the partitions that are open here."""
        return list(self._files)

    def persisted_offset(self, tp: TP) -> int | None:
        """The changelog offset after which Faust's recovery starts."""
        return self.partition_file(tp.partition).changelog_offset()

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note a changelog offset, without rows."""
        self.partition_file(tp.partition).write((), offset)

    def has(self, partition: int, key: bytes, value: bytes | None) -> bool:
        """Whether the partition's file has what a changelog record says."""
        rows = self.to_rows(key, value)
        return self.partition_file(partition).get_many([row[0] for row in rows]) == [row[1] for row in rows]

    def drop(self, partition: int) -> None:
        """Remove the partition's file: it is read anew from its changelog."""
        file = self._files.pop(partition, None)
        if file is not None:
            file.close()
        shutil.rmtree(self.directory / str(partition), ignore_errors=True)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Apply changelog records that Faust's own recovery read. `streams.worker.recovery` leaves it none to read."""
        records: dict[int, list[tuple[bytes, bytes | None]]] = defaultdict(list)
        newest: dict[int, int] = {}
        for event in batch:
            message = event.message
            records[message.partition].append((message.key, message.value))
            newest[message.partition] = max(message.offset, newest.get(message.partition, -1))
        for partition, offset in newest.items():
            self.apply(partition, records[partition], offset)

    def apply(self, partition: int, records: Rows, offset: int) -> None:
        """Merge a partition's changelog records, in order, the last of which is at `offset`."""
        rows = [row for key, value in records for row in self.to_rows(key, value)]
        self.partition_file(partition).merge(rows, offset)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Close the files of partitions that went elsewhere."""
        for tp in revoked:
            if tp.topic in self.table.changelog_topic.topics:
                file = self._files.pop(tp.partition, None)
                if file is not None:
                    file.close()

    async def on_stop(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        gc.collect()

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Refuse the backup that Faust may ask for: the changelog holds everything."""
        raise ImproperlyConfigured("a table of this store is backed up by its changelog")

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> None:
        """Refuse to restore a backup; see `backup_partition`."""
        raise ImproperlyConfigured("a table of this store is restored from its changelog")

    def reset_state(self) -> None:
        """Forget the local copy; the changelog has everything."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        shutil.rmtree(self.directory, ignore_errors=True)


class BatchTable(faust.Table):  # type: ignore[misc]
    """A Faust table on a PartitionedStore; the agents write it past Faust."""

    def __init__(
        self, app: faust.App, settings: Settings, name: str, open_file: Callable[[Path], File], to_rows: ToRows
    ) -> None:
        self._directory = settings.worker_dir / "tables" / name
        self._open_file = open_file
        self._to_rows = to_rows
        super().__init__(
            app,
            name=name,
            partitions=settings.partitions,
            key_type=bytes,
            value_type=bytes,
            recovery_buffer_size=2000,
        )
        app.tables.add(self)

    def _new_store(self) -> PartitionedStore:
        def open_partition(partition: int) -> File:
            return self._open_file(self._directory / str(partition))

        return PartitionedStore(self, open_partition, self._to_rows, self._directory)

    def file(self, partition: int) -> File:
        """The file with a partition's rows."""
        store: PartitionedStore = self.data
        return store.partition_file(partition)

    def open_files(self) -> list[File]:
        """The files of the partitions that are open here."""
        store: PartitionedStore = self.data
        return store.open_files()

    def open_partitions(self) -> list[int]:
        """The partitions that are open here."""
        store: PartitionedStore = self.data
        return store.open_partitions()


def accounts_table(app: faust.App, settings: Settings) -> BatchTable:
    """The table `accounts`: project id → Account, as `encode_account` gives it. A changelog record is one account."""
    return BatchTable(app, settings, "accounts", VersionedFile, lambda key, value: [(key, value)])


def seen_table(app: faust.App, settings: Settings) -> BatchTable:
    """The table `seen`: dedup hash → (offset, mark, day) of the intake record that decided it first. A changelog record
    is one batch."""

    return BatchTable(app, settings, "seen", lambda path: seen_file(path, settings.dedup_days), seen_rows_of_record)


def reply_tables(app: faust.App, settings: Settings) -> tuple[BatchTable, BatchTable]:
    """The tables `replies`, by the hash of a caller's key, and `recent_replies`, by that of a request: → KeptReply, as
    `encode_kept_reply` gives it. A changelog record is one batch."""

    def table(name: str, kept_ms: int) -> BatchTable:
        return BatchTable(app, settings, name, lambda path: replies_file(path, kept_ms), reply_rows_of_record)

    kept_for = settings.kept_for
    return table("replies", kept_for.key_ms), table("recent_replies", kept_for.request_ms)


def seen_file(path: Path, dedup_days: int) -> SegmentedFile:
    """A partition's file of the table `seen`."""
    return SegmentedFile(path, time_of_seen, dedup_days * DAY_MS)


def replies_file(path: Path, kept_ms: int) -> SegmentedFile:
    """A partition's file of kept replies."""
    return SegmentedFile(path, time_of_reply, kept_ms + SPARE_MS)


def seen_rows(seen: Seen, day: int) -> Rows:
    """The local rows of a batch's dedup entries, in the order of `seen`."""
    values = {claim: _seen_value(claim, day) for claim in set(seen.values())}
    return [(dedup, values[claim]) for dedup, claim in seen.items()]


def _seen_value(claim: Claim, day: int) -> bytes:
    offset, mark = claim
    return _MARKED_VALUE.pack(offset, mark, day) if mark else _SEEN_VALUE.pack(offset, day)


def seen_records(seen: Seen, day: int, first_offset: int) -> Iterator[tuple[bytes, bytes]]:
    """The changelog records of a batch's dedup entries: usually one, or two, since those with and without a mark are
    apart; a record has 20,000 of them at most.

    A record has the hashes one after the other, then their offsets, then their marks. Its key is (day, part, first
    intake offset), so that a day's records can be told and dropped together, with one more byte where there are marks:
    older versions wrote none. A repeat of the batch, whole or in part, writes the same entries again under one of these
    keys.
    """
    part_size = 20_000
    marked = [dedup for dedup, claim in seen.items() if claim.mark]
    others = [dedup for dedup, claim in seen.items() if not claim.mark] if len(marked) < len(seen) else []
    for some, ending in ((marked, _MARKED), (others, b"")):
        for part, start in enumerate(range(0, len(some), part_size)):
            hashes = some[start : start + part_size]
            claims = [seen[dedup] for dedup in hashes]
            offsets = array("Q", [claim.offset for claim in claims])
            if sys.byteorder == "little":
                offsets.byteswap()
            marks = [claim.mark for claim in claims]
            yield _SEEN_KEY.pack(day, part, first_offset) + ending, b"".join((*hashes, offsets.tobytes(), *marks))


def day_of(at_ms: int) -> int:
    """The day that a time is in, counted from 1970."""
    return at_ms // DAY_MS


def time_of_seen(value: bytes) -> int:
    """The beginning of the day of a `seen` row, in Unix milliseconds."""
    return int.from_bytes(value[-2:], "big") * DAY_MS


def first_offset_of(value: bytes, since_day: int) -> int | None:
    """The offset in a `seen` row, or None where the row is older than the dedup window."""
    offset, day = int.from_bytes(value[: _OFFSET.size], "big"), int.from_bytes(value[-2:], "big")
    return offset if day >= since_day else None


def claim_of(value: bytes, since_day: int) -> Claim | None:
    """The claim in a `seen` row, or None where the row is older than the dedup window."""
    offset = first_offset_of(value, since_day)
    return Claim(offset, value[_OFFSET.size : -2]) if offset is not None else None


def seen_rows_of_record(key: bytes, value: bytes | None) -> Rows:
    if value is None:
        return []
    ending = key[_SEEN_KEY.size :]
    mark_bytes = MARK_BYTES if ending == _MARKED else 0
    count, left = divmod(len(value), HASH_BYTES + _OFFSET.size + mark_bytes)
    if len(key) < _SEEN_KEY.size or ending not in (b"", _MARKED) or left:
        log.error("a record of the dedup changelog with key %r is none of ours; it is passed over", key[:32])
        return []
    day_bytes = _SEEN_KEY.unpack_from(key)[0].to_bytes(2, "big")
    offsets_at = count * HASH_BYTES
    marks_at = offsets_at + count * _OFFSET.size
    return [
        (
            value[number * HASH_BYTES : (number + 1) * HASH_BYTES],
            value[offsets_at + number * _OFFSET.size : offsets_at + (number + 1) * _OFFSET.size]
            + value[marks_at + number * mark_bytes : marks_at + (number + 1) * mark_bytes]
            + day_bytes,
        )
        for number in range(count)
    ]


class _Time(msgspec.Struct, array_like=True):
    """A kept reply of which only `at_ms` is decoded."""

    at_ms: int


_decode_time = msgspec.msgpack.Decoder(_Time).decode


def time_of_reply(value: bytes) -> int:
    """The time at which the reply of a row was given, in Unix milliseconds."""
    return read(_decode_time, value).at_ms


def reply_records(rows: list[tuple[bytes, bytes]], first_offset: int) -> Iterator[tuple[bytes, bytes]]:
    """The changelog records of a batch's kept replies: usually one. A record's key is (first intake offset, part)."""
    for part, value in enumerate(packed(rows, encode_kept_replies)):
        yield _REPLIES_KEY.pack(first_offset, part), value


def reply_rows_of_record(key: bytes, value: bytes | None) -> Rows:
    try:
        rows = decode_kept_replies(value) if value is not None else []
        for _, row in rows:
            decode_kept_reply(row)
    except UnreadableError:
        log.error("a record of a changelog of kept replies with key %r is none of ours; it is passed over", key[:32])
        return []
    return list(rows)
