"""Attempts to deliver come from their topic into the history, each once, and are told by the page, newest first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from schemas.notices import DeliveryAttempt
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.delivery_sink import delivery_sink
from streams.clickhouse.migrations import migrate
from streams.history.deliveries import DeliveryQuestion, delivery_page
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_attempt
from streams.settings import Settings

SINK = delivery_sink(Settings())
BEGAN_MS = now_ms() - 100_000


def attempt(number: int, **changes: Any) -> DeliveryAttempt:
    made = DeliveryAttempt(
        id=f"whe_1.ntc-0-1-0.{number}",
        project="acme",
        environment="production",
        endpoint_id="whe_1",
        notice_id="ntc-0-1-0",
        notice_type="project.credits_low",
        number=number,
        sent_at_ms=BEGAN_MS + number * 1_000,
        status=500,
        ms=12,
        answer=b"no \xff",
        error="",
        next_at_ms=BEGAN_MS + number * 1_000 + 10_000,
        is_delivered=False,
        is_billed=number > 1,
    )
    return msgspec.structs.replace(made, **changes)


def write(clickhouse: ClickHouse, values: list[bytes]) -> None:
    """Write records as the historian does, each in a block of its own."""
    for offset, value in enumerate(values):
        record = SimpleNamespace(topic="t", partition=0, offset=offset, value=value, timestamp=BEGAN_MS)
        part = SINK.part_of(record)
        assert (part.first, part.count) == ((offset, 0), 1)
        clickhouse.insert_packs(SINK.table, SINK.shared, SINK.columns, [Pack((0, offset), part.rows, 1)])


def pages(clickhouse: ClickHouse, limit: int, **asked: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        question = DeliveryQuestion(**{"project": "acme", "endpoint_id": "whe_1"} | asked, limit=limit, cursor=cursor)
        page, cursor = delivery_page(clickhouse, question)
        found.append([each.attempt_id.rpartition(".")[2] for each in page])
        if cursor is None:
            return found


def test_attempts_are_told_once_each_newest_first_and_by_their_endpoint(embedded: ClickHouse) -> None:
    migrate(embedded)
    delivered = {"status": 204, "is_delivered": True, "next_at_ms": 0, "answer": b"", "environment": ""}
    # The second was in flight when its courier was killed: made again, it was delivered.
    again = attempt(2, sent_at_ms=BEGAN_MS + 50_000, **delivered)
    refused = attempt(3, id="whe_1.ntc-0-2-0.3", notice_id="ntc-0-2-0", status=0, error="no answer in 15 s")
    others = [attempt(1, id="x", endpoint_id="whe_2"), attempt(1, id="y", project="platform:")]
    old = attempt(1, id="old", sent_at_ms=BEGAN_MS - 40 * 86_400_000)
    records = [attempt(1), attempt(2), *others, refused, again, old]
    write(embedded, [*map(encode_attempt, records), b"\xff no attempt"])
    (mark,) = embedded.query(SINK.marks_sql)
    assert tuple(mark) == (0, len(records), 0, len(records))
    witness = embedded.query(SINK.witness_sql, {"partitions": [0], "offsets": [1], "positions": [0]})
    assert [tuple(row) for row in witness] == [(0, "whe_1.ntc-0-1-0.2", BEGAN_MS + 2_000)]
    for limit in (1, 2, 3, 10):
        got = pages(embedded, limit)
        assert [each for page in got for each in page] == ["2", "3", "1"], got
    assert pages(embedded, 9, outcome="failed") == [["3", "1"]]
    assert pages(embedded, 9, outcome="delivered") == [["2"]]
    assert pages(embedded, 9, notice_id="ntc-0-2-0") == [["3"]]
    assert pages(embedded, 9, project="beta") == pages(embedded, 9, endpoint_id="whe_9") == [[]]
    assert pages(embedded, 9, project="platform:") == [["y"]]
    last, none, first = delivery_page(embedded, DeliveryQuestion("acme", "whe_1", 9))[0]
    assert (last.status, last.delivered, last.next_at, last.billed, last.environment) == (204, True, None, True, None)
    assert (none.status, none.error, none.number) == (None, "no answer in 15 s", 3)
    assert (first.status, first.answer, first.billed, first.ms) == (500, "no \ufffd", False, 12)
    assert first.next_at is not None and round((first.next_at - first.sent_at).total_seconds()) == 10
    for cursor in ("x", "W10", "WzEsMV0"):
        with pytest.raises(Rejection, match="not one that a page gave"):
            delivery_page(embedded, DeliveryQuestion("acme", "whe_1", 9, cursor=cursor))


def test_numbers_that_no_column_holds_are_cut_and_stop_nothing(embedded: ClickHouse) -> None:
    migrate(embedded)
    huge = 1 << 62
    wild = attempt(huge, sent_at_ms=huge, status=-1, ms=huge, next_at_ms=huge)
    write(embedded, [encode_attempt(wild), encode_attempt(attempt(2))])
    # What claims to be of the far future may be forgotten at once; the next one is there.
    assert "2" in pages(embedded, 9)[0]
