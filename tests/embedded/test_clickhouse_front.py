"""The HTTP front of the embedded engine answers curl and clickhouse_connect as a ClickHouse server does."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import clickhouse_connect
import cramjam
import httpx
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from streams.clickhouse.client import ClickHouse, ClickHouseError
from streams.embedded.clickhouse_front import READER_BODY_BYTES_MAX, create_front
from streams.settings import Settings
from tests.engine import Serve

SECRET = "a secret of this machine"


@pytest.fixture(scope="module")
def writer_url(engine: ClickHouse, serve: Serve) -> str:
    return serve(create_front(engine, read_only=False))


def connect(url: str, **options: object) -> Client:
    target = httpx.URL(url)
    return clickhouse_connect.get_client(host=target.host, port=target.port, **options)  # type: ignore[arg-type]


def ask(url: str, query: str, **params: str) -> httpx.Response:
    return httpx.get(url, params={"query": query, **params})


def test_it_answers_as_curl_asks(url: str, table: str) -> None:
    assert ask(url, "SELECT 1").text == "1\n"
    assert httpx.post(url, content="SELECT 1 + 1 -- a comment").text == "2\n"
    assert httpx.post(url, params={"query": "SELECT"}, content="3").text == "3\n"
    answer = ask(url, "SELECT name FROM facts ORDER BY id FORMAT JSONEachRow", query_id="mine")
    assert answer.text == '{"name":"a"}\n{"name":"b"}\n'
    assert answer.headers["x-clickhouse-query-id"] == "mine"
    assert answer.headers["x-clickhouse-format"] == "JSONEachRow"
    assert '"read_rows": "2"' in answer.headers["x-clickhouse-summary"]
    counted = ask(url, "SELECT sum(id) FROM facts")
    assert '"read_rows": "2"' in counted.headers["x-clickhouse-summary"], "not the one row that it gives"


def test_it_says_that_it_is_there(url: str) -> None:
    assert httpx.get(f"{url}/ping").text == httpx.get(url).text == "Ok.\n"


def test_parameters_are_bound_and_settings_apply_to_their_request_alone(url: str) -> None:
    answer = ask(url, "SELECT {a:String}, {b:UInt8} + 1 FORMAT TSVRaw", param_a="it's \\\\ here", param_b="3")
    assert answer.text == "it's \\ here\t4\n"
    assert ask(url, "SELECT getSetting('max_threads')", max_threads="1", session_id="x").text == "1\n"
    assert ask(url, "SELECT getSetting('max_threads') = 1", max_threads="2").text == "0\n"
    assert ask(url, "SELECT 1 AS one", default_format="JSONEachRow").text == '{"one":1}\n'
    assert ask(url, "SELECT currentDatabase()", database="system").text == "system\n"
    assert ask(url, "SELECT currentDatabase()").text == "default\n"


@pytest.mark.parametrize(
    ("query", "status", "code", "name"),
    [
        ("SELECT FROM WHERE", 400, 62, "SYNTAX_ERROR"),
        ("SELECT * FROM nowhere", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
    ],
)
def test_an_error_has_clickhouses_code_and_a_status(url: str, query: str, status: int, code: int, name: str) -> None:
    answer = ask(url, query)
    assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (status, str(code))
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ") and name in answer.text


def test_an_unknown_setting_is_an_error_and_not_a_way_into_the_sql(url: str) -> None:
    assert ask(url, "SELECT 1", no_such_setting="1").headers["x-clickhouse-exception-code"] == "115"
    assert ask(url, "SELECT 1", **{"max_threads = 1, readonly": "0"}).status_code == 403
    assert ask(url, "SELECT getSetting('session_timezone')", session_timezone="'; SELECT 1").status_code >= 400


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count() FROM facts",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "WITH 1 AS x SELECT x",
        "FROM facts SELECT id",
        "SHOW TABLES",
        "SHOW CREATE TABLE facts",
        "DESCRIBE TABLE facts",
        "DESC (SELECT id FROM facts)",
        "EXPLAIN SELECT 1",
        "EXISTS TABLE facts",
        "SELECT\r\n\t1 AS `back\\\\slash`",
        "-- why\nSELECT 'INTO OUTFILE', 'it''s a file' AS `a file`;",
    ],
)
def test_a_reader_can_ask(url: str, table: str, query: str) -> None:
    assert httpx.post(url, content=query).status_code == 200


WRITES = [
    "INSERT INTO facts VALUES (3, 'c')",
    "INSERT INTO facts SELECT 3, 'c'",
    "CREATE TABLE more (id UInt8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE more (id UInt8)",
    "DROP TABLE facts",
    "TRUNCATE TABLE facts",
    "ALTER TABLE facts DELETE WHERE 1",
    "DELETE FROM facts WHERE 1",
    "OPTIMIZE TABLE facts FINAL",
    "RENAME TABLE facts TO other",
    "SYSTEM STOP MERGES facts",
    "KILL QUERY WHERE 1",
    "SET readonly = 0",
    "USE system",
    "SELECT 1 SETTINGS readonly = 0",
]


@pytest.mark.parametrize("query", WRITES)
def test_a_reader_can_change_nothing(url: str, table: str, embedded: ClickHouse, query: str) -> None:
    answer = httpx.post(url, content=query)
    assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (403, "164")
    assert embedded.query("SELECT count() FROM facts") == [(2,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 INTO OUTFILE '{path}'",
        "SELECT 1 INTO/**/OUTFILE '{path}' FORMAT CSV",
        "SELECT `it's` FROM (SELECT 1 AS `it's`) INTO OUTFILE '{path}'",
        "INSERT INTO FUNCTION file('{path}', 'CSV', 'a UInt8') SELECT 1",
        "SELECT file('{path}')",
        "SELECT `file` /* */ ('{path}')",
        "SELECT `it's`, file('{path}'), `it's` FROM (SELECT 1 AS `it's`)",
        "SELECT * APPLY(file) FROM (SELECT '{path}' AS path)",
        "SELECT arrayMap(file, ['{path}'])",
        "SELECT * FROM file('{path}', 'LineAsString')",
        "SELECT * FROM '{path}'",
        "DESCRIBE TABLE file('{path}', 'CSV')",
        "DESCRIBE TABLE url('http://127.0.0.1:1/', 'CSV')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "SELECT * FROM remote('127.0.0.1', 'system', 'one')",
        "SELECT * FROM Python(secrets)",
        "SELECT * FROM executable('id', 'TSV', 'a String')",
    ],
)
def test_a_reader_cannot_reach_out_of_the_database(url: str, tmp_path: Path, query: str) -> None:
    path = tmp_path / "apart.csv"
    if "OUTFILE" not in query and "INSERT" not in query:
        path.write_text("confidential")
    answer = httpx.post(url, content=query.format(path=path))
    assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (403, "164")
    assert "confidential" not in answer.text
    assert "OUTFILE" not in query or not path.exists()


@pytest.mark.parametrize("setting", ["readonly", "output_format_schema", "dialect"])
def test_a_reader_cannot_loosen_its_limits_by_a_setting(url: str, tmp_path: Path, setting: str) -> None:
    answer = ask(url, "SELECT 1 AS a FORMAT Protobuf", **{setting: str(tmp_path / "schema.proto")})
    assert answer.status_code == 403
    assert not list(tmp_path.iterdir())


def test_a_readers_body_is_limited(url: str) -> None:
    answer = httpx.post(url, content="SELECT 1" + " " * READER_BODY_BYTES_MAX)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "localhost:1234", 200),
        ("host", "[::1]", 200),
        ("host", "rebound.example", 403),
        ("host", "localhost.rebound.example", 403),
        ("origin", "http://localhost:8080", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "none", 200),
    ],
)
def test_a_page_of_another_site_gets_nothing(url: str, header: str, value: str, status: int) -> None:
    for address in (f"{url}/?query=SELECT+1", f"{url}/ping"):
        assert httpx.get(address, headers={header: value}).status_code == status


def test_a_token_is_asked_for_in_the_ways_that_clients_send_one(embedded: ClickHouse, serve: Serve) -> None:
    url = serve(create_front(embedded, token=SECRET))

    def status(headers: dict[str, str] | None = None, auth: tuple[str, str] | None = None) -> int:
        return httpx.get(url, params={"query": "SELECT 1"}, headers=headers, auth=auth).status_code

    assert httpx.get(f"{url}/ping").status_code == 200
    assert status({"authorization": f"Bearer {SECRET}"}) == 200
    assert status({"x-clickhouse-user": "me", "x-clickhouse-key": SECRET}) == 200
    assert status(auth=("default", SECRET)) == 200
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"x-clickhouse-key": ""}, {"authorization": "Basic ?"}):
        assert status(wrong) == 401
    assert status(auth=("default", SECRET + "x")) == 401
    assert connect(url, password=SECRET).query("SELECT 1").result_rows == [(1,)]
    with pytest.raises(DatabaseError) as refused:
        connect(url, password="wrong")
    assert refused.value.code == 516


def test_the_driver_reads_through_it(url: str, table: str) -> None:
    client = connect(url)
    assert client.ping()
    assert client.query("SELECT * FROM facts ORDER BY id").result_rows == [(1, "a"), (2, "b")]
    assert client.query("SELECT * FROM facts LIMIT 0").column_names == ("id", "name")
    assert client.query("SELECT name FROM facts WHERE id = {id:UInt64}", {"id": 2}).first_row == ("b",)
    assert client.command("SELECT name FROM facts WHERE id = 3") == ""
    with client.query_row_block_stream("SELECT number FROM numbers(200_000)") as blocks:
        assert sum(len(block) for block in blocks) == 200_000
    with pytest.raises(DatabaseError) as refused:
        client.command("DROP TABLE facts")
    assert refused.value.code == 164


@pytest.mark.parametrize("compress", [False, "gzip", "lz4", "zstd"])
def test_the_driver_writes_through_it_with_every_compression(writer_url: str, table: str, compress: bool | str) -> None:
    client = connect(writer_url, compress=compress)
    summary = client.insert(table, [[3, "c"], [4, "d\0'"]], column_names=["id", "name"])
    assert summary.written_rows == 2
    assert client.query("SELECT name FROM facts ORDER BY id").result_columns == [["a", "b", "c", "d\0'"]]
    client.command("TRUNCATE TABLE facts")
    assert client.query("SELECT count() FROM facts").first_row == (0,)


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress), ("lz4", cramjam.lz4.compress)],
)
def test_data_may_follow_its_insert_or_be_the_whole_body(
    writer_url: str, table: str, embedded: ClickHouse, encoding: str, compress: object
) -> None:
    pack = compress
    assert callable(pack)
    headers = {"content-encoding": encoding}
    insert = "INSERT INTO facts (id, name) FORMAT CSV"
    apart = httpx.post(writer_url, params={"query": insert}, content=bytes(pack(b"3,c\n")), headers=headers)
    together = httpx.post(writer_url, content=bytes(pack(insert.encode() + b"\n4,d\n5,e\n")), headers=headers)
    assert (apart.status_code, together.status_code) == (200, 200)
    assert httpx.post(writer_url, content="INSERT INTO facts VALUES (6, 'f')").status_code == 200
    assert embedded.query("SELECT count(), max(name) FROM facts") == [(6, "f")]


def test_an_insert_that_breaks_half_way_leaves_nothing(writer_url: str, table: str, embedded: ClickHouse) -> None:
    answer = httpx.post(writer_url, content="INSERT INTO facts FORMAT CSV\n3,c\nfour,d\n")
    assert answer.status_code >= 400
    assert embedded.query("SELECT count() FROM facts") == [(2,)]


def test_a_get_never_writes(writer_url: str, table: str, embedded: ClickHouse) -> None:
    assert ask(writer_url, "DROP TABLE facts").status_code == 403
    assert embedded.query("SELECT count() FROM facts") == [(2,)]


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-encoding": "br"}, b"x", 415),
        ({"content-encoding": "gzip"}, b"not gzip", 400),
        ({}, b"SELECT '\xff'", 400),
        ({}, b" ", 400),
    ],
)
def test_a_body_that_cannot_be_read_is_an_error(
    writer_url: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    assert httpx.post(writer_url, headers=headers, content=content).status_code == status


def test_only_an_embedded_engine_can_be_put_behind_it(url: str) -> None:
    over_http = ClickHouse(Settings(clickhouse_url=url))
    with pytest.raises(ClickHouseError, match="embedded"):
        create_front(over_http)
    over_http.close()
