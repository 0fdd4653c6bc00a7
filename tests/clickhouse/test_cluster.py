"""A replicated ClickHouse, and what Meterline says to it. No cluster is here: the embedded engine parses each
statement, and is told by HTTP what a server would be told, as far as it goes along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.facts import PASSING_KINDS
from streams.clickhouse import migrations
from streams.clickhouse.analysts import Analyst, Quota, statements_to_add, statements_to_remove
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.cluster import CONSISTENT_SETTINGS, DDL_SETTINGS, QUORUM_SETTINGS, on_cluster
from streams.clickhouse.migrations import _CREATE_RECORD, MIGRATIONS_DIR, MigrationError, migrate, read_migrations
from streams.embedded.clickhouse_front import create_front
from streams.errors import OperatorError
from streams.settings import Settings
from tests.engine import Serve

CLUSTER = "meter"
FORMAT = "SELECT formatQuerySingleLine({sql:String})"
# Statements that are in no migration: of `migrate`, retention, `history promote` and `demote`.
OTHERS = [
    _CREATE_RECORD,
    "ALTER TABLE facts REMOVE TTL",
    f"ALTER TABLE facts MODIFY TTL toDateTime(booked_at) + INTERVAL 9 DAY DELETE WHERE kind IN {PASSING_KINDS}",
    "ALTER TABLE facts ADD COLUMN IF NOT EXISTS `metadata_campaign` String MATERIALIZED metadata CODEC(ZSTD)",
    "ALTER TABLE facts MATERIALIZE COLUMN `metadata_campaign` SETTINGS mutations_sync = 0",
    "ALTER TABLE facts DROP COLUMN IF EXISTS `metadata_campaign` SETTINGS mutations_sync = 0",
    "ALTER TABLE facts UPDATE metadata = '' WHERE project = 'acme' SETTINGS mutations_sync = 0",
]


def statements() -> Iterator[str]:
    """Every statement that makes or changes something in ClickHouse."""
    for migration in read_migrations(MIGRATIONS_DIR):
        yield from migration.statements
    ada = Analyst("ada", "acme", Quota())
    yield from (*OTHERS, *statements_to_add(ada, "a long password", "a`b", "o'w"), *statements_to_remove(ada, "a b"))


def test_every_statement_is_for_all_replicas_and_else_as_it_was(engine: ClickHouse) -> None:
    replicated = 0
    for statement in statements():
        ((as_it_was,),) = engine.query(FORMAT, {"sql": statement})
        ((found,),) = engine.query(FORMAT, {"sql": on_cluster(statement, CLUSTER)})
        assert found.count(f" ON CLUSTER {CLUSTER}") == 1, found
        engines = re.findall(r"ENGINE = (\w+)", found)
        assert ("CREATE TABLE" in found) == bool(engines)
        assert all(each.startswith("Replicated") for each in engines), found
        replicated += len(engines)
        back = found.replace(f" ON CLUSTER {CLUSTER}", "").replace("ENGINE = Replicated", "ENGINE = ")
        assert re.sub(r"\breplicated_dedup", "non_replicated_dedup", back) == as_it_was
    assert replicated == 7


def test_rows_are_left_alone_and_what_is_not_known_is_refused() -> None:
    for statement in ("INSERT INTO facts SELECT 1", "SELECT 'CREATE TABLE a (x Int8) ENGINE = MergeTree'"):
        assert on_cluster(statement, CLUSTER) == statement
    for statement in ("RENAME TABLE a TO b", "OPTIMIZE TABLE facts FINAL", "CREATE DICTIONARY d (x Int8)"):
        with pytest.raises(ValueError, match="how does a cluster"):
            on_cluster(statement, CLUSTER)


def test_the_settings_of_a_cluster_are_clickhouses(engine: ClickHouse) -> None:
    names = sorted({**QUORUM_SETTINGS, **CONSISTENT_SETTINGS, **DDL_SETTINGS})
    found = engine.query("SELECT name FROM system.settings WHERE name IN {names:Array(String)}", {"names": names})
    assert sorted(row[0] for row in found) == names
    wait_ms = QUORUM_SETTINGS["insert_quorum_timeout"]
    assert isinstance(wait_ms, int) and wait_ms < 1000 * 300, "shorter than the client waits"


@pytest.fixture(scope="module")
def asked() -> list[dict[str, str]]:
    """The settings of each request to the front, and as `sql` its statement where the URL has it."""
    return []


@pytest.fixture(scope="module")
def of_cluster(engine: ClickHouse, serve: Serve, asked: list[dict[str, str]]) -> Iterator[ClickHouse]:
    """A ClickHouse that is told that a cluster keeps the history. The engine behind it is one alone."""
    front: Any = create_front(engine, read_only=False, token="let me in")

    async def heard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.append(dict(parse_qsl(scope["query_string"].decode())))
        await front(scope, receive, send)

    app: ASGIApp = heard
    url = serve(app).replace("://", "://default:let%20me%20in@")  # type: ignore[arg-type]
    clickhouse = ClickHouse(Settings(clickhouse_url=f"{url}/default", clickhouse_cluster=CLUSTER))
    yield clickhouse
    clickhouse.close()


def test_an_insert_waits_for_a_quorum_and_marks_are_read_where_all_of_it_is(
    of_cluster: ClickHouse, embedded: ClickHouse, asked: list[dict[str, str]]
) -> None:
    embedded.command("CREATE TABLE numbers (partition UInt16, id UInt64) ENGINE = MergeTree ORDER BY id")
    asked.clear()
    of_cluster.insert_packs("numbers", {"partition": "UInt16"}, {"id": "UInt64"}, [Pack((1,), b"\x91\x91\x07", 1)])
    (insert,) = asked
    assert {name: insert[name] for name in QUORUM_SETTINGS} == {
        name: str(QUORUM_SETTINGS[name]) for name in QUORUM_SETTINGS
    }
    asked.clear()
    for clickhouse in (of_cluster, of_cluster.consistent(), embedded.consistent()):
        assert list(clickhouse.query("SELECT max(id) FROM numbers")) == [(7,)]
    # Behind what a new connection asks.
    assert ["select_sequential_consistency" in each for each in asked[-2:]] == [False, True]


def test_a_table_is_made_on_all_replicas_or_not_at_all(of_cluster: ClickHouse, embedded: ClickHouse) -> None:
    with pytest.raises(DatabaseError, match=f"Requested cluster '{CLUSTER}' not found"):
        of_cluster.command("CREATE TABLE numbers (id UInt64) ENGINE = MergeTree ORDER BY id")
    assert list(embedded.query("EXISTS TABLE numbers")) == [(0,)]


def test_a_cluster_that_can_not_keep_the_history_is_refused(
    of_cluster: ClickHouse, over_http: ClickHouse, embedded: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MigrationError, match="knows 0 shards of a cluster of that name"):
        migrate(of_cluster)
    assert migrate(over_http)
    monkeypatch.setattr(migrations, "_COUNT_SHARDS", "SELECT toUInt8({cluster:String} = 'meter')")
    with pytest.raises(MigrationError, match="is a single server's, and METERLINE_CLICKHOUSE_CLUSTER says otherwise"):
        migrate(of_cluster)


def test_a_cluster_needs_a_server(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="set METERLINE_CLICKHOUSE_URL to its servers"):
        Settings(data_dir=tmp_path, clickhouse_url=None, clickhouse_cluster=CLUSTER)
