"""The rivals of the dedup index: a set, SQLite, PostgreSQL. Each is given the ids in the same batches."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.dedup.ids import Phase, batch_count, bytes_on_disk, ids_of, in_another_order, rss_mb
from tests.benchmarks.rivals.postgres import find_binaries, server

Claim = Callable[[list[bytes], int], int]
"""Keeps ids under an offset; returns how many of them were new."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A rival index. `open` gives an empty one in a directory; `missing` says what is not installed, or ""."""

    note: str
    open: Callable[[Path], AbstractContextManager[Claim]]
    missing: Callable[[], str] = lambda: ""


def run_baseline(name: str, ids: int, directory: Path, seconds_max: float) -> dict[str, Any]:
    """Run a rival: claim `ids` ids, then claim the same ids again in another order, each for `seconds_max` at most."""
    baseline = BASELINES[name]
    if missing := baseline.missing():
        return {"name": name, "skipped": missing}
    kept: list[int] = []
    fresh, repeated = Phase(), Phase()
    new = twice = 0
    with baseline.open(directory) as claim:
        while len(kept) < batch_count(ids) and fresh.seconds < seconds_max:
            new += fresh.run(claim, ids_of(len(kept)), len(kept))
            kept.append(len(kept))
        for batch in in_another_order(len(kept)):
            twice += repeated.run(claim, ids_of(batch), batch)
            if repeated.seconds >= seconds_max:
                break
        memory_mb = rss_mb()
    return {
        "name": name,
        "ids": fresh.ids,
        "complete": len(kept) == batch_count(ids),
        "new_ids_per_second": fresh.per_second,
        "repeated_ids_per_second": repeated.per_second,
        "wrong": fresh.ids - new + twice,
        "rss_mb": memory_mb,
        "disk_bytes_per_id": round(bytes_on_disk(directory) / fresh.ids, 1),
        "note": baseline.note,
    }


@contextmanager
def _set(directory: Path) -> Iterator[Claim]:
    kept: set[bytes] = set()

    def claim(ids: list[bytes], offset: int) -> int:
        before = len(kept)
        kept.update(ids)
        return len(kept) - before

    yield claim


@contextmanager
def _sqlite(directory: Path) -> Iterator[Claim]:
    database = sqlite3.connect(directory / "seen.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute('CREATE TABLE seen (id BLOB PRIMARY KEY, "offset" INTEGER NOT NULL) WITHOUT ROWID')

    def claim(ids: list[bytes], offset: int) -> int:
        before = database.total_changes
        database.execute("BEGIN")
        database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", ((each, offset) for each in ids))
        database.execute("COMMIT")
        return database.total_changes - before

    yield claim
    database.close()


@contextmanager
def _postgres(directory: Path) -> Iterator[Claim]:
    import psycopg

    binaries = find_binaries()
    assert binaries is not None
    with (
        server(binaries, fsync=True) as socket_dir,
        psycopg.connect(f"host={socket_dir} user=bench dbname=postgres", autocommit=True) as connection,
    ):
        connection.execute('CREATE TABLE seen (id bytea PRIMARY KEY, "offset" bigint NOT NULL)')

        def claim(ids: list[bytes], offset: int) -> int:
            statement = "INSERT INTO seen SELECT id, %s FROM unnest(%s::bytea[]) AS id ON CONFLICT DO NOTHING"
            return int(connection.execute(statement, (offset, ids)).rowcount)

        yield claim
        row = connection.execute("SELECT pg_total_relation_size('seen')").fetchone()
        # The server's files go with it. A file as large as the table and its index stands for them in bytes_on_disk.
        with (directory / "seen").open("wb") as file:
            file.truncate(int(row[0]))


def _missing_postgres() -> str:
    if find_binaries() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if find_spec("psycopg") is None:
        return "psycopg is not installed: uv sync --group bench"
    return ""


BASELINES = {
    "set": Baseline("a Python set: in memory, not durable, keeps no offsets", _set),
    "sqlite": Baseline(
        "SQLite: PRIMARY KEY WITHOUT ROWID, a transaction a batch, WAL, synchronous NORMAL; never expires", _sqlite
    ),
    "postgres": Baseline(
        "PostgreSQL: INSERT ... ON CONFLICT DO NOTHING, a statement and a commit a batch, fsync on; never expires",
        _postgres,
        _missing_postgres,
    ),
}
