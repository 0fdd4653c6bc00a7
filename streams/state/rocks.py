"""Files of rows on disk, one a partition: RocksDB with bounded memory, each with the changelog offset it has come to.

A write and its changelog offset are stored together or not at all. There is no write-ahead log: after a crash a file is
as of its last flush, offset included, and the changelog has the rest. A file that turns out to be damaged, at whatever
call, is set aside, and the call raises DamagedError; see `streams.state.damage`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

from streams.errors import OperatorError
from streams.kafka.codecs import VERSION_BYTES
from streams.state.damage import DamagedError, failure_of, set_aside

log = logging.getLogger(__name__)

# This key sorts before every project, which is printable; a dedup hash equals it only by a 2^-128 chance.
_OFFSET_KEY = b"\x00meterline\x00offset"
_OFFSET_DIGITS_MAX = 19

# The cache of all files of a process together. An LRU cache would not do: its shards are smaller than a large file's
# filter block, which it would then read from disk for every look-up.
CACHE_BYTES = 128 * 1024 * 1024
WRITE_BUFFER_BYTES = 8 * 1024 * 1024
SEGMENTS = 4
# A segment gets a file once it has so many rows, or all that have none have so many. To open one, and to remove it,
# takes milliseconds: where records are hours apart, as in a log that is read again, each would pay them.
ROWS_FOR_A_FILE = 256
ROWS_WITHOUT_FILE_MAX = 20_000
FILED_AT_ONCE_MAX = 16


Rows = Iterable[tuple[bytes, bytes | None]]


class PartitionFile:
    """A PartitionFile is one RocksDB. Keys and values are bytes; a value of None deletes its key.

    It is part of the state at `home`, which is set aside as a whole where this file is damaged: its own path, or that
    of a SegmentedFile.
    """

    def __init__(self, path: Path, home: Path | None = None) -> None:
        self._home = home or path
        self.is_sound = True
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        try:
            self._db: Any = Rdict(str(path), options=_options(is_new))
        except Exception as error:
            self._failed(error)
        try:
            self.changelog_offset()
        except OperatorError:
            self.close()
            raise

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, None where there is none."""
        try:
            found: list[bytes | None] = self._db.get(keys) if keys else []
        except Exception as error:
            self._failed(error)
        return found

    def write(self, rows: Rows, changelog_offset: int | None, note: bytes = b"") -> None:
        """Set each key, or delete it, and note the offset of the newest record applied, with a `note` beside it."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if changelog_offset is not None:
            batch.put(_OFFSET_KEY, b"%d %s" % (changelog_offset, note) if note else b"%d" % changelog_offset)
        try:
            self._db.write(batch, _NO_LOG)
        except Exception as error:
            self._failed(error)

    def merge(self, rows: Rows, changelog_offset: int | None) -> None:
        """Write rows of a changelog; of two rows with one key the later one counts."""
        self.write(rows, changelog_offset)

    def changelog_offset(self) -> int | None:
        """The offset of the newest changelog record this file holds, or None for an empty file."""
        (value,) = self.get_many([_OFFSET_KEY])
        if value is None:
            return None
        offset = value.partition(b" ")[0]
        if not offset.isdigit() or len(offset) > _OFFSET_DIGITS_MAX:
            self.is_sound = False
            raise DamagedError(set_aside(self._home, "its changelog offset can't be read"))
        return int(offset)

    def note(self) -> bytes:
        """The note beside the changelog offset."""
        (value,) = self.get_many([_OFFSET_KEY])
        return (value or b"").partition(b" ")[2]

    def sequence(self) -> int:
        """A number that rises with every row written, and is stored with them."""
        return int(self._db.latest_sequence_number())

    def items(self, first: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        """Every key with its value, in key order, beginning with `first`."""
        return self._items(self._db.items(from_key=first or None), first)

    def _items(self, rows: Iterable[tuple[bytes, bytes]], first: bytes) -> Iterator[tuple[bytes, bytes]]:
        last = first
        for last, value in rows:
            if last != _OFFSET_KEY:
                yield last, value
        # RocksDB's iterators end at what they can't read as they do at the end, and say so only when asked.
        reached = self._db.iter()
        reached.seek(last) if last else reached.seek_to_first()
        if reached.valid():
            reached.next()
        try:
            reached.status()
        except Exception as error:
            self._failed(error)

    def flush(self) -> None:
        """Put everything written so far on disk."""
        try:
            self._db.flush()
        except Exception as error:
            self._failed(error)

    def close(self) -> None:
        """Flush and release the file's lock. What could not be flushed is told; the changelog has it."""
        was_sound = self.is_sound
        try:
            self._db.close()
        except Exception as error:
            try:
                self._failed(error)
            except OperatorError as failure:
                if was_sound and self.is_sound:
                    log.warning("%s", failure)

    def _failed(self, error: Exception) -> NoReturn:
        if type(error) is not Exception:
            raise error  # RocksDB's errors have no class of their own; this one is a mistake in the call
        failure = failure_of(self._home, error)
        self.is_sound = not isinstance(failure, DamagedError)
        raise failure from error


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
    """A SegmentedFile has rows that expire by time: one RocksDB for every `kept_ms / SEGMENTS`, removed once all of it
    has expired.

    `time_of` tells a value's time, in Unix milliseconds. Whoever has the file says by which time rows expire: by it, a
    row is there for `kept_ms` at least, and for a quarter more at most. What is written is no clock: a record that was
    applied may come again after later ones, and asks for what it asked for the first time. A look-up asks every
    segment, newest first; there are SEGMENTS + 2 of them as a rule. A key stands in one segment, that of the time it
    was first written at. A segment with few rows has no file yet; as long as there is one, no file notes an offset.
    """

    def __init__(self, path: Path, time_of: Callable[[bytes], int], kept_ms: int) -> None:
        self._path = path
        self._time_of = time_of
        self._kept_ms = kept_ms
        self._segment_ms = -(-kept_ms // SEGMENTS)
        self._noted_in: int | None = None
        self._segments: dict[int, PartitionFile] = {}
        # The rows of segments that have no file, and the offset that all rows have come to, where no file has it.
        self._unfiled: dict[int, dict[bytes, bytes | None]] = {}
        self._unfiled_offset: int | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            for each in path.iterdir():
                if each.name.isdigit():
                    self._segments[int(each.name)] = PartitionFile(each, path)
            self._check_others()
        except FileExistsError:
            raise DamagedError(set_aside(path, "it is no directory")) from None
        except OperatorError:
            self.close()
            raise

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, None where there is none; expired ones may still be among them."""
        if len(self._segments) == 1 and not self._unfiled:
            (only,) = self._segments.values()
            return only.get_many(keys)
        found: dict[bytes, bytes] = {}
        missing = keys
        for number in sorted([*self._segments, *self._unfiled], reverse=True):
            rows = self._unfiled.get(number)
            values = self._segments[number].get_many(missing) if rows is None else map(rows.get, missing)
            found.update((key, value) for key, value in zip(missing, values, strict=True) if value is not None)
            missing = [key for key in missing if key not in found]
            if not missing:
                break
        return [found.get(key) for key in keys]

    def write(self, rows: Rows, changelog_offset: int | None) -> None:
        """Set each key in its time's segment."""
        by_segment = self._by_segment(list(rows))
        if self._segments and not self._unfiled and all(number in self._segments for number in by_segment):
            self._write(by_segment, changelog_offset)
            return
        for number, some in by_segment.items():
            if number in self._segments:
                self._segments[number].write(some, None)
                # Whichever file notes the offset of these rows, they are on disk by then.
                self._segments[number].flush()
            else:
                self._unfiled.setdefault(number, {}).update(some)
        if changelog_offset is not None:
            self._unfiled_offset = changelog_offset
        sizes = [len(some) for some in self._unfiled.values()]
        if max(sizes, default=0) >= ROWS_FOR_A_FILE or sum(sizes) >= ROWS_WITHOUT_FILE_MAX:
            self._file()

    merge = write

    def expire(self, at_ms: int) -> None:
        """Remove the segments of which all has expired at this time."""
        newest = at_ms // self._segment_ms
        for number in [n for n in self._unfiled if self._is_expired(n, newest)]:
            del self._unfiled[number]
        for number in [n for n in self._segments if self._is_expired(n, newest)]:
            self._segments.pop(number).close()
            shutil.rmtree(self._path / str(number), ignore_errors=True)

    def changelog_offset(self) -> int | None:
        """The offset of the newest changelog record these rows hold, or None where there are none."""
        if self._unfiled_offset is not None:
            return self._unfiled_offset
        offsets = [offset for each in self._segments.values() if (offset := each.changelog_offset()) is not None]
        return max(offsets, default=None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value."""
        for segment in self._segments.values():
            yield from segment.items()
        for rows in self._unfiled.values():
            yield from ((key, value) for key, value in rows.items() if value is not None)

    def close(self) -> None:
        """Flush and release the files' locks. Many segments without a file are let go: their changelog has them."""
        if len(self._unfiled) <= FILED_AT_ONCE_MAX:
            try:
                self._file()
            except OperatorError as error:
                log.warning("%s", error)
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def _file(self) -> None:
        """Give each segment a file, and note the offset."""
        rows = {number: list(some.items()) for number, some in self._unfiled.items()}
        offset, self._unfiled, self._unfiled_offset = self._unfiled_offset, {}, None
        self._write(rows, offset)

    def _write(self, by_segment: dict[int, list[tuple[bytes, bytes | None]]], changelog_offset: int | None) -> None:
        if changelog_offset is not None:
            self._unfiled_offset = None
        if not by_segment:
            if changelog_offset is None:
                return
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
        self._segment(newest).write(by_segment[newest], changelog_offset, self._others(newest))

    def _by_segment(self, rows: list[tuple[bytes, bytes | None]]) -> dict[int, list[tuple[bytes, bytes | None]]]:
        # There may be many rows but few values, and nearly always they are of one time.
        values = {value for _, value in rows}
        segments = {value: self._time_of(value) // self._segment_ms for value in values if value is not None}
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
            segment = self._segments[number] = PartitionFile(self._path / str(number), self._path)
        return segment

    def _others(self, newest: int) -> bytes:
        """The note beside an offset: all segments but the one that has it, each with how far it had been written, as
        `number:sequence`. All of those rows are flushed."""
        others = ((number, file.sequence()) for number, file in self._segments.items() if number != newest)
        return b" ".join(b"%d:%d" % each for each in others)

    def _check_others(self) -> None:
        """Set these rows aside where a segment is missing, or is older than the offset that another one notes: rows of
        its are gone that recovery would not read again. Raises DamagedError."""
        noting = max(self._segments.values(), key=lambda file: file.changelog_offset() or -1, default=None)
        for each in noting.note().split() if noting is not None else ():
            number, _, sequence = each.partition(b":")
            file = self._segments.get(int(number))
            is_expired = self._is_expired(int(number), max(self._segments))
            if file.sequence() < int(sequence) if file is not None else not is_expired:
                raise DamagedError(set_aside(self._path, f"its segment {int(number)} has lost rows"))

    def _is_expired(self, number: int, newest: int) -> bool:
        return (number + 1) * self._segment_ms <= newest * self._segment_ms - self._kept_ms


def _no_log() -> WriteOptions:
    options = WriteOptions()
    options.disable_wal = True  # a property, whatever the type stub says
    return options


_NO_LOG = _no_log()


@cache
def _cache() -> Cache:
    return Cache.new_hyper_clock_cache(CACHE_BYTES, 0)


def _options(is_new: bool) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(_cache())
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    options = Options(raw_mode=True)
    options.create_if_missing(is_new)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    # Most ids that are looked up are new: a bloom filter over rows that are not flushed yet spares the search.
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_memtable_whole_key_filtering(True)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    return options
