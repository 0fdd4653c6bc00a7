"""Migrations are applied once and in order, on the real engine, embedded and over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import MIGRATIONS_DIR, MigrationError, migrate, read_migrations

FIRST = """\
-- Why: a comment may end in a semicolon;
CREATE TABLE IF NOT EXISTS one (id UInt64) ENGINE = MergeTree ORDER BY id;

-- and so may one between statements;
CREATE TABLE IF NOT EXISTS two (name String DEFAULT 'a;b') ENGINE = MergeTree ORDER BY name
"""
SECOND = "ALTER TABLE one ADD COLUMN IF NOT EXISTS name String;\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_tables.sql").write_text(FIRST)
    (tmp_path / "0002_name.sql").write_text(SECOND)
    (tmp_path / "README.md").write_text("not a migration")
    return tmp_path


def columns(clickhouse: ClickHouse) -> set[tuple[str, str]]:
    rows = clickhouse.query(
        "SELECT table, name FROM system.columns WHERE table IN ('one', 'two') AND database = 'default'"
    )
    return {(table, name) for table, name in rows}


def recorded(clickhouse: ClickHouse) -> list[tuple[int, str]]:
    return [
        (row[0], row[1]) for row in clickhouse.query("SELECT version, name FROM schema_migrations ORDER BY version")
    ]


def test_each_migration_is_applied_once_in_order_and_recorded(clickhouse: ClickHouse, folder: Path) -> None:
    assert migrate(clickhouse, folder) == ["0001_tables.sql", "0002_name.sql"]
    assert columns(clickhouse) == {("one", "id"), ("one", "name"), ("two", "name")}
    assert recorded(clickhouse) == [(1, "tables"), (2, "name")]

    assert migrate(clickhouse, folder) == []
    (folder / "0003_more.sql").write_text("ALTER TABLE two ADD COLUMN IF NOT EXISTS more UInt8")
    assert migrate(clickhouse, folder) == ["0003_more.sql"]
    assert ("two", "more") in columns(clickhouse)
    assert recorded(clickhouse) == [(1, "tables"), (2, "name"), (3, "more")]


def test_a_crash_before_the_record_is_made_good_by_the_next_run(clickhouse: ClickHouse, folder: Path) -> None:
    clickhouse.command(read_migrations(folder)[0].statements[0])
    assert migrate(clickhouse, folder) == ["0001_tables.sql", "0002_name.sql"]
    clickhouse.command("ALTER TABLE schema_migrations DELETE WHERE version = 2 SETTINGS mutations_sync = 1")
    assert migrate(clickhouse, folder) == ["0002_name.sql"]


def test_two_processes_that_recorded_the_same_migration_do_no_harm(embedded: ClickHouse, folder: Path) -> None:
    migrate(embedded, folder)
    embedded.command("INSERT INTO schema_migrations SELECT * FROM schema_migrations")
    assert migrate(embedded, folder) == []


def test_a_refused_statement_is_named_and_what_follows_is_not_applied(embedded: ClickHouse, folder: Path) -> None:
    (folder / "0002_name.sql").write_text("SELECT 1;\nALTER TABLE nowhere ADD COLUMN a UInt8;\n")
    (folder / "0003_more.sql").write_text("CREATE TABLE IF NOT EXISTS three (id UInt8) ENGINE = Memory")
    with pytest.raises(
        MigrationError, match=r"0002_name\.sql: statement 2 failed; correct it and run again: .*nowhere"
    ):
        migrate(embedded, folder)
    assert recorded(embedded) == [(1, "tables")]
    (folder / "0002_name.sql").write_text(SECOND)
    assert migrate(embedded, folder) == ["0002_name.sql", "0003_more.sql"]


def test_a_migration_changed_after_it_was_applied_is_refused(clickhouse: ClickHouse, folder: Path) -> None:
    migrate(clickhouse, folder)
    (folder / "0001_tables.sql").write_text(FIRST + "-- an afterthought\n")
    (folder / "0003_more.sql").write_text("DROP TABLE one")
    with pytest.raises(MigrationError, match=r"0001_tables\.sql: changed since it was applied.*in a new migration"):
        migrate(clickhouse, folder)
    assert ("one", "id") in columns(clickhouse)


def test_a_renamed_or_a_missing_migration_is_refused(embedded: ClickHouse, folder: Path) -> None:
    migrate(embedded, folder)
    renamed = (folder / "0002_name.sql").rename(folder / "0002_title.sql")
    with pytest.raises(MigrationError, match=r"0002_title\.sql: changed since it was applied \(as 0002_name\.sql\)"):
        migrate(embedded, folder)
    renamed.unlink()
    with pytest.raises(MigrationError, match=r"0002_name\.sql: applied to this database but not in "):
        migrate(embedded, folder)


@pytest.mark.parametrize(
    ("file_name", "message"),
    [
        ("0004_gap.sql", r"0004_gap\.sql: 0003 is missing before it"),
        ("0002_other.sql", r"0002_other\.sql: 0002_name\.sql has this number too; give it 0003"),
        ("0000_zero.sql", r"0000_zero\.sql: 0001 is missing before it"),
        ("3_short.sql", r"3_short\.sql: rename it NNNN_name\.sql"),
        ("0003_Upper.sql", r"0003_Upper\.sql: rename it NNNN_name\.sql"),
    ],
)
def test_file_names_that_leave_the_order_open_are_refused(folder: Path, file_name: str, message: str) -> None:
    (folder / file_name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=message):
        read_migrations(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="not a folder"):
        read_migrations(tmp_path / "nowhere")


def test_line_endings_do_not_change_a_migration(folder: Path) -> None:
    before = read_migrations(folder)
    (folder / "0001_tables.sql").write_bytes(FIRST.replace("\n", "\r\n").encode())
    assert read_migrations(folder) == before


def test_the_projects_own_migrations_can_be_applied_twice(embedded: ClickHouse) -> None:
    names = migrate(embedded)
    assert names == [migration.file_name for migration in read_migrations(MIGRATIONS_DIR)]
    embedded.command("TRUNCATE TABLE schema_migrations")
    assert migrate(embedded) == names
