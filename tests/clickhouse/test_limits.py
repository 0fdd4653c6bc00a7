"""Queries end at their limits, and say what to narrow: on the real engine, embedded and over HTTP."""

from __future__ import annotations

import time

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import LONG, QueryLimits, limits_of_callers
from streams.settings import Settings

ENDLESS = "SELECT count() FROM system.numbers WHERE sipHash64(number) = 1"
NONE = QueryLimits(60)
SMALL = NONE._replace(memory_bytes=2**25)
MET = {
    "time": (ENDLESS, NONE._replace(seconds=0.2), "time"),
    "memory": ("SELECT number, count() FROM numbers(50000000) GROUP BY number", SMALL, "memory"),
    "time as estimated": (
        "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
        NONE._replace(estimated_seconds=20),
        "time",
    ),
    "rows read": ("SELECT count() FROM numbers(2000) WHERE number % 2", NONE._replace(rows_read=1000), "rows"),
    "rows of the answer": ("SELECT number FROM numbers(2000)", NONE._replace(rows=1000), "rows"),
    "bytes of the answer": ("SELECT hex(sipHash128(number)) FROM numbers(5000)", NONE._replace(bytes=100_000), "rows"),
    "groups": ("SELECT number % 5000 AS n, count() FROM numbers(10000) GROUP BY n", NONE._replace(groups=1000), "rows"),
    "sorting": ("SELECT number FROM numbers(20000000) ORDER BY sipHash64(number)", SMALL, "memory"),
    "joining": (
        "SELECT count() FROM numbers(20000000) AS a JOIN numbers(20000000) AS b USING number",
        SMALL,
        "memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MET)
def test_a_query_that_meets_a_limit_is_refused_in_time_and_told_which(clickhouse: ClickHouse, name: str) -> None:
    sql, limits, word = MET[name]
    began_at = time.monotonic()
    with pytest.raises(Rejection, match=word) as refused:
        clickhouse.limited(limits).query(sql)
    assert (refused.value.code, refused.value.status) == ("too_much_history", 422)
    assert time.monotonic() - began_at < 5
    assert clickhouse.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize("name", [name for name in MET if name not in ("sorting", "joining")])
def test_a_file_that_meets_a_limit_is_refused_before_it_is_whole(clickhouse: ClickHouse, name: str) -> None:
    sql, limits, _ = MET[name]
    with pytest.raises(Rejection) as refused:
        list(clickhouse.limited(limits).stream_csv(sql))
    assert refused.value.code == "too_much_history"


def test_the_queries_of_one_question_have_one_time_together(clickhouse: ClickHouse) -> None:
    limited = clickhouse.limited(NONE, time.monotonic() + 2)
    began_at, asked = time.monotonic(), 0
    with pytest.raises(Rejection) as refused:
        while True:
            limited.query("SELECT sleep(0.2)")
            asked += 1
    assert refused.value.code == "too_much_history"
    assert 0 < asked <= 10
    assert time.monotonic() - began_at < 6


def test_what_has_no_limits_of_its_own_has_those_of_callers(embedded: ClickHouse) -> None:
    with pytest.raises(Rejection) as refused:
        embedded.query("SELECT number FROM numbers(2000000)")
    assert refused.value.code == "too_much_history"
    assert len(embedded.limited(LONG).query("SELECT number FROM numbers(1100000)")) == 1_100_000


@pytest.mark.parametrize("limits", [NONE._replace(rows=1_000_000), NONE._replace(bytes=2_000_000)])
@pytest.mark.parametrize(
    "sql", ["SELECT number FROM numbers(2000000)", "SELECT throwIf(number = 1500000) FROM numbers(2000000)"]
)
def test_what_a_failed_query_had_answered_so_far_is_in_no_later_answer(
    clickhouse: ClickHouse, limits: QueryLimits, sql: str
) -> None:
    for _ in range(3):
        with pytest.raises((Rejection, DatabaseError)):
            clickhouse.limited(limits).query(sql)
        assert [len(clickhouse.query("SELECT number FROM numbers(1000)")) for _ in range(3)] == [1000] * 3
        with pytest.raises((Rejection, DatabaseError, StreamFailureError)):
            list(clickhouse.limited(limits).stream_csv(sql))
        assert len(b"".join(clickhouse.stream_csv("SELECT number FROM numbers(1000)")).splitlines()) == 1001


def test_every_limit_of_callers_is_set() -> None:
    limits = limits_of_callers(Settings())
    assert all(limits), limits
    assert len(limits.as_settings()) == len(limits) + 2, "and when its time is estimated, and sorting beside summing"
