"""Files of rows on disk, one a partition: RocksDB with bounded memory, each with the changelog offset it has come to.

A write and its changelog offset are stored together or not at all. There is no write-ahead log: after a crash a file is
as of its last flush, offset included, and the changelog has the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

from streams.kafka.codecs import VERSION_BYTES

# This key sorts before every project, which is printable; a dedup hash equals it only by a 2^-128 chance.
_OFFSET_KEY = b"\x00meterline\x00offset"

# The cache of all files of a process together. An LRU cache would not do: its shards are smaller than a large file's
# filter block, which it would then read from disk for every look-up.
CACHE_BYTES = 128 * 1024 * 1024
WRITE_BUFFER_BYTES = 16 * 1024 * 1024
SEGMENTS = 4


Rows = Iterable[tuple[bytes, bytes | None]]


class PartitionFile:
    """A PartitionFile is one RocksDB. Keys and values are bytes; a value of None deletes its key."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db: Any = Rdict(str(path), options=_options())

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, None where there is none."""
        found: list[bytes | None] = self._db.get(keys) if keys else []
        return found

    def write(self, rows: Rows, changelog_offset: int | None) -> None:
        """Set each key, or delete it, and note the offset of the newest record applied."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if changelog_offset is not None:
            batch.put(_OFFSET_KEY, b"%d" % changelog_offset)
        self._db.write(batch, _NO_LOG)

    def merge(self, rows: Rows, changelog_offset: int | None) -> None:
        """Write rows of a changelog; of two rows with one key the later one counts."""
        self.write(rows, changelog_offset)

    def changelog_offset(self) -> int | None:
        """The offset of the newest changelog record this file holds, or None for an empty file."""
        value = self._db.get(_OFFSET_KEY)
        return None if value is None else int(value)

    def items(self, first: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        """Every key with its value, in key order, beginning with `first`."""
        return ((key, value) for key, value in self._db.items(from_key=first or None) if key != _OFFSET_KEY)

    def flush(self) -> None:
        """Put everything written so far on disk."""
        self._db.flush()

    def close(self) -> None:
        """Flush and release the file's lock."""
        self._db.close()


class VersionedFile(PartitionFile):
    """A VersionedFile has values that begin with 8 bytes of version; merging never replaces a value by an older
    version.

    A worker that was paused and lost its partition may still write a value that is older than its successor's. A reader
    of the changelog keeps the newer one, whichever comes last.
    """

    def merge(self, rows: Rows, changelog_offset: int | None) -> None:
        """Write rows of a changelog, leaving out each that is older than the value held."""
        newest: dict[bytes, bytes | None] = {}
        for key, value in rows:
            known = newest.get(key)
            if known is None or value is None or value[:VERSION_BYTES] >= known[:VERSION_BYTES]:
                newest[key] = value
        keys = list(newest)
        held = zip(keys, self.get_many(keys), strict=True)
        stale = {key for key, old in held if old and (new := newest[key]) and new[:VERSION_BYTES] < old[:VERSION_BYTES]}
        self.write(((key, value) for key, value in newest.items() if key not in stale), changelog_offset)


class SegmentedFile:
    """A SegmentedFile has rows that expire by day: one RocksDB for every `segment_days` days, removed once it has
    expired.

    `day_of` tells a value's day. A look-up asks every live segment, newest first; there are `days // segment_days + 2`
    of them at most. A key stands in one segment, that of the day it was first written on.
    """

    def __init__(self, path: Path, day_of: Callable[[bytes], int], days: int) -> None:
        self._path = path
        self._day_of = day_of
        self._days = days
        self._segment_days = max(1, -(-days // SEGMENTS))
        self._noted_in: int | None = None
        path.mkdir(parents=True, exist_ok=True)
        self._segments = {int(each.name): PartitionFile(each) for each in path.iterdir() if each.name.isdigit()}

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, None where there is none; expired ones may still be among them."""
        if len(self._segments) == 1:
            (only,) = self._segments.values()
            return only.get_many(keys)
        found: dict[bytes, bytes] = {}
        missing = keys
        for number in sorted(self._segments, reverse=True):
            values = self._segments[number].get_many(missing)
            found.update((key, value) for key, value in zip(missing, values, strict=True) if value is not None)
            missing = [key for key in missing if key not in found]
            if not missing:
                break
        return [found.get(key) for key in keys]

    def write(self, rows: Rows, changelog_offset: int | None) -> None:
        """Set each key in its day's segment; a segment that is now older than the window is removed."""
        by_segment = self._by_segment(list(rows))
        if not by_segment and changelog_offset is not None:
            by_segment = {max(self._segments, default=0): []}
        # Each segment is flushed by itself. An offset that survives a crash must have all rows below it on disk, so
        # rows for other segments than the one that notes the offset are flushed first.
        *older, newest = sorted(by_segment)
        for number in older:
            self._segment(number).write(by_segment[number], None)
            self._segment(number).flush()
        if self._noted_in not in (None, newest) and self._noted_in in self._segments:
            self._segments[self._noted_in].flush()
        self._noted_in = newest
        self._segment(newest).write(by_segment[newest], changelog_offset)
        self._expire()

    def merge(self, rows: Rows, changelog_offset: int | None) -> None:
        """Write rows of a changelog."""
        self.write(rows, changelog_offset)

    def changelog_offset(self) -> int | None:
        """The offset of the newest changelog record these rows hold, or None where there are none."""
        offsets = [offset for each in self._segments.values() if (offset := each.changelog_offset()) is not None]
        return max(offsets, default=None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value."""
        for segment in self._segments.values():
            yield from segment.items()

    def close(self) -> None:
        """Flush and release the files' locks."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def _by_segment(self, rows: list[tuple[bytes, bytes | None]]) -> dict[int, list[tuple[bytes, bytes | None]]]:
        # There are many rows but few values, and nearly always of one day.
        values = {value for _, value in rows}
        segments = {value: self._day_of(value) // self._segment_days for value in values if value is not None}
        if len(numbers := set(segments.values())) == 1:
            return {numbers.pop(): rows}
        by_segment: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for key, value in rows:
            assert value is not None
            by_segment.setdefault(segments[value], []).append((key, value))
        return by_segment

    def _segment(self, number: int) -> PartitionFile:
        segment = self._segments.get(number)
        if segment is None:
            segment = self._segments[number] = PartitionFile(self._path / str(number))
        return segment

    def _expire(self) -> None:
        oldest_day = (max(self._segments, default=0) * self._segment_days) - self._days
        for number in [n for n in self._segments if (n + 1) * self._segment_days <= oldest_day]:
            self._segments.pop(number).close()
            shutil.rmtree(self._path / str(number), ignore_errors=True)


def _no_log() -> WriteOptions:
    options = WriteOptions()
    options.disable_wal = True  # a property, whatever the type stub says
    return options


_NO_LOG = _no_log()


@cache
def _cache() -> Cache:
    return Cache.new_hyper_clock_cache(CACHE_BYTES, 0)


def _options() -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(_cache())
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    # Most ids that are looked up are new: a bloom filter over rows that are not flushed yet spares the search.
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_memtable_whole_key_filtering(True)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    return options
