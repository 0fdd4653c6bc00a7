"""`meterline doctor --production` finds what production lacks, and says of each thing how to put it right."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, cast

import pytest

from api.cli.production import (
    CLOCKS_APART_MS_MAX,
    admin_keys,
    clickhouse_clock,
    clickhouse_rights,
    clickhouse_schema,
    payments,
    production_checks,
    session_key,
    webhook_key,
)
from api.stack import Stack
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.kafka.clock import now_ms
from streams.settings import Settings
from tests.command_line import Meterline

GOOD = sha256(b"mtl_admin_x").hexdigest()


@pytest.mark.parametrize(
    ("hashes", "is_ok", "told"),
    [
        ([GOOD], True, "1 known by their hashes"),
        ([], False, "METERLINE_ADMIN_KEY_HASHES names none"),
        ([GOOD, "mtl_admin_x"], False, "number 2 of METERLINE_ADMIN_KEY_HASHES is the key itself"),
        ([GOOD[:-1]], False, "number 1 of METERLINE_ADMIN_KEY_HASHES is no SHA-256 in 64 lower-case hex digits"),
        ([GOOD.upper()], False, "number 1 of METERLINE_ADMIN_KEY_HASHES is no SHA-256 in 64 lower-case hex digits"),
        ([sha256(b"").hexdigest()], False, "number 1 of METERLINE_ADMIN_KEY_HASHES is the hash of nothing"),
        ([GOOD, GOOD], False, "METERLINE_ADMIN_KEY_HASHES has a hash twice"),
    ],
)
def test_admin_keys_are_known_by_what_can_be_their_hash(hashes: list[str], is_ok: bool, told: str) -> None:
    found = admin_keys(Settings(admin_key_hashes=hashes))
    assert found[:2] == (is_ok, told)
    assert "mtl_admin_x" not in " ".join(map(str, found))


@pytest.mark.parametrize(("setting", "check"), [("webhook_key", webhook_key), ("session_key", session_key)])
def test_a_key_that_signs_is_set_and_is_no_pattern_and_is_not_shown(setting: str, check: Any) -> None:
    for key, is_ok in ((None, False), ("ab" * 20, False), ("changeme" * 4, False), (GOOD, True)):
        found = check(Settings.model_validate({setting: key}))
        assert found[0] is is_ok
        assert key is None or key not in " ".join(map(str, found))


def test_payments_that_are_pretended_are_told() -> None:
    assert not payments(Settings())[0]
    assert payments(Settings.model_validate({"payments": "stripe", "stripe_secret_key": "sk_x"}))[0]


def test_a_schema_is_whole_once_it_is_migrated(embedded: ClickHouse) -> None:
    assert not clickhouse_schema(embedded)[0]
    migrate(embedded)
    assert clickhouse_schema(embedded)[0]
    embedded.command("ALTER TABLE schema_migrations DELETE WHERE version = 5 SETTINGS mutations_sync = 1")
    assert clickhouse_schema(embedded)[:2] == (False, "not applied: 0005_answers.sql")


def test_the_engine_s_rights_and_clock_are_looked_at(embedded: ClickHouse) -> None:
    assert clickhouse_rights(embedded)[0]
    assert clickhouse_clock(embedded)[0]


class _Answers:
    """A stand-in for a server whose user may do little, and whose clock is wrong: the embedded engine has neither."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if "now64" in sql:
            return [(now_ms() - 2 * CLOCKS_APART_MS_MAX,)]
        return [("meterline", "reader")] if "currentUser" in sql else [(int("SELECT" in sql),)]


def test_rights_that_are_missing_are_named_with_the_statement_that_gives_them() -> None:
    found = clickhouse_rights(cast(ClickHouse, _Answers()))
    assert found[:2] == (False, "reader lacks INSERT, ALTER, CREATE TABLE, CREATE VIEW")
    assert found[2].endswith("GRANT INSERT, ALTER, CREATE TABLE, CREATE VIEW ON meterline.* TO reader")
    is_ok, told, _ = clickhouse_clock(cast(ClickHouse, _Answers()))
    assert not is_ok and told.startswith("10.0 s apart")


def test_every_check_of_a_laptop_s_kafka_says_what_production_has_instead(stack: Stack, meterline: Meterline) -> None:
    assert stack.settings.kafka_url is not None
    where = {
        "METERLINE_KAFKA_URL": stack.settings.kafka_url,
        "METERLINE_TOPIC_PREFIX": stack.settings.topic_prefix,
        "METERLINE_DATA_DIR": str(stack.settings.data_dir),
        "METERLINE_ADMIN_KEY_HASHES": json.dumps([GOOD]),
        "METERLINE_KAFKA_ULR": "x",
    }
    done = meterline("doctor", "--production", "--json", **where)
    found = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert {name for name, _ in production_checks(Settings())} <= set(found)
    well = {"admin keys", "historians", "kafka's clock"}
    for name, remedy in (
        ("variables", "Rename or remove them."),
        ("webhook key", "openssl rand -hex 32"),
        ("payments", "METERLINE_PAYMENTS=stripe"),
        ("encryption", "METERLINE_KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
        ("access lists", "meterline topics --acls"),
        ("replication", "METERLINE_REPLICATION_FACTOR=3"),
        ("workers", "Run `meterline worker`"),
        ("clickhouse rights", "METERLINE_CLICKHOUSE_URL"),
    ):
        assert not found[name]["ok"] and remedy in found[name]["remedy"], found[name]
    assert [found[name] for name in well if not found[name]["ok"]] == []
    assert "METERLINE_KAFKA_URL?" in found["variables"]["detail"]
    assert found["workers"]["detail"].startswith("1 are there")


def test_without_production_none_of_it_is_looked_at(meterline: Meterline) -> None:
    checks = json.loads(meterline("doctor", "--json").stdout)["checks"]
    assert not {each["name"] for each in checks} & {name for name, _ in production_checks(Settings())}
