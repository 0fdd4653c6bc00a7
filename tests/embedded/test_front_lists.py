"""Everything that the engine knows is tried at the front's lists: settings, formats, functions, table functions and the
tables of `system`. A reader gets what is listed, and nothing else; what a new engine brings is refused until it is."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

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
from tests import seeds
from tests.engine import Serve

REFUSED = (403, "164")
ASKED_BY_URL = 300

# What reaches out of the database, tells of the machine or of others, keeps a thread busy, or takes the name of a
# format or of a table as a string. No listed function may look like one of these.
DANGEROUS = re.compile(
    r"__.*|ai[A-Z].*|AI[A-Z].*|addressTo.*|catboost.*|connection_?id|current(Handler|Profiles|RequestURL|Roles)|"
    r"(default|enabled)(Profiles|Roles)|demangle|dict[A-Z].*|evalMLMethod|file|filesystem.*|formatRow.*|FQDN|"
    r"fullHostName|fuzz.*|generateSerialID|get(ClientHTTPHeader|Macro|MergeTreeSetting|OSKernelVersion|Server.*)|hasColumnInTable|"
    r"host[nN]ame|joinGet.*|logTrace|mergeTreePartInfo|naiveBayesClassifier.*|region[A-Z].*|serverUUID|shard.*|"
    r"showCertificate|sleep.*|tcpPort|tid|transaction[A-Z].*|zookeeper.*|url|s3|remote|executable|python"
)

# What drivers send that is taken and changes nothing: the front stops a query whose client goes in any case, and
# compresses nothing.
ALREADY_SO = {
    "cancel_http_readonly_queries_on_client_close",
    "enable_http_compression",
    "http_headers_progress_interval_ms",
    "send_progress_in_http_headers",
}

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
def http(engine: ClickHouse, serve: Serve) -> Iterator[HTTPConnection]:
    connection = HTTPConnection(urlsplit(serve(create_front(engine))).netloc, timeout=60.0)
    yield connection
    connection.close()


def column(engine: ClickHouse, sql: str) -> list[str]:
    return [row[0] for row in engine.query(sql)]


def ask(http: HTTPConnection, sql: str, headers: dict[str, str] | None = None, **params: str) -> tuple[int, str | None]:
    # The front closes a connection that is idle for some seconds, while the engine is asked for its lists.
    http.close()
    http.request("POST", f"/?{urlencode(params)}", sql.encode(), headers or {})
    answer = http.getresponse()
    assert b"confidential" not in answer.read()
    return answer.status, answer.headers.get("x-clickhouse-exception-code")


def by_url_and_in_sql(http: HTTPConnection, name: str, value: str) -> list[tuple[int, str | None]]:
    return [ask(http, "SELECT 1", **{name: value}), ask(http, f"SELECT 1 SETTINGS {name} = '{value}'")]


@pytest.fixture(scope="module")
def judged(engine: ClickHouse) -> Callable[[list[str]], list[bool]]:
    """A function that says of each statement whether it passes the judge, after the engine's own formatter; None of
    what that can't read."""
    names = refused_names(lambda sql: column(engine, sql))

    def passes(formatted: str | None) -> bool | None:
        if formatted is None:
            return None
        try:
            judge(formatted, {}, False, names)
        except NotAllowed:
            return False
        return True

    def judge_all(statements: list[str]) -> list[bool]:
        rows = engine.query("SELECT formatQuerySingleLineOrNull(arrayJoin({all:Array(String)}))", {"all": statements})
        return [passes(row[0]) for row in rows]

    return judge_all


def test_of_all_settings_only_listed_ones_can_be_set_by_url_or_in_sql(
    engine: ClickHouse, http: HTTPConnection, judged: Callable[[list[str]], list[bool]]
) -> None:
    known = dict(engine.query("SELECT name, value FROM system.settings"))
    listed = LIMITS.keys() | SETTINGS.keys()
    assert listed <= known.keys()
    # There are more than a thousand: each run asks for some of them, and in the end all have been asked for.
    for name in random.Random(seeds.BASE).sample(sorted(known.keys() - listed - ALREADY_SO), ASKED_BY_URL):
        other = "0" if known[name] == "1" else "1"
        assert ask(http, "SELECT 1", **{name: other}) == REFUSED, name
    for name in sorted(ALREADY_SO):
        assert by_url_and_in_sql(http, name, "0") == [(200, None), REFUSED], name
    for written in (
        "SELECT 1 SETTINGS {} = 1",
        "SELECT * FROM (SELECT 1 SETTINGS max_threads = 1, {} = 'a') FORMAT CSV",
    ):
        assert not any(judged([written.format(name) for name in known.keys() - listed]))


def test_listed_settings_can_be_set_by_url_and_in_sql(http: HTTPConnection) -> None:
    for name in sorted(SETTINGS):
        value = WORDS.get(name, "throw" if name.endswith("_mode") else "1")
        assert by_url_and_in_sql(http, name, value) == [(200, None)] * 2, name
        assert by_url_and_in_sql(http, name, "/etc/passwd' x")[0] == REFUSED, name


def test_limits_can_only_be_lowered(http: HTTPConnection) -> None:
    for name, most in LIMITS.items():
        lower = DEFAULTS.get(name, "100000")
        assert by_url_and_in_sql(http, name, lower) == [(200, None)] * 2, name
        for wrong in ["0", "-1", "auto", "1e30", *([str(int(most) + 1)] if most is not None else [])]:
            assert by_url_and_in_sql(http, name, wrong) == [REFUSED, REFUSED], (name, wrong)
    assert ask(http, "SELECT 1 FROM numbers(3) SETTINGS max_rows_to_read = 2") == (500, "158")
    assert ask(http, "SELECT 1 FROM (SELECT 1 SETTINGS max_threads = 100000)") == REFUSED


def test_of_all_formats_only_listed_ones_are_given(engine: ClickHouse, http: HTTPConnection) -> None:
    known = column(engine, "SELECT name FROM system.formats")
    assert {name.lower() for name in known}.issuperset(FORMATS)
    for name in known:
        expected = (200, None) if name.lower() in FORMATS else REFUSED
        ways = [
            ask(http, f"SELECT 1 AS one FORMAT {name}"),
            ask(http, "SELECT 1 AS one", default_format=name),
            ask(http, "SELECT 1 AS one", headers={"x-clickhouse-format": name}),
        ]
        assert ways == [expected] * 3, name


def test_no_setting_and_no_format_prints_a_file_or_calls_out(http: HTTPConnection, tmp_path: Path) -> None:
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
        assert ask(http, "SELECT 1 AS a", **params)[0] in (400, 403)
    assert [path.name for path in tmp_path.iterdir()] == ["admin-key"]


def test_of_all_functions_only_listed_ones_can_be_named(
    engine: ClickHouse, judged: Callable[[list[str]], list[bool]]
) -> None:
    known = column(engine, "SELECT DISTINCT name FROM system.functions ORDER BY name")
    assert {name.lower() for name in known} >= FUNCTIONS
    assert [name for name in known if DANGEROUS.fullmatch(name) and name.lower() in FUNCTIONS] == []
    for written in ("SELECT `{}`(1)", "SELECT arrayMap(`{}`, [1])", "SELECT * APPLY(`{}`) FROM (SELECT 1)"):
        passed = judged([written.format(name) for name in known])
        asked = [(name, fine) for name, fine in zip(known, passed, strict=True) if fine is not None]
        assert len(asked) > 0.98 * len(known)
        assert [name for name, fine in asked if fine != (name.lower() in FUNCTIONS)] == []


def test_of_all_table_functions_only_listed_ones_can_be_called(
    engine: ClickHouse, http: HTTPConnection, judged: Callable[[list[str]], list[bool]]
) -> None:
    known = column(engine, "SELECT name FROM system.table_functions")
    assert {name.lower() for name in known}.issuperset(TABLE_FUNCTIONS)
    both = {name.lower() for name in column(engine, "SELECT name FROM system.functions")}
    for written in ("SELECT * FROM `{}`('a', 'b')", "DESCRIBE TABLE {}('a')", "SELECT 1 IN (SELECT 1 FROM {}('a'))"):
        passed = dict(zip(known, judged([written.format(name) for name in known]), strict=True))
        for name in known:
            if name.lower() not in both:
                assert passed[name] in (None, name.lower() in TABLE_FUNCTIONS), name
    # The name of an allowed function, `format`, is also that of a table function, which the engine denies.
    for name in known:
        if name.lower() not in TABLE_FUNCTIONS and name != "eval":
            assert ask(http, f"SELECT * FROM {name}('a', 'b')")[0] in (400, 403), name


def test_of_all_tables_of_system_only_listed_ones_can_be_read(engine: ClickHouse, http: HTTPConnection) -> None:
    known = column(engine, "SELECT name FROM system.tables WHERE database = 'system'")
    for name in known:
        ways = [
            ask(http, f"SELECT * FROM `system` . `{name}` WHERE 0"),
            ask(http, f"SELECT * FROM {name} WHERE 0", database="system"),
            ask(http, "SELECT * FROM {d:Identifier}.{t:Identifier} WHERE 0", param_d="system", param_t=name),
        ]
        expected = (200, None) if name in SYSTEM_TABLES else REFUSED
        assert ways == [expected] * 3, name


@pytest.mark.parametrize(
    ("statement", "is_allowed"),
    [
        ("SHOW TABLES", True),
        ("SHOW FULL TABLES FROM system", True),
        ("SHOW DATABASES", True),
        ("SHOW CREATE DATABASE default", True),
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
        ("DESCRIBE TABLE (SELECT * FROM numbers(3))", True),
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
def test_statements_are_judged_as_the_engine_reads_them(http: HTTPConnection, statement: str, is_allowed: bool) -> None:
    status, _ = ask(http, statement, param_t="file", param_f="/etc/passwd")
    assert (status == 200) == is_allowed
    assert is_allowed or status in (400, 403, 404)


SOURCES = (
    "url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "file('/etc/passwd', 'LineAsString')",
    "s3('http://127.0.0.1:1/bucket/k', 'CSV', 'a String')",
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
