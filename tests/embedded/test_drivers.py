"""Drivers that people use read through the front: clickhouse-jdbc (DBeaver), clickhouse-go (Grafana) as recorded, and
clickhouse_connect; and what they need of it, compressed blocks and Native of a protocol version."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl

import clickhouse_connect
import httpx
import pytest
from clickhouse_cityhash.cityhash import CityHash128
from clickhouse_connect.common import set_setting
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.clickhouse.client import ClickHouse
from streams.embedded.clickhouse_front import READER_BODY_BYTES_MAX, create_front
from streams.embedded.front.compressed_blocks import BLOCK_BYTES, METHODS, BadBlocks, pack, unpack
from streams.embedded.front.native_blocks import NotGiven, blocks, columns_of, version_of
from tests.embedded import jdbc, recorded
from tests.engine import Serve


@pytest.fixture(scope="module")
def url(engine: ClickHouse, serve: Serve) -> str:
    for sql in recorded.TABLE:
        engine.command(sql)
    return serve(create_front(engine))


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60.0) as client:
        yield client


def test_the_jdbc_driver_reads_through_it_with_its_defaults(url: str, engine: ClickHouse) -> None:
    where = url.replace("http://", "jdbc:clickhouse://") + "/default"
    answers = jdbc.ask(
        where,
        [
            "SELECT id, name, amount, note FROM facts WHERE id < 3 ORDER BY id",
            "SELECT count(), sum(amount) FROM facts",
            "SELECT number, repeat('x', 1000) FROM numbers(2500)",
            "SELECT * FROM facts WHERE id > 1000000",
            "SHOW TABLES",
            "SELECT * FROM nowhere",
            "DROP TABLE facts",
            "SELECT throwIf(number = 3) FROM numbers(10)",
            ["getSchemas"],
            ["getTables", None, "default", "%", None],
            ["getColumns", None, "default", "facts", "%"],
            ["getPrimaryKeys", None, "default", "facts"],
        ],
    )
    assert answers[0] == [["0", "n0", "0", "None"], ["1", "n1", "1000001", "odd"], ["2", "n2", "2000002", "None"]]
    assert answers[1] == [[str(each) for each in engine.query("SELECT count(), sum(amount) FROM facts")[0]]]
    assert len(answers[2]) == 2500 and answers[2][-1] == ["2499", "x" * 1000]
    assert answers[3:5] == [[], [["facts"]]]
    for answer, code in zip(answers[5:8], (60, 164, 395), strict=True):
        assert f"Code: {code}. DB::Exception: " in answer
    assert "default" in [row[0] for row in answers[8]]
    assert [row[2] for row in answers[9]] == ["facts"]
    assert [row[3] for row in answers[10]] == ["id", "name", "amount", "at", "metadata", "note", "rare"]
    assert [row[3] for row in answers[11]] == ["id"]


@pytest.mark.parametrize("session", recorded.sessions(), ids=lambda session: str(session.compression))
def test_clickhouse_go_gets_the_bytes_that_it_read_when_it_was_recorded(
    session: recorded.Session, http: httpx.Client, engine: ClickHouse
) -> None:
    """The recording says what the driver made of them, too."""
    asked = [exchange for exchange in session.exchanges if exchange.body != recorded.HELLO]
    assert [exchange.body for exchange in asked] == recorded.STATEMENTS
    for exchange, said in zip(asked, session.said, strict=True):
        params = dict(parse_qsl(exchange.query))
        assert params["client_protocol_version"] == "54460" and params["default_format"] == "Native"
        answer = http.post("/", params=params, headers=exchange.headers, content=exchange.body.encode())
        is_packed = params.get("compress") == "1" and exchange.status == 200
        assert answer.status_code == exchange.status
        assert _plain(answer.content, is_packed) == _plain(exchange.answer_bytes, is_packed)
        assert isinstance(said, list) == (exchange.status == 200)
    first = session.said[0]
    assert isinstance(first, list)
    assert [row[:3] for row in first] == [[str(n), f"n{n % 3}", str(n * 1000001)] for n in range(9)]


def test_clickhouse_go_is_greeted_as_it_needs(http: httpx.Client, engine: ClickHouse) -> None:
    (hello,) = {exchange.query for session in recorded.sessions()[:1] for exchange in session.exchanges[:1]}
    answer = http.post("/", params=dict(parse_qsl(hello)), content=recorded.HELLO.encode()).content
    name, version, revision, zone = engine.query("SELECT displayName(), version(), revision(), 'UTC'")[0]

    def column(title: bytes, kind: bytes, value: bytes) -> bytes:
        return _text(title) + _text(kind) + b"\0" + value

    assert answer == b"".join(
        [
            b"\x01\x00\x02\xff\xff\xff\xff\x00" + b"\x04\x01",
            column(b"displayName()", b"String", _text(name.encode())),
            column(b"version()", b"String", _text(version.encode())),
            column(b"revision()", b"UInt32", struct.pack("<I", revision)),
            column(b"timezone()", b"String", _text(zone.encode())),
        ]
    )


def _plain(content: bytes, is_packed: bool) -> bytes:
    return unpack(content, 1 << 20) if is_packed else content


def _text(value: bytes) -> bytes:
    assert len(value) < 0x80
    return bytes([len(value)]) + value


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    """The driver with its defaults, of which Meterline's own processes change one."""
    target = httpx.URL(url)
    set_setting("use_protocol_version", True)
    yield clickhouse_connect.get_client(host=target.host, port=target.port)
    set_setting("use_protocol_version", False)


STATEMENTS = [
    *recorded.STATEMENTS[:8],
    "SELECT 1, 1",
    "SELECT id, facts.id FROM facts ORDER BY id LIMIT 3",
    "SELECT 1 AS a UNION ALL SELECT 1",
    "WITH x AS (SELECT name, amount FROM facts) SELECT name, max(amount) FROM x GROUP BY name ORDER BY name",
    "SELECT name, count() FROM facts GROUP BY name WITH TOTALS ORDER BY name",
    "SELECT name, count() FROM facts GROUP BY ROLLUP(name) ORDER BY ALL",
    "SELECT * FROM facts AS l, facts AS r WHERE l.id = r.id ORDER BY l.id LIMIT 2",
    "SELECT a.id, b.note FROM facts AS a LEFT JOIN facts AS b ON b.id = a.id + 999 ORDER BY ALL LIMIT 3",
    "SELECT id FROM facts ORDER BY id LIMIT 2 FORMAT Native SETTINGS max_threads = 1, extremes = 1",
    "SELECT 1 AS `x FORMAT Native`, ' FORMAT Native' AS y",
    "SELECT 1 AS `x FORMAT Native` FORMAT `native`",
    "SELECT 1 AS `\\\\ \\n \\` é 🙂`",
    f"SELECT 1 AS `{'n' * 300}`",
    "SELECT (SELECT max(id) FROM facts) AS m",
    "SELECT materialize(1) WHERE 0",
    "FROM facts SELECT id LIMIT 1",
    "((SELECT 1) EXCEPT (SELECT 2))",
    "SELECT '{\"a\": [1, null]}'::JSON, 1::Dynamic, 'x'::Variant(UInt8, String)",
    "SELECT 1::BFloat16, INTERVAL 1 DAY, (1., 2.)::Point, '12:30:00'::Time, NULL, [], map(), tuple(1)",
    "SHOW CREATE TABLE facts",
    "SHOW COLUMNS FROM facts",
    "SHOW DATABASES FORMAT Native",
    "EXISTS TABLE facts",
    "EXPLAIN SELECT 1",
    "EXPLAIN header = 1 SELECT id FROM facts",
    "DESCRIBE TABLE (SELECT id FROM facts)",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_blocks_of_version_0_are_the_engines_own_for_every_kind_of_statement(
    sql: str, http: httpx.Client, engine: ClickHouse
) -> None:
    """A later version adds to each block what the versions added, and not a byte else."""
    native, later, latest = (
        http.post("/", content=sql.encode(), params={"default_format": "Native", "max_threads": "1"} | version).content
        for version in ({}, {"client_protocol_version": "54405"}, {"client_protocol_version": "54460"})
    )
    count = later.count(b"\x01\x00\x02\xff\xff\xff\xff\x00")
    assert count >= 1
    if native:
        plain = later.replace(b"\x01\x00\x02\xff\xff\xff\xff\x00", b"")
        # Version 0 has no time zone in a type.
        assert plain.replace(b"\x18DateTime('Europe/Paris')", b"\x08DateTime") == native
        assert len(latest) == len(later) + count * native[0]
    else:
        assert count == 1


_SIMPLE = st.sampled_from(
    [
        *("UInt8", "Int16", "UInt64", "Int256", "Float32", "Float64", "Decimal(9,2)", "Decimal(38,10)", "Bool"),
        *("String", "FixedString(3)", "UUID", "IPv4", "IPv6", "Date", "Date32", "DateTime", "DateTime64(6)"),
        *("Enum8('a'=1,'JSON'=2)", "Enum16('b\\'c'=-3)"),
    ]
)
_KEYS = st.sampled_from(["String", "UInt32", "Date", "LowCardinality(String)", "FixedString(2)"])
_TYPES = st.recursive(
    _SIMPLE | _SIMPLE.map("Nullable({})".format) | st.just("LowCardinality(Nullable(String))") | _KEYS,
    lambda inner: st.one_of(
        inner.map("Array({})".format),
        st.tuples(_KEYS, inner).map(lambda pair: f"Map({pair[0]}, {pair[1]})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda types: f"Tuple({', '.join(types)})"),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda types: f"Tuple({', '.join(f'n{place} {kind}' for place, kind in enumerate(types))})"
        ),
    ),
    max_leaves=4,
)


@given(types=st.lists(_TYPES, min_size=1, max_size=4), rows=st.integers(0, 70), block=st.integers(1, 40))
@settings(max_examples=60)
def test_blocks_of_version_0_are_the_engines_own_for_every_type(
    engine: ClickHouse, types: list[str], rows: int, block: int
) -> None:
    structure = ", ".join(f"c{place} {kind}" for place, kind in enumerate(types)).replace("\\", "\\\\")
    literal = structure.replace("'", "\\'")
    sql = f"SELECT * FROM generateRandom('{literal}', 1, 5, 3) LIMIT {rows} SETTINGS max_block_size = {block}"
    connection = engine.engine_connection()
    try:
        connection.query("SET max_threads = 1, print_pretty_type_names = 0")
        native = connection.query(sql, "Native").bytes()
        buffers = connection.query(sql, "Buffers").bytes()
        columns = columns_of(connection, sql, {})
    finally:
        connection.close()
    assert b"".join(blocks(columns, buffers, 0)) == native
    assert [column.name for column in columns] == [f"c{place}" for place in range(len(types))]


def test_clickhouse_connect_reads_versioned_blocks_with_settings_of_its_own(client: Client, engine: ClickHouse) -> None:
    assert client.protocol_version == 54405
    rows = client.query("SELECT * FROM facts ORDER BY id", settings={"max_threads": 1, "max_block_size": 100})
    assert rows.row_count == 1000 and rows.first_row[:2] == (0, "n0")
    assert client.query("SELECT getSetting('max_threads')", settings={"max_threads": 1}).first_row == (1,)
    assert client.query("SELECT id, name FROM facts WHERE id > 1000000").column_names == ("id", "name")
    assert client.query("SELECT id FROM facts WHERE id > 1000000").result_rows == []
    assert client.query_df("SELECT name, count() AS uses FROM facts GROUP BY name")["uses"].sum() == 1000
    assert client.query("SELECT {a:UInt8}, {b:String}", {"a": 3, "b": "it's \\ \t"}).first_row == (3, "it's \\ \t")
    with pytest.raises(DatabaseError) as refused:
        client.query("SELECT 1", settings={"max_execution_time": 100_000})
    assert refused.value.code == 164


def test_settings_of_a_client_apply_to_all_its_queries(url: str) -> None:
    target = httpx.URL(url)
    own = clickhouse_connect.get_client(
        host=target.host, port=target.port, settings={"max_threads": 1, "session_timezone": "Asia/Tokyo"}
    )
    assert own.query("SELECT getSetting('max_threads'), toString(toDateTime(0))").first_row == (
        1,
        "1970-01-01 09:00:00",
    )


@pytest.mark.parametrize("method", METHODS)
@given(data=st.binary(max_size=3000), times=st.sampled_from([1, 1000]))
@settings(max_examples=20)
def test_what_is_packed_is_unpacked(method: str, data: bytes, times: int) -> None:
    packed = pack(data * times, method)
    assert unpack(packed, len(data) * times) == data * times
    if data:
        with pytest.raises(BadBlocks):
            unpack(packed, len(data) * times - 1)


def test_blocks_are_those_that_the_engine_writes_to_its_disk(engine: ClickHouse, data_dir: Path) -> None:
    engine.command("CREATE TABLE logged (n UInt64) ENGINE = Log")
    engine.command("INSERT INTO logged SELECT number FROM numbers(100000)")
    (path,) = (file for file in data_dir.rglob("n.bin") if "logged" in str(file.parent) or file.stat().st_size > 0)
    assert unpack(path.read_bytes(), 1 << 20) == struct.pack("<100000Q", *range(100_000))
    engine.command("DROP TABLE logged")


@given(
    data=st.binary(max_size=200),
    method=st.sampled_from(sorted(METHODS)),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    end=st.integers(0, 300),
    is_signed=st.booleans(),
)
@settings(max_examples=300)
def test_foreign_blocks_are_unpacked_within_bounds_or_refused(
    data: bytes, method: str, changes: list[tuple[int, int]], end: int, is_signed: bool
) -> None:
    block = bytearray(pack(data, method))[: end or None]
    for place, value in changes:
        if place < len(block):
            block[place] = value
    if is_signed:
        number = CityHash128(bytes(block[16:]))
        block[:16] = struct.pack("<QQ", number >> 64, number % 2**64)
    for foreign in (bytes(block), data):
        with suppress(BadBlocks):
            assert len(unpack(foreign, 1000)) <= 1000


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_packed_as_its_client_asks(http: httpx.Client, method: str) -> None:
    sql = b"SELECT repeat('abcdefgh', 1000) FROM numbers(1000) FORMAT TSVRaw"
    plain = http.post("/", content=sql).content
    packed = http.post("/", content=sql, params={"compress": "1", "network_compression_method": method}).content
    assert len(plain) > 7 * BLOCK_BYTES and unpack(packed, len(plain)) == plain
    assert method == "NONE" or len(packed) < len(plain) / 10
    assert http.post("/", content=b"SELECT 1", params={"compress": "1"}).content == pack(b"1\n")
    wrong = http.post("/", content=b"SELECT nope", params={"compress": "1"})
    assert wrong.status_code == 404 and wrong.text.startswith("Code: 47. DB::Exception: ")


@pytest.mark.parametrize(
    ("params", "content", "status", "told"),
    [
        ({"decompress": "1"}, pack(b"SELECT 1"), 200, "1\n"),
        ({"decompress": "1"}, pack(b"SELECT 1", "ZSTD"), 200, "1\n"),
        ({"decompress": "1", "query": "SELECT"}, pack(b" 2"), 200, "2\n"),
        ({"decompress": "1"}, b"SELECT 1", 400, "within its header"),
        ({"decompress": "1"}, pack(b"SELECT 1")[:-1], 400, "shorter than it says"),
        ({"decompress": "1"}, b"\0" * 16 + pack(b"SELECT 1")[16:], 400, "checksum"),
        ({"decompress": "1"}, pack(b"SELECT 1" + b" " * READER_BODY_BYTES_MAX), 400, "more than 1048576 bytes"),
        ({"decompress": "1"}, pack(b"DROP TABLE facts"), 403, "READONLY"),
        ({"compress": "1", "network_compression_method": "T64"}, b"SELECT 1", 400, "network_compression_method"),
        ({"network_compression_method": "LZ4"}, b"SELECT 1", 403, "network_compression_method"),
        ({"client_protocol_version": "1"}, b"SELECT 1", 501, "send 54405 or later"),
        ({"client_protocol_version": "-1"}, b"SELECT 1", 501, "send 54405 or later"),
        ({"client_protocol_version": "9" * 5000}, b"SELECT 1", 501, "send 54405 or later"),
        ({"client_protocol_version": "0"}, b"SELECT 1", 200, "1\n"),
        ({"client_protocol_version": "54515"}, b"SELECT 1", 200, "1\n"),
    ],
)
def test_a_request_is_read_as_its_parameters_say_or_refused_in_one_line(
    http: httpx.Client, params: dict[str, str], content: bytes, status: int, told: str
) -> None:
    answer = http.post("/", params=params, content=content)
    assert (answer.status_code, answer.text.count("\n")) == (status, 1)
    assert told in answer.text


@pytest.mark.parametrize(
    ("sql", "version", "told"),
    [
        ("SELECT sumState(id) FROM facts", "54460", "finalizeAggregation"),
        ("SELECT [sumState(id)] FROM facts", "54452", "finalizeAggregation"),
        ("SELECT 1::Dynamic", "54473", "toString"),
        ("SELECT [map('a', '{}'::JSON)]", "54515", "toJSONString"),
        ("SELECT 1 SETTINGS output_format_native_encode_types_in_binary_format = 1", "54405", "leave one of them out"),
        ("SELECT 1 SETTINGS output_format_native_write_json_as_string = true", "54460", "leave one of them out"),
    ],
)
def test_what_cannot_be_given_in_a_version_is_refused_with_the_remedy(
    http: httpx.Client, sql: str, version: str, told: str
) -> None:
    params = {"default_format": "Native", "client_protocol_version": version}
    answer = http.post("/", params=params, content=sql.encode())
    assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (501, "48")
    assert told in answer.text and answer.text.count("\n") == 1
    fine = http.post(
        "/", params=params, content=b"SELECT 'a'::Enum8('a' = 1, 'JSON' = 2), 1::SimpleAggregateFunction(max, UInt8)"
    )
    assert fine.status_code == 200


def test_versions_before_low_cardinality_are_not_spoken() -> None:
    assert [version_of(text) for text in ("0", "54405", "54460")] == [0, 54405, 54460]
    for wrong in ("", "1", "54404", "x", "54460.0", "-54460", "٥٤٤٦٠"):
        with pytest.raises(NotGiven):
            version_of(wrong)
