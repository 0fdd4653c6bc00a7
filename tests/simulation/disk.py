"""The local disk of a worker, in memory, under the real tables: it outlives the process, and may be lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from schemas.replies import KeptFor
from streams.state.rocks import PartitionFile, VersionedFile
from streams.worker.tables import (
    PartitionedStore,
    Rows,
    replies_file,
    reply_rows_of_record,
    seen_file,
    seen_rows_of_record,
)

TABLES = ("accounts", "seen", "replies", "recent_replies")

_OFFSET = b"offset"
_SEQUENCE = b"sequence"


class Disk:
    """A disk has files by path, as a process that starts finds them.

    `before_write` may raise, since a process may die before any single write. `is_flushed` says whether one file's rows
    in memory go to the disk now. Rows that never do are gone with the process: there is no write-ahead log.
    """

    def __init__(self, before_write: Callable[[], None], is_flushed: Callable[[], bool]) -> None:
        self.files: dict[str, dict[bytes, bytes]] = {}
        self.before_write = before_write
        self.is_flushed = is_flushed

    def lose(self) -> None:
        """Lose all files of the disk."""
        self.files.clear()

    def table(self, name: str, dedup_days: int, kept_for: KeptFor) -> PartitionedStore:
        """A table as a process that starts now finds it: the real store, but for its files and for Faust."""
        store = PartitionedStore.__new__(PartitionedStore)
        store._files = {}
        if name == "accounts":
            store.to_rows = lambda key, value: [(key, value)]
            store.open_file = lambda partition: MemoryAccounts(MemoryPath(self, f"accounts/{partition}"))
        elif name == "seen":
            store.to_rows = seen_rows_of_record
            store.open_file = lambda partition: seen_file(self._path(name, partition), dedup_days)
        else:
            kept_ms = kept_for.key_ms if name == "replies" else kept_for.request_ms
            store.to_rows = reply_rows_of_record
            store.open_file = lambda partition: replies_file(self._path(name, partition), kept_ms)
        return store

    def tables(self, dedup_days: int, kept_for: KeptFor) -> dict[str, PartitionedStore]:
        """All tables of a worker, by name."""
        return {name: self.table(name, dedup_days, kept_for) for name in TABLES}

    def _path(self, name: str, partition: int) -> Any:
        return MemoryPath(self, f"{name}/{partition}")


class MemoryPath:
    """A Path in memory, with as much of Path as the files of a table need."""

    def __init__(self, disk: Disk, text: str) -> None:
        self.disk = disk
        self.text = text
        self.name = text.rpartition("/")[2]

    def __truediv__(self, name: str) -> MemoryPath:
        return MemoryPath(self.disk, f"{self.text}/{name}")

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        pass

    def iterdir(self) -> Iterator[MemoryPath]:
        prefix = f"{self.text}/"
        return (MemoryPath(self.disk, text) for text in list(self.disk.files) if text.startswith(prefix))


def remove_tree(path: MemoryPath, ignore_errors: bool = False) -> None:
    """Remove the file of a MemoryPath, in place of shutil.rmtree."""
    path.disk.files.pop(path.text, None)


class MemoryFile:
    """A file of rows in memory, a PartitionFile without RocksDB: a write is done as a whole or not at all."""

    def __init__(self, path: MemoryPath, home: MemoryPath | None = None) -> None:
        self._disk = path.disk
        self._path = path.text
        self._rows = dict(path.disk.files.setdefault(path.text, {}))

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._rows.get(key) for key in keys]

    def write(self, rows: Any, changelog_offset: int | None, note: bytes = b"") -> None:
        written: Rows = list(rows)
        self._disk.before_write()
        for key, value in written:
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value
        if changelog_offset is not None:
            self._rows[_OFFSET] = b"%d %s" % (changelog_offset, note)
        self._rows[_SEQUENCE] = b"%d" % (self.sequence() + 1)
        if self._disk.is_flushed():
            self.flush()

    def flush(self) -> None:
        """Write all rows in memory to the disk at once, with their changelog offset."""
        self._disk.files[self._path] = dict(self._rows)

    merge = PartitionFile.merge

    def changelog_offset(self) -> int | None:
        value = self._rows.get(_OFFSET)
        return None if value is None else int(value.partition(b" ")[0])

    def note(self) -> bytes:
        return self._rows.get(_OFFSET, b"").partition(b" ")[2]

    def sequence(self) -> int:
        return int(self._rows.get(_SEQUENCE, b"0"))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return ((key, value) for key, value in self._rows.items() if key not in (_OFFSET, _SEQUENCE))

    def close(self) -> None:
        self.flush()


class MemoryAccounts(MemoryFile):
    """A file of accounts in memory, a VersionedFile without RocksDB. It tells newer from older by the real code."""

    merge = VersionedFile.merge


def apply_changelog(table: PartitionedStore, records: list[Any]) -> None:
    """Recover a table from records of one partition of its changelog, as `streams.worker.recovery` does."""
    last = records[-1]
    table.apply(last.partition, [(record.key, record.value) for record in records], last.offset)
