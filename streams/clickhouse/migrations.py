"""Numbered ClickHouse migrations: `NNNN_name.sql` files, each applied once, in order, and recorded with its checksum.

A statement ends with `;` at the end of a line. ClickHouse has no transaction around DDL, so a crash may leave a
migration half applied and unrecorded; the next run applies it again from the top. Therefore every statement must be
idempotent (IF NOT EXISTS, IF EXISTS).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.exceptions import Error as DriverError

from streams.clickhouse.client import ClickHouse
from streams.errors import OperatorError
from streams.settings import PROJECT_ROOT

MIGRATIONS_DIR = PROJECT_ROOT / "clickhouse" / "migrations"

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_STATEMENT_END = re.compile(r";[ \t]*$", re.MULTILINE)
_COMMENT_LINE = re.compile(r"^\s*--.*$", re.MULTILINE)

# Two processes that migrate at once may both record a migration: the rows are equal, and reading takes one of them.
_CREATE_RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version UInt32,
    name String,
    checksum FixedString(64),
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = MergeTree ORDER BY version
"""
_READ_RECORD = "SELECT version, any(name), any(checksum) FROM schema_migrations GROUP BY version ORDER BY version"
_READ_ENGINE = "SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations'"
_COUNT_SHARDS = "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = {cluster:String}"
_RECORD = """
INSERT INTO schema_migrations (version, name, checksum)
SETTINGS async_insert = 0
VALUES ({version:UInt32}, {name:String}, {checksum:String})
"""


class MigrationError(OperatorError):
    """The migrations cannot be applied; the message names the file and the remedy."""


@dataclass(frozen=True)
class Migration:
    """A migration file: its number, its name without number and ending, and its text."""

    version: int
    name: str
    text: str

    @property
    def file_name(self) -> str:
        return f"{self.version:04d}_{self.name}.sql"

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements, without whole-line comments (a `;` that ends one does not end a statement)."""
        pieces = _STATEMENT_END.split(_COMMENT_LINE.sub("", self.text))
        return [piece.strip() for piece in pieces if piece.strip()]


def migrate(clickhouse: ClickHouse, folder: Path = MIGRATIONS_DIR) -> list[str]:
    """Apply the migrations that the connection's database lacks; gives their file names, oldest first.

    Everything is checked before the first statement runs. Raises MigrationError for a file name that is not
    `NNNN_name.sql`, a duplicate number or a gap, a file changed or removed after it was applied, a statement that
    ClickHouse refuses (those before it stay applied; correct the file and run again), a cluster that can't keep the
    history, and a history that is a single server's where there is a cluster, or the other way round.
    """
    migrations = read_migrations(folder)
    _check_engines(clickhouse)
    clickhouse.command(_CREATE_RECORD)
    recorded = clickhouse.consistent().query(_READ_RECORD)
    applied = {int(version): (str(name), _text(checksum)) for version, name, checksum in recorded}
    _refuse_rewritten_history(applied, migrations, folder)
    pending = [migration for migration in migrations if migration.version not in applied]
    for migration in pending:
        _apply(clickhouse, migration)
    return [migration.file_name for migration in pending]


def read_migrations(folder: Path) -> list[Migration]:
    """The folder's migrations in order, their numbers checked to be 1, 2, 3, ..."""
    if not folder.is_dir():
        raise MigrationError(f"{folder} is not a folder: name the one that holds the migrations")
    migrations: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: rename it NNNN_name.sql, in lower case, such as 0001_raw.sql")
        version, due = int(match[1]), len(migrations) + 1
        if migrations and version == migrations[-1].version:
            raise MigrationError(f"{path.name}: {migrations[-1].file_name} has this number too; give it {due:04d}")
        if version != due:
            raise MigrationError(f"{path.name}: {due:04d} is missing before it; restore that file or renumber this one")
        migrations.append(Migration(version, match[2], path.read_text(encoding="utf-8")))
    return migrations


def _check_engines(clickhouse: ClickHouse) -> None:
    """Raise MigrationError where the tables that are there, or the cluster that is named, are not as they must be."""
    cluster = clickhouse.cluster
    if cluster is not None:
        ((shards,),) = clickhouse.query(_COUNT_SHARDS, {"cluster": cluster})
        if shards != 1:
            raise MigrationError(
                f"METERLINE_CLICKHOUSE_CLUSTER is {cluster}: ClickHouse knows {shards} shards of a cluster of that "
                "name, in its remote_servers, and the history needs one, whose replicas each have all of it"
            )
    engines = [row[0] for row in clickhouse.query(_READ_ENGINE)]
    if engines and engines[0].startswith("Replicated") != (cluster is not None):
        whose = "a single server's" if cluster is not None else "a cluster's"
        raise MigrationError(
            f"the history in this database is {whose}, and METERLINE_CLICKHOUSE_CLUSTER says otherwise: set it as it "
            "was, or point METERLINE_CLICKHOUSE_URL to an empty database, where history is written anew from the log"
        )


def _refuse_rewritten_history(applied: dict[int, tuple[str, str]], migrations: list[Migration], folder: Path) -> None:
    by_version = {migration.version: migration for migration in migrations}
    for version, (name, checksum) in applied.items():
        migration = by_version.get(version)
        if migration is None:
            raise MigrationError(
                f"{version:04d}_{name}.sql: applied to this database but not in {folder}; "
                "run the version of Meterline that has it, or restore the file"
            )
        if (migration.name, migration.checksum) != (name, checksum):
            raise MigrationError(
                f"{migration.file_name}: changed since it was applied (as {version:04d}_{name}.sql); "
                "restore its text and put the change in a new migration"
            )


def _apply(clickhouse: ClickHouse, migration: Migration) -> None:
    for position, statement in enumerate(migration.statements, start=1):
        try:
            clickhouse.command(statement)
        except DriverError as error:
            raise MigrationError(
                f"{migration.file_name}: statement {position} failed; correct it and run again: {error}"
            ) from error
    clickhouse.command(_RECORD, {"version": migration.version, "name": migration.name, "checksum": migration.checksum})


def _text(value: object) -> str:
    """The text of a FixedString, which comes back as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
