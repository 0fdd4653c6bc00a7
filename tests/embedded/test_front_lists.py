"""Everything that the engine knows is tried at the front's lists: settings, formats, functions, table functions and the
tables of `system`. A reader gets what is listed, and nothing else; what a new engine brings is refused until it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from streams.clickhouse.client import ClickHouse
from streams.embedded.clickhouse_front import create_front
from streams.embedded.front.allowed import (
    DEFAULTS,
    FORMATS,
    FUNCTIONS,
    LIMITS,
    SETTINGS,
    SYSTEM_TABLES,
    TABLE_FUNCTIONS,
    NotAllowed,
    refused_names,
)
from streams.embedded.front.statements import judge
from tests.engine import Serve

REFUSED = (403, "164")

# What reaches out of the database, tells of the machine or of others, keeps a thread busy, or takes the name of a format
# or of a table as a string. No listed function may look like one of these.
DANGEROUS = re.compile(
    r"__.*|ai[A-Z].*|AI[A-Z].*|addressTo.*|catboost.*|connection_?id|current(Handler|Profiles|RequestURL|Roles)|"
    r"(default|enabled)(Profiles|Roles)|demangle|dict[A-Z].*|evalMLMethod|file|filesystem.*|formatRow.*|FQDN|fullHostName|"
    r"fuzz.*|generateSerialID|get(ClientHTTPHeader|Macro|MergeTreeSetting|OSKernelVersion|Server.*)|hasColumnInTable|"
    r"host[nN]ame|joinGet.*|logTrace|mergeTreePartInfo|naiveBayesClassifier.*|region[A-Z].*|serverUUID|shard.*|"
    r"showCertificate|sleep.*|tcpPort|tid|transaction[A-Z].*|zookeeper.*|url|s3|remote|executable|python"
)

# A value for each kind of setting that is written with words.
WORDS = {
    "session_timezone": "Europe/Paris",
    "date_time_input_format": "best_effort",
    "date_time_output_format": "iso",
    "bool_true_representation": "yes",
    "bool_false_representation": "no",
    "join_default_strictness": "ANY",
    "union_default_mode": "ALL",
    "format_csv_delimiter": ";",
}


@pytest.fixture(scope="module")
def http(engine: ClickHouse, serve: Serve) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serve(create_front(engine)), timeout=60.0) as client:
        yield client


def column(engine: ClickHouse, sql: str) -> list[str]:
    return [row[0] for row in engine.query(sql)]


def ask(http: httpx.Client, sql: str, headers: dict[str, str] | None = None, **params: str) -> tuple[int, str | None]:
    answer = http.post("/", content=sql.encode(), params=params, headers=headers)
    return answer.status_code, answer.headers.get("x-clickhouse-exception-code")


def by_url_and_in_sql(http: httpx.Client, name: str, value: str) -> list[tuple[int, str | None]]:
    return [ask(http, "SELECT 1", **{name: value}), ask(http, f"SELECT 1 SETTINGS {name} = '{value}'")]


@pytest.fixture(scope="module")
def judged(engine: ClickHouse) -> Callable[[list[str]], list[bool]]:
    """A function that says of each statement whether it passes the judge, after the engine's own formatter."""
    names = refused_names(lambda sql: column(engine, sql))

    def passes(formatted: str) -> bool:
        try:
            judge(formatted, {}, False, names)
        except NotAllowed:
            return False
        return True

    def judge_all(statements: list[str]) -> list[bool]:
        rows = engine.query("SELECT formatQuerySingleLine(arrayJoin({all:Array(String)}))", {"all": statements})
        return [passes(row[0]) for row in rows]

    return judge_all


def test_of_all_settings_only_listed_ones_can_be_set_by_url_or_in_sql(engine: ClickHouse, http: httpx.Client) -> None:
    known = dict(engine.query("SELECT name, value FROM system.settings"))
    listed = LIMITS.keys() | SETTINGS.keys()
    assert listed <= known.keys()
    for name in sorted(known.keys() - listed):
        other = "0" if known[name] == "1" else "1"
        assert by_url_and_in_sql(http, name, other) == [REFUSED, REFUSED], name


def test_listed_settings_can_be_set_by_url_and_in_sql(http: httpx.Client) -> None:
    for name in sorted(SETTINGS):
        value = WORDS.get(name, "throw" if name.endswith("_mode") else "1")
        assert by_url_and_in_sql(http, name, value) == [(200, None)] * 2, name
        assert by_url_and_in_sql(http, name, "/etc/passwd' x")[0] == REFUSED, name


def test_limits_can_only_be_lowered(http: httpx.Client) -> None:
    for name, most in LIMITS.items():
        lower = DEFAULTS.get(name, "100000")
        assert by_url_and_in_sql(http, name, lower) == [(200, None)] * 2, name
        for wrong in ["0", "-1", "auto", "1e30", *([str(int(most) + 1)] if most is not None else [])]:
            assert by_url_and_in_sql(http, name, wrong) == [REFUSED, REFUSED], (name, wrong)
    assert ask(http, "SELECT 1 FROM numbers(3) SETTINGS max_rows_to_read = 2") == (500, "158")
    assert ask(http, "SELECT 1 FROM (SELECT 1 SETTINGS max_threads = 100000)") == REFUSED


def test_of_all_formats_only_listed_ones_are_given(engine: ClickHouse, http: httpx.Client) -> None:
    known = column(engine, "SELECT name FROM system.formats")
    assert {name.lower() for name in known} >= FORMATS
    for name in known:
        expected = (200, None) if name.lower() in FORMATS else REFUSED
        ways = [
            ask(http, f"SELECT 1 AS one FORMAT {name}"),
            ask(http, "SELECT 1 AS one", default_format=name),
            ask(http, "SELECT 1 AS one", headers={"x-clickhouse-format": name}),
            ask(http, f"SELECT 1 AS one FORMAT `{name.lower()}`"),
        ]
        assert ways == [expected] * 4, name


def test_no_setting_and_no_format_prints_a_file_or_calls_out(http: httpx.Client, tmp_path: Path) -> None:
    secret = tmp_path / "admin-key"
    secret.write_text("confidential")
    for params in (
        {"format_template_row": str(secret), "default_format": "Template"},
        {"format_template_resultset": str(secret)},
        {"format_schema": str(secret), "default_format": "Protobuf"},
        {"format_avro_schema_registry_url": "http://127.0.0.1:1", "default_format": "AvroConfluent"},
        {"output_format_schema": str(tmp_path / "written")},
        {"user_files_path": str(tmp_path)},
    ):
        answer = http.post("/", content=b"SELECT 1 AS a", params=params)
        assert answer.status_code == 403
        assert "confidential" not in answer.text
    assert [path.name for path in tmp_path.iterdir()] == ["admin-key"]


def test_of_all_functions_only_listed_ones_can_be_named(
    engine: ClickHouse, judged: Callable[[list[str]], list[bool]]
) -> None:
    known = column(engine, "SELECT DISTINCT name FROM system.functions ORDER BY name")
    assert FUNCTIONS <= {name.lower() for name in known}
    assert [name for name in known if DANGEROUS.fullmatch(name) and name.lower() in FUNCTIONS] == []
    for written in ("SELECT `{}`(1)", "SELECT arrayMap(`{}`, [1])", "SELECT * APPLY(`{}`) FROM (SELECT 1)"):
        passed = judged([written.format(name) for name in known])
        assert passed == [name.lower() in FUNCTIONS for name in known]


def test_of_all_table_functions_only_listed_ones_can_be_called(
    engine: ClickHouse, http: httpx.Client, judged: Callable[[list[str]], list[bool]]
) -> None:
    known = column(engine, "SELECT name FROM system.table_functions")
    assert {name.lower() for name in known} >= TABLE_FUNCTIONS
    both = {name.lower() for name in column(engine, "SELECT name FROM system.functions")}
    for written in ("SELECT * FROM `{}`('a', 'b')", "DESCRIBE TABLE {}('a')", "SELECT 1 IN (SELECT 1 FROM {}('a'))"):
        passed = judged([written.format(name) for name in known])
        assert [name for name, fine in zip(known, passed, strict=True) if fine and name.lower() not in both] == [
            name for name in known if name.lower() in TABLE_FUNCTIONS
        ]
    # The name of an allowed function, `format`, is also that of a table function, which the engine denies.
    for name in known:
        if name.lower() not in TABLE_FUNCTIONS and name != "eval":
            assert ask(http, f"SELECT * FROM {name}('a', 'b')")[0] in (400, 403), name


def test_of_all_tables_of_system_only_listed_ones_can_be_read(engine: ClickHouse, http: httpx.Client) -> None:
    known = column(engine, "SELECT name FROM system.tables WHERE database = 'system'")
    for name in known:
        ways = [
            ask(http, f"SELECT count() FROM (SELECT * FROM system.{name} LIMIT 1)"),
            ask(http, f"SELECT * FROM `system` . `{name}` LIMIT 1 FORMAT Null"),
            ask(http, f"SELECT * FROM {name} LIMIT 1 FORMAT Null", database="system"),
            ask(
                http, "SELECT * FROM {d:Identifier}.{t:Identifier} LIMIT 1 FORMAT Null", param_d="system", param_t=name
            ),
            ask(http, "SELECT * FROM system.{t:Identifier} LIMIT 1 FORMAT Null", param_t=name),
        ]
        expected = (200, None) if name in SYSTEM_TABLES else REFUSED
        assert ways == [expected] * 5, name


@pytest.mark.parametrize(
    ("statement", "is_allowed"),
    [
        ("SHOW TABLES", True),
        ("SHOW FULL TABLES FROM system", True),
        ("SHOW DATABASES", True),
        ("SHOW CREATE TABLE system.one", True),
        ("SHOW COLUMNS FROM one FROM system", True),
        ("SHOW FUNCTIONS", True),
        ("SHOW SETTINGS LIKE 'max_threads'", True),
        ("SHOW PROCESSLIST", False),
        ("SHOW GRANTS", False),
        ("SHOW USERS", False),
        ("SHOW CREATE USER default", False),
        ("SHOW ACCESS", False),
        ("SHOW CLUSTERS", False),
        ("SHOW NAMED COLLECTIONS", False),
        ("SET ROLE DEFAULT", False),
        ("EXECUTE AS default SELECT 1", False),
        ("EXPLAIN SELECT 1", True),
        ("EXPLAIN actions = 1 SELECT 1", True),
        ("EXPLAIN AST SELECT 1", True),
        ("EXPLAIN SYNTAX SELECT 1", True),
        ("EXPLAIN QUERY TREE SELECT 1", True),
        ("EXPLAIN PIPELINE graph = 1 SELECT 1", True),
        ("EXPLAIN SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')", False),
        ("EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'b', 'c', 'd', 'e') COLUMNS (a String)", False),
        ("EXPLAIN CURRENT TRANSACTION", False),
        ("DESCRIBE TABLE system.one", True),
        ("DESCRIBE TABLE numbers(3)", True),
        ("DESCRIBE TABLE system.processes", False),
        ("EXISTS TABLE system.one", True),
        ("CHECK TABLE system.one", False),
        ("BACKUP DATABASE default TO File('x')", False),
        ("WATCH x", False),
        ("SELECT 1 -- ' SETTINGS\n", True),
        ("SELECT 1 /* ` */ AS `a \\` b`", True),
        ("SELECT $x$ SETTINGS readonly = 0 $x$", True),
        ("SELECT 'a''b\\'c', \"quoted\" FROM (SELECT 1 AS quoted) SETTINGS max_threads = 1, extremes = 1", True),
        ("SELECT `file` FROM (SELECT 1 AS `file`)", False),
        ("SELECT `url` FROM (SELECT 1 AS url)", True),
        ("SELECT merge FROM (SELECT 1 AS merge)", True),
        ("SELECT * FROM merge('system', 'processes')", False),
        ("SELECT sumIf(number, number > 1), uniqExactArray([number]) FROM numbers(3) GROUP BY ALL", True),
        ("SELECT * FROM {t:Identifier}('/etc/passwd')", False),
        ("SELECT * FROM {f:Identifier}", False),
    ],
)
def test_statements_are_judged_as_the_engine_reads_them(http: httpx.Client, statement: str, is_allowed: bool) -> None:
    status, _ = ask(http, statement, param_t="file", param_f="/etc/passwd")
    assert (status == 200) == is_allowed
    assert is_allowed or status in (400, 403)


SOURCES = (
    "url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "file('/etc/passwd', 'LineAsString')",
    "s3('http://127.0.0.1:1/b/k', 'CSV', 'a String')",
    "remote('127.0.0.1:1', 'system', 'one')",
    "mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "sqlite('/tmp/a', 'b')",
    "executable('id', 'TSV', 'a String')",
    "format(CSV, '1')",
    "`/etc/passwd`",
)


@pytest.mark.parametrize("source", SOURCES)
def test_behind_the_lists_the_engine_itself_denies_what_reaches_out(engine: ClickHouse, source: str) -> None:
    """Should a statement pass the judge by mistake, this wall stands."""
    connection = engine.engine_connection()
    try:
        connection.query("SET ROLE NONE")
        with pytest.raises(RuntimeError, match="ACCESS_DENIED"):
            connection.query(f"SELECT * FROM {source}")
    finally:
        connection.close()
