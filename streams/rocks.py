"""One partition's key-value file: RocksDB with bounded memory, and the changelog offset it has been brought up to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch

# Sorts before every key of ours: projects are printable, dedup hashes could equal it only by a 2^-128 chance.
_OFFSET_KEY = b"\x00meterline\x00offset"

CACHE_BYTES = 16 * 1024 * 1024
WRITE_BUFFER_BYTES = 16 * 1024 * 1024


class PartitionFile:
    """Keys and values are bytes. A write and its changelog offset are stored together or not at all."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db: Any = Rdict(str(path), options=_options())

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, None where there is none."""
        found: list[bytes | None] = self._db.get(keys) if keys else []
        return found

    def write(self, items: Iterable[tuple[bytes, bytes | None]], changelog_offset: int | None) -> None:
        """Set each key, or delete it where the value is None, and note the offset of the newest record applied."""
        batch = WriteBatch(raw_mode=True)
        for key, value in items:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if changelog_offset is not None:
            batch.put(_OFFSET_KEY, b"%d" % changelog_offset)
        self._db.write(batch)

    def changelog_offset(self) -> int | None:
        """The offset of the newest changelog record this file holds, or None for an empty file."""
        value = self._db.get(_OFFSET_KEY)
        return None if value is None else int(value)

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Every key with its value, in key order."""
        return ((key, value) for key, value in self._db.items() if key != _OFFSET_KEY)

    def close(self) -> None:
        """Flush and release the file's lock."""
        self._db.close()


def _options() -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    return options
