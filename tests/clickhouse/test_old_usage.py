"""Usage from before Meterline is loaded whole or not at all, each use once; usage counts it, and nothing else does."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import OperationalError

from streams.clickhouse import old_usage
from streams.clickhouse.client import ClickHouse, ClickHouseError
from streams.clickhouse.erasures import Erasure, erase
from streams.clickhouse.limits import too_much
from streams.clickhouse.migrations import migrate
from streams.clickhouse.old_usage import OldUsageError, load_old_usage
from streams.core.erasures import customer_hash
from streams.embedded.clickhouse_front import create_front
from streams.history.usage import UsageQuestion, usage_page
from tests.clickhouse.test_erasures import MARKS, SUMS, fact, wait_for_mutations
from tests.command_line import Meterline
from tests.engine import Serve
from tests.history.lives import insert_facts

HEADER = "project,source,id,time,operation,credits,quantity,environment,customer_id,metadata\n"
EVER = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
ROWS = (
    "SELECT project, event_id, occurred_at, amount, quantity, environment, metadata FROM backfilled ORDER BY event_id"
)


def quiet(what: str, done: int, of: int) -> None:
    pass


def write(folder: Path, text: str, name: str = "old.csv") -> Path:
    path = folder / name
    path.write_text(HEADER + text, newline="")
    return path


@pytest.fixture
def history(clickhouse: ClickHouse) -> ClickHouse:
    """A history with two projects that were opened in June 2026, and a charge of each."""
    migrate(clickhouse)
    opened = [fact(n, None, "project", f"p{n}", reason="free", source="", amount=0, quantity=0) for n in (1, 2)]
    insert_facts(clickhouse, [*opened, *(fact(2 + n, {"customer_id": "ann"}, project=f"p{n}") for n in (1, 2))])
    return clickhouse


LINES = (
    "p1,/old,a,2026-05-01T00:00:00Z,image,32,,,ann,\n"
    'p1,/old,b,2026-05-01T02:00:00+02:00,image,0.020000,3,preview,"it\'s ""ann""","{""city"":""Oslo""}"\n'
    "p1,/old,a,2026-05-02T00:00:00Z,image,1,,,,\n"
    'p2,/old,a,2026-04-30T23:59:59.999Z,blog_post,60,1,production,,"{ }"\n'
    '"p1","/old","c\nd","2025-12-31T23:59:59Z","website",0,,,"bob","{""customer_id"":""bob""}"\n'
)


def test_a_file_is_loaded_once_and_counts_as_usage_alone(history: ClickHouse, tmp_path: Path) -> None:
    sums, marks = history.query(SUMS.format(0)), history.query(MARKS)
    ledger = history.query("SELECT * FROM ledger_entries ORDER BY ALL")
    usage = "SELECT toInt64(sum(uses)), sum(credits) FROM usage"
    ((uses, credits),) = history.query(usage)
    heard: list[tuple[str, int, int]] = []
    path = write(tmp_path, LINES)
    assert load_old_usage(history, path, lambda *told: heard.append(told)) == (5, 4, 1)
    assert heard[-1] == ("loading", 5, 5) and "checking" in {what for what, *_ in heard}
    rows = [tuple(row) for row in history.query(ROWS)]
    at = datetime(2026, 5, 1, tzinfo=UTC)
    assert rows[0][:6] == ("p1", "a", at, -32_000_000, 1, "production") or rows[0][0] == "p2"
    told = {(row[0], row[1]): row[2:] for row in rows}
    assert told["p1", "a"] == (at, -32_000_000, 1, "production", '{"customer_id":"ann"}')
    odd = '{"customer_id":"it\'s \\"ann\\"","city":"Oslo"}'
    assert told["p1", "b"] == (at, -20_000, 3, "preview", odd)
    assert told["p2", "a"][4] == "{ }" and told["p1", "c\nd"][4] == '{"customer_id":"bob"}'
    # Twice, and in another file, each is known.
    assert load_old_usage(history, path, quiet) == (5, 0, 5)
    more = write(tmp_path, LINES + "p2,/old,z,2026-01-01T00:00:00Z,image,32,,,,\n", "more.csv")
    assert load_old_usage(history, more, quiet) == (6, 1, 5)

    assert history.query(SUMS.format(0)) == sums and history.query(MARKS) == marks
    assert history.query("SELECT * FROM ledger_entries ORDER BY ALL") == ledger
    ((all_uses, all_credits),) = history.query(usage)
    assert (all_uses - uses, all_credits - credits) == (5, Decimal("124.02"))
    apart = "SELECT toInt64(sum(uses)), sum(credits) FROM usage WHERE reason != 'backfilled'"
    assert history.query(apart) == [(uses, credits)]
    assert history.query("SELECT toInt64(count()) FROM charges") == [(uses,)]
    for groups in (["operation"], ["customer_id"], ["metadata.city"], ["month", "environment"]):
        found, *_ = usage_page(history, UsageQuestion("p1", groups, *EVER))
        assert sum(each[1] for each in found) == 4, groups
        assert sum(each[3] for each in found) == 32_020_000 + 3, groups
    april = UsageQuestion("p2", [], datetime(2026, 4, 30, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
    assert [row[1:4] for row in usage_page(history, april).rows] == [(1, 1, 60_000_000)]
    # Who was erased is not brought back by a file either.
    erase(history, Erasure("p1", customer_hash("p1", "ann"), 0, 90, 0, 1_800_000_000_000))
    wait_for_mutations(history)
    assert load_old_usage(history, write(tmp_path, LINES.replace(",a,", ",later,"), "again.csv"), quiet).loaded == 2
    wait_for_mutations(history)
    named = history.query("SELECT event_id FROM backfilled WHERE customer_id = 'ann' AND project = 'p1'")
    assert named == []
    assert history.query("SELECT name FROM system.tables WHERE name = 'backfill_staging'") == []


WRONG = [
    ("p1,/old,,2026-05-01T00:00:00Z,image,32,,,,", "`id` is missing"),
    ("p 1,/old,x,2026-05-01T00:00:00Z,image,32,,,,", "`project` is no project id"),
    ("p9,/old,x,2026-05-01T00:00:00Z,image,32,,,,", "`project` is no project that was opened"),
    ("p1,/old,x,2026-05-01T00:00:00,image,32,,,,", "`time` is no time"),
    ("p1,/old,x,2026-13-01T00:00:00Z,image,32,,,,", "`time` is no time"),
    ("p1,/old,x,yesterday,image,32,,,,", "`time` is no time"),
    ("p1,/old,x,2026-07-01T00:00:00Z,image,32,,,,", "`time` is not before the project was opened"),
    ("p1,/old,x,2026-05-01T00:00:00Z,Image!,32,,,,", "`operation` has other"),
    ("p1,/old,x,2026-05-01T00:00:00Z,image,1e3,,,,", "`credits` are no decimal"),
    ("p1,/old,x,2026-05-01T00:00:00Z,image,-1,,,,", "`credits` are no decimal"),
    ("p1,/old,x,2026-05-01T00:00:00Z,image,0.0000001,,,,", "`credits` are no decimal"),
    ("p1,/old,x,2026-05-01T00:00:00Z,image,1,0,,,", "`quantity` is no whole number"),
    ("p1,/old,x,2026-05-01T00:00:00Z,image,1,,live,,", "`environment` is neither"),
    ("p1,/old,x,2026-05-01T00:00:00Z,image,1,,,,[1]", "`metadata` is no JSON object"),
    ('p1,/old,x,2026-05-01T00:00:00Z,image,1,,,ann,"{""customer_id"":""bob""}"', "`customer_id` is another"),
]


def test_a_wrong_line_is_named_with_its_field_and_nothing_is_loaded(history: ClickHouse, tmp_path: Path) -> None:
    good = "p1,/old,{},2026-05-01T00:00:00Z,image,32,,,,\n"
    lines = "".join(good.format(n) + wrong + "\n" for n, (wrong, _) in enumerate(WRONG))
    with pytest.raises(OldUsageError) as refused:
        load_old_usage(history, write(tmp_path, lines + good.format("last")), quiet)
    told = str(refused.value).splitlines()
    assert told[0] == f"old.csv: {len(WRONG)} lines are wrong, so nothing was loaded"
    for number, (line, (_, sentence)) in enumerate(zip(told[1:], WRONG, strict=True)):
        assert line.startswith(f"line {3 + 2 * number}: {sentence}"), line
    for text, name, sentence in (
        (good.format(1) + "p1,/old,2\n" + good.format(3), "few.csv", "line 3"),
        (good.format(1), "old.xlsx", "neither a .csv nor a .parquet"),
    ):
        with pytest.raises(OldUsageError, match=sentence):
            load_old_usage(history, write(tmp_path, text, name), quiet)
    for header, sentence in (
        ("project,source,id,time,operation,price", "no column 'price'"),
        ("project,source,id,time,operation", "'credits' is missing"),
        ("project,source,id,time,operation,credits,id", "'id' is there twice"),
    ):
        (tmp_path / "head.csv").write_text(f"{header}\n")
        with pytest.raises(OldUsageError, match=f"line 1: .*{sentence}"):
            load_old_usage(history, tmp_path / "head.csv", quiet)
    assert history.query("SELECT count() FROM backfilled") == [(0,)]


NO_TIMES = [
    "2026-05-01T24:00:00Z",
    "2026-05-01T12:60:00Z",
    "2026-05-01T12:00:60Z",
    "2026-05-01T12:00:00+24:00",
    "2026-05-01T12:00:00+02:60",
    "2026-00-01T12:00:00Z",
    "2026-05-00T12:00:00Z",
    "2026-04-31T12:00:00Z",
    "2026-05-01 10:00:00 PM Z",
    "2026-05-01T12:00:00Z-05:00",
    "2026-05-01T12:00:00.Z",
]


def test_what_no_clock_shows_is_no_time(history: ClickHouse, tmp_path: Path) -> None:
    lines = "".join(f"p1,/old,{number},{time},image,32,,,,\n" for number, time in enumerate(NO_TIMES))
    with pytest.raises(OldUsageError) as refused:
        load_old_usage(history, write(tmp_path, lines), quiet)
    _, *told = str(refused.value).splitlines()
    expected = [f"line {2 + number}: `time` is no time" for number in range(len(NO_TIMES))]
    assert [line.partition(" as in")[0] for line in told] == expected


def test_metadata_that_begins_with_blanks_takes_the_customer_of_its_column(history: ClickHouse, tmp_path: Path) -> None:
    blanks = ["", " ", "\n", "\t", "\r\n  "]
    line = 'p1,/old,{},2026-05-01T00:00:00Z,image,32,,,ann,"{}{{""city"":""Oslo""}}\n"\n'
    load_old_usage(history, write(tmp_path, "".join(line.format(n, each) for n, each in enumerate(blanks))), quiet)
    said = "SELECT customer_id, JSONExtractString(metadata, 'city'), count() FROM backfilled GROUP BY ALL"
    assert history.query(said) == [("ann", "Oslo", len(blanks))]
    assert history.query("SELECT count() FROM backfilled WHERE NOT isValidJSON(metadata)") == [(0,)]


@pytest.mark.parametrize("name", ["old{x}.csv", "o*.csv", "old?.csv", "it's \\old.csv", "old {1..2} [é].csv"])
def test_a_file_of_any_name_is_the_one_that_is_loaded(history: ClickHouse, tmp_path: Path, name: str) -> None:
    line = "p1,/old,{},2026-05-01T00:00:00Z,image,32,,,,\n"
    for other in ("oldx.csv", "old1.csv", "old2.csv"):
        write(tmp_path, line.format(other), other)
    assert load_old_usage(history, write(tmp_path, line.format("mine"), name), quiet) == (1, 1, 0)
    assert history.query("SELECT event_id FROM backfilled") == [("mine",)]


def test_a_text_that_is_not_in_utf8_is_named_wherever_it_stands(history: ClickHouse, tmp_path: Path) -> None:
    good = "p1,/old,{},2026-05-01T00:00:00Z,image,32,,,,\n"
    # Beyond what is read of a file to look at its header.
    lines = "".join(good.format(f"{n} {'long' * 50}") for n in range(500))
    for wrong, field in (
        ("p1,/Müller,x,2026-05-01T00:00:00Z,image,32,,,,\n", "source"),
        ("p1,/old,Müller,2026-05-01T00:00:00Z,image,32,,,,\n", "id"),
        ("p1,/old,x,2026-05-01T00:00:00Z,image,32,,,Müller,\n", "customer_id"),
        ('p1,/old,x,2026-05-01T00:00:00Z,image,32,,,,"{""city"":""Zürich""}"\n', "metadata"),
    ):
        path = tmp_path / "old.csv"
        path.write_bytes((HEADER + lines + wrong).encode("cp1252"))
        with pytest.raises(OldUsageError, match=f"line 502: `{field}` is not in UTF-8"):
            load_old_usage(history, path, quiet)


def test_lines_may_end_as_spreadsheets_write_them(history: ClickHouse, tmp_path: Path) -> None:
    line = "p1,/old,{},2026-05-01T00:00:00Z,image,32,,,,\n"
    for number, (ending, last) in enumerate([("\n", ""), ("\n", "\n"), ("\r\n", ""), ("\r\n", "\r\n\r\n")]):
        path = tmp_path / "old.csv"
        text = "\ufeff" + HEADER + line.format(f"{number}a") + line.format(f"{number}b")
        path.write_text(text.replace("\n", ending) + last, newline="")
        assert load_old_usage(history, path, quiet) == (2, 2, 0)
    path.write_text((HEADER + line.format("c")).replace("\n", "\r"), newline="")
    with pytest.raises(OldUsageError, match="lines end in CR alone"):
        load_old_usage(history, path, quiet)


def test_a_run_that_was_killed_is_gone_on_with(
    history: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_usage, "ROWS_A_PART", 100)
    line = "p1,/old,{},2026-0{}-01T00:00:00Z,image,0.5,,,,\n"
    path = write(tmp_path, "".join(line.format(n, 1 + n % 5) for n in range(1_000)))

    def kill(what: str, done: int, of: int) -> None:
        if what == "loading" and done >= 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_old_usage(history, path, kill)
    ((there,),) = history.query("SELECT count() FROM backfilled")
    assert 300 < there < 500
    assert load_old_usage(history, path, quiet) == (1_000, 1_000 - there, there)
    assert history.query("SELECT uniqExact(event_id), toInt64(sum(amount)) FROM backfilled") == [(1_000, -500_000_000)]


@pytest.mark.parametrize("error", [OperationalError("away"), ClickHouseError("away"), too_much("memory")])
def test_clickhouse_that_goes_away_is_told_once_and_not_by_what_shows_progress(
    history: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    unhandled: list[object] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    monkeypatch.setattr(old_usage, "_POLL_SECONDS", 0.01)
    asked, query, insert = threading.Event(), ClickHouse.query, ClickHouse.insert_file

    def away(clickhouse: ClickHouse, sql: str, *more: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return query(clickhouse, sql, *more)
        asked.set()
        raise error

    def slow(*given: Any) -> None:
        assert asked.wait(60)
        insert(*given)

    monkeypatch.setattr(ClickHouse, "query", away)
    monkeypatch.setattr(ClickHouse, "insert_file", slow)
    assert load_old_usage(history, write(tmp_path, LINES), quiet) == (5, 4, 1)
    assert unhandled == []


def test_parquet_is_read_by_the_engine_and_its_types_are_understood(history: ClickHouse, tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    # Written by the embedded engine, which reads it; a server is sent it as it is.
    history.command(
        f"INSERT INTO FUNCTION file('{path}', Parquet) SELECT 'p1' AS project, '/old' AS source, "
        "toString(number) AS id, toDateTime64('2026-05-01 00:00:00.250', 3, 'UTC') AS time, 'image' AS operation, "
        "toDecimal64('0.02', 6) AS credits, toInt32(number + 1) AS quantity FROM numbers(3) "
        "SETTINGS engine_file_truncate_on_insert = 1"
    )
    assert load_old_usage(history, path, quiet) == (3, 3, 0)
    rows = history.query("SELECT quantity, amount, occurred_at FROM backfilled ORDER BY quantity")
    at = datetime(2026, 5, 1, 0, 0, 0, 250_000, tzinfo=UTC)
    assert [tuple(row) for row in rows] == [(number, -20_000, at) for number in (1, 2, 3)]
    history.command(
        f"INSERT INTO FUNCTION file('{path}', Parquet) SELECT 'p1' AS project, '/old' AS source, 'x' AS id, "
        "0.02 AS credits SETTINGS engine_file_truncate_on_insert = 1"
    )
    with pytest.raises(OldUsageError, match="row 1: `time` is missing"):
        load_old_usage(history, path, quiet)


def test_the_command_says_what_was_loaded_or_what_is_wrong(
    embedded: ClickHouse, serve: Serve, meterline: Meterline, tmp_path: Path
) -> None:
    migrate(embedded)
    insert_facts(embedded, [fact(1, None, "project", "p1", reason="free", source="", amount=0, quantity=0)])
    url = serve(create_front(embedded, read_only=False, token="let me in")).replace("://", "://default:let%20me%20in@")
    path = write(tmp_path, "p1,/old,a,2026-05-01T00:00:00Z,image,32,,,ann,\n")
    for loaded in (1, 0):
        done = meterline("backfill", str(path), "--json", METERLINE_CLICKHOUSE_URL=f"{url}/default")
        assert done.returncode == 0, done.stderr
        told = {"file": "old.csv", "rows": 1, "loaded": loaded, "known": 1 - loaded}
        assert json.loads(done.stdout) == told
    wrong = write(tmp_path, "p1,/old,b,2026-05-01T00:00:00Z,image,much,,,,\n")
    done = meterline("backfill", str(wrong), METERLINE_CLICKHOUSE_URL=f"{url}/default")
    assert (done.returncode, done.stdout) == (1, "") and "line 2: `credits` are no decimal" in done.stderr
