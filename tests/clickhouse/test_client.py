"""The ClickHouse client keeps what Meterline relies on, on the real engine: embedded, and over HTTP where that
differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from streams.clickhouse import client as module
from streams.clickhouse.client import CALLS_AT_ONCE_MAX, INSERT_ROWS_MAX, ClickHouse, ClickHouseError, Pack
from streams.clickhouse.limits import LONG
from streams.settings import PROJECT_ROOT, Settings

OCTOBER = datetime(2025, 10, 9, 12, 30, 15, 678_000, tzinfo=UTC)
OCTOBER_MS = 1_760_013_015_678
COLUMNS = {"id": "UInt64", "name": "String", "booked_at": "DateTime64(3, 'UTC')"}


@pytest.fixture
def table(clickhouse: ClickHouse) -> str:
    return create_table(clickhouse)


def create_table(clickhouse: ClickHouse) -> str:
    clickhouse.command(
        "CREATE TABLE facts (id UInt64, name String, booked_at DateTime64(3, 'UTC')) "
        "ENGINE = MergeTree PARTITION BY toYYYYMM(booked_at) ORDER BY id"
    )
    return "facts"


def insert(clickhouse: ClickHouse, rows: Sequence[tuple[int, str, int]], partitions_max: int = 1) -> int:
    packs = [Pack((), msgspec.msgpack.encode(rows), len(rows))]
    return clickhouse.insert_packs("facts", {}, COLUMNS, packs, partitions_max=partitions_max)


def parts(clickhouse: ClickHouse) -> list[int]:
    """The row counts of the table's parts as they were inserted."""
    found = clickhouse.query("SELECT rows FROM system.parts WHERE table = 'facts' AND level = 0 AND active")
    return sorted(rows for (rows,) in found)


@pytest.mark.parametrize(
    "text", ["it's", "'; DROP TABLE facts; --", "tab\tnewline\nback\\slash", "{name:String}", "é ✓", ""]
)
def test_a_value_is_bound_and_never_becomes_sql(clickhouse: ClickHouse, table: str, text: str) -> None:
    insert(clickhouse, [(1, text, OCTOBER_MS)])
    rows = clickhouse.query("SELECT name, {name:String} FROM facts WHERE name = {name:String}", {"name": text})
    assert [tuple(row) for row in rows] == [(text, text)]


def test_parameters_without_a_placeholder_are_refused_because_the_driver_would_paste_them(embedded: ClickHouse) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        embedded.query("SELECT %(name)s", {"name": "x"})


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=9))])
def test_a_time_is_asked_for_in_any_zone_and_given_in_utc(clickhouse: ClickHouse, table: str, zone: timezone) -> None:
    at = OCTOBER.astimezone(zone)
    insert(clickhouse, [(1, "", OCTOBER_MS)])
    rows = clickhouse.query("SELECT booked_at FROM facts WHERE booked_at = {at:DateTime64(3, 'UTC')}", {"at": at})
    assert [tuple(row) for row in rows] == [(OCTOBER,)]
    assert all(row[0].utcoffset() == timedelta(0) for row in rows)


def test_the_hosts_zone_changes_nothing(tmp_path: Path) -> None:
    printed = run_apart(
        tmp_path,
        """
        from datetime import UTC, datetime
        at = datetime(2025, 7, 1, tzinfo=UTC)
        print(clickhouse.query("SELECT timezone(), toDateTime('2025-07-01 00:00:00') = {at:DateTime64(3)}", {"at": at}))
        """,
        TZ="America/New_York",
    )
    assert printed == "[('UTC', 1)]"


def test_an_insert_into_one_partition_is_one_part(clickhouse: ClickHouse, table: str) -> None:
    count = 100_000
    assert insert(clickhouse, [(number, "x", OCTOBER_MS) for number in range(count)]) == count
    assert parts(clickhouse) == [count]


def test_an_insert_of_rows_so_wide_that_the_engine_would_cut_it_is_one_part_still(embedded: ClickHouse) -> None:
    create_table(embedded)
    count = 100_000
    insert(embedded, [(number, "x" * 3_000, OCTOBER_MS) for number in range(count)])
    assert parts(embedded) == [count]


def test_what_packs_share_is_in_each_of_their_rows(clickhouse: ClickHouse) -> None:
    clickhouse.command("CREATE TABLE facts (partition UInt16, record UInt64, id UInt64) ENGINE = MergeTree ORDER BY id")
    packs = [Pack((7, n), msgspec.msgpack.encode([[10 * n], [10 * n + 1]]), 2) for n in range(2)]
    shared = {"partition": "UInt16", "record": "UInt64"}
    assert clickhouse.insert_packs("facts", shared, {"id": "UInt64"}, packs) == 4
    rows = clickhouse.query("SELECT partition, record, id FROM facts ORDER BY id")
    assert [tuple(row) for row in rows] == [(7, 0, 0), (7, 0, 1), (7, 1, 10), (7, 1, 11)]
    assert parts(clickhouse) == [4]


def test_the_same_block_sent_again_is_taken_once(clickhouse: ClickHouse) -> None:
    clickhouse.command(
        "CREATE TABLE facts (id UInt64, name String, booked_at DateTime64(3)) ENGINE = MergeTree ORDER BY id "
        "SETTINGS non_replicated_deduplication_window = 10"
    )
    for name in ("a", "a", "b"):
        insert(clickhouse, [(1, name, OCTOBER_MS)])
    assert parts(clickhouse) == [1, 1]


def test_an_insert_that_spans_partitions_is_refused_whole(clickhouse: ClickHouse, table: str) -> None:
    november_ms = OCTOBER_MS + 31 * 86_400_000
    with pytest.raises(DatabaseError) as refused:
        insert(clickhouse, [(1, "a", OCTOBER_MS), (2, "b", november_ms)])
    assert refused.value.code == 252
    assert parts(clickhouse) == []
    insert(clickhouse, [(1, "a", OCTOBER_MS), (2, "b", november_ms)], partitions_max=2)
    assert parts(clickhouse) == [1, 1]


def test_an_insert_too_large_for_one_block_is_refused_and_an_empty_one_does_nothing(
    clickhouse: ClickHouse, table: str
) -> None:
    with pytest.raises(ValueError, match="one block"):
        clickhouse.insert_packs(table, {}, COLUMNS, [Pack((), b"", INSERT_ROWS_MAX + 1)])
    assert clickhouse.insert_packs(table, {}, COLUMNS, []) == 0
    assert parts(clickhouse) == []


def test_a_process_killed_while_it_inserts_leaves_whole_blocks(tmp_path: Path) -> None:
    inserting = """
        clickhouse.command("CREATE TABLE facts (id UInt64) ENGINE = MergeTree ORDER BY id")
        pack = Pack((), msgspec.msgpack.encode([[number] for number in range(5_000)]), 5_000)
        while True:
            clickhouse.insert_packs("facts", {}, {"id": "UInt64"}, [pack])
            print("inserted", flush=True)
    """
    with subprocess.Popen(apart(tmp_path, inserting), stdout=subprocess.PIPE, cwd=PROJECT_ROOT) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline() == b"inserted\n"
        process.send_signal(signal.SIGKILL)
    printed = run_apart(tmp_path, 'print(clickhouse.query("SELECT count() >= 100_000, count() % 5_000 FROM facts")[0])')
    assert printed == "(1, 0)"


def test_csv_is_what_the_engine_writes_header_included(clickhouse: ClickHouse, table: str) -> None:
    insert(clickhouse, [(1, 'say "hi", ✓', OCTOBER_MS), (2, "two\nlines", OCTOBER_MS)])
    csv = clickhouse.stream_csv(
        'SELECT id AS "an ""id""", name, booked_at FROM facts WHERE id < {limit:UInt64} ORDER BY id', {"limit": 10}
    )
    assert b"".join(csv).decode() == (
        '"an ""id""","name","booked_at"\n'
        '1,"say ""hi"", ✓","2025-10-09 12:30:15.678"\n'
        '2,"two\nlines","2025-10-09 12:30:15.678"\n'
    )


def test_csv_of_nothing_is_a_header(clickhouse: ClickHouse, table: str) -> None:
    assert b"".join(clickhouse.stream_csv("SELECT id FROM facts")) == b'"id"\n'


def test_csv_without_a_header_is_its_lines(clickhouse: ClickHouse, table: str) -> None:
    assert b"".join(clickhouse.stream_csv("SELECT id FROM facts", header=False)) == b""
    insert(clickhouse, [(1, "a", OCTOBER_MS), (2, "b", OCTOBER_MS)])
    lines = clickhouse.stream_csv("SELECT id, name FROM facts ORDER BY id", header=False, crlf=True)
    assert b"".join(lines) == b'1,"a"\r\n2,"b"\r\n'


def test_csv_is_streamed(embedded: ClickHouse) -> None:
    endless = embedded.limited(LONG).stream_csv("SELECT number FROM system.numbers")
    next(endless)
    assert next(endless).startswith(b"0\n1\n2\n")
    endless.close()


def test_a_mistake_in_a_streamed_query_is_raised_before_its_first_byte(clickhouse: ClickHouse) -> None:
    for _ in range(CALLS_AT_ONCE_MAX + 1):
        with pytest.raises(DatabaseError) as refused:
            clickhouse.stream_csv("SELECT nothing FROM nowhere")
        assert refused.value.code == 60


def test_a_streamed_query_that_fails_half_way_raises(embedded: ClickHouse) -> None:
    csv = embedded.limited(LONG).stream_csv("SELECT throwIf(number = 1_000_000) FROM numbers(2_000_000)")
    with pytest.raises(StreamFailureError):
        list(csv)
    assert embedded.query("SELECT 1") == [(1,)]


def test_inserts_and_queries_go_on_while_results_are_being_streamed(embedded: ClickHouse, streams: None) -> None:
    create_table(embedded)
    for number in range(5):
        insert(embedded, [(number, "x", OCTOBER_MS)])
        assert embedded.query("SELECT count() FROM facts") == [(number + 1,)]


@pytest.fixture
def streams(embedded: ClickHouse) -> Iterator[None]:
    """Streams that nobody reads take all places for calls but one."""
    opened = [embedded.stream_csv("SELECT number FROM system.numbers") for _ in range(CALLS_AT_ONCE_MAX - 1)]
    yield
    for stream in opened:
        stream.close()


def test_one_call_too_many_waits_and_then_says_so_but_inserts_go_on(
    embedded: ClickHouse, streams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_WAIT_SECONDS_MAX", 0.05)
    create_table(embedded)
    last = embedded.stream_csv("SELECT number FROM system.numbers")
    with pytest.raises(ClickHouseError, match="try again later"):
        embedded.query("SELECT 1")
    assert insert(embedded, [(1, "x", OCTOBER_MS)]) == 1
    last.close()
    assert embedded.query("SELECT count() FROM facts") == [(1,)]


def test_threads_insert_and_query_at_once(clickhouse: ClickHouse, table: str) -> None:
    def insert_from(first: int) -> int:
        return insert(clickhouse, [(number, "x", OCTOBER_MS) for number in range(first, first + 100)])

    def query(_: int) -> int:
        rows = clickhouse.query("SELECT count() % 100, uniqExact(id) = count() FROM facts")
        return int(tuple(rows[0]) == (0, 1))

    with ThreadPoolExecutor(8) as pool:
        inserted = pool.map(insert_from, range(0, 3_000, 100))
        consistent = pool.map(query, range(30))
        assert sum(inserted) == 3_000
        assert all(consistent)


def test_a_directory_that_another_process_has_open_is_refused_with_the_remedy(
    engine: ClickHouse, data_dir: Path
) -> None:
    printed = run_apart(data_dir, "", expect_failure=True)
    assert "another Meterline process has it open: query it through its HTTP front, or stop it" in printed
    assert engine.query("SELECT 1") == [(1,)]


def test_a_server_that_is_not_there_or_not_named_right_is_refused_without_showing_its_password() -> None:
    for url in ("http://me:secret@127.0.0.1:1/x", "clickhouse://me:secret@127.0.0.1", "http://"):
        with pytest.raises(ClickHouseError) as refused:
            ClickHouse(Settings(clickhouse_url=url))
        assert "secret" not in str(refused.value)


def test_a_closed_clickhouse_refuses_calls_and_lets_go_of_its_directory(tmp_path: Path) -> None:
    printed = run_apart(
        tmp_path,
        """
        from streams.clickhouse.client import ClickHouseError
        stream = clickhouse.stream_csv("SELECT number FROM system.numbers")
        clickhouse.close()
        try:
            clickhouse.query("SELECT 1")
        except ClickHouseError as error:
            print(error)
        status = settings.clickhouse_dir / "status"
        print(len(next(stream)) > 0, status.exists())
        stream.close()
        print(status.exists())
        """,
    )
    assert printed == "ClickHouse was closed\nTrue True\nFalse"


def apart(data_dir: Path, body: str) -> list[str]:
    """The command that opens ClickHouse in `data_dir` in a process of its own and runs `body`."""
    opening = f"""
        from pathlib import Path
        import msgspec
        from streams.clickhouse.client import ClickHouse, Pack
        from streams.settings import Settings
        settings = Settings(data_dir=Path({str(data_dir)!r}), clickhouse_url=None)
        clickhouse = ClickHouse(settings)
    """
    return [sys.executable, "-c", textwrap.dedent(opening) + textwrap.dedent(body)]


def run_apart(data_dir: Path, body: str, *, expect_failure: bool = False, **environment: str) -> str:
    """Run `body` in a process of its own, and return what it printed, or its error output where it has to fail."""
    done = subprocess.run(
        apart(data_dir, body),
        cwd=PROJECT_ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode != 0) == expect_failure, done.stderr
    return (done.stderr if expect_failure else done.stdout).strip()
