"""Heavy questions to the history: they come in pages, wait for their turn, end at their limits, and hold up nobody."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from api import reads as module
from api.reads import HistoryReads
from api.views.pages import page_of
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.settings import Settings
from tests.calls import Operator, event, eventually

BATCH = {"content-type": "application/cloudevents-batch+json"}
GROUPS = 2_500


@pytest.fixture(scope="module")
def used(operator: Operator):
    """A project with many groups of usage that cost nothing."""
    project, client = operator.customer("build")
    for first in range(0, GROUPS, 500):
        batch = [event(project, str(n), "read", metadata={"n": f"{n:05d}"}) for n in range(first, first + 500)]
        assert client.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["accepted"] == 500
    eventually(lambda: client.get("/v1/usage").json()["rows"] == [
        {"group": {"operation": "read"}, "uses": GROUPS, "quantity": GROUPS, "credits": "0"}
    ])  # fmt: skip
    return project, client


def test_pages_of_usage_are_the_whole_and_each_is_bounded(used) -> None:
    _, client = used
    asked, found, pages = {"group_by": "metadata.n"}, [], 0
    while True:
        page = client.get("/v1/usage", params=asked).json()
        assert len(page["rows"]) <= 1_000
        found += [row["group"]["metadata.n"] for row in page["rows"]]
        pages += 1
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert found == [f"{n:05d}" for n in range(GROUPS)]
    assert pages == 3
    other = client.get("/v1/usage", params={"group_by": "day", "cursor": asked["cursor"]})
    assert (other.status_code, other.json()["field"]) == (422, "cursor")
    assert client.get("/v1/usage", params={"limit": 1_001}).status_code == 422


def test_a_csv_has_all_rows_and_says_its_length(used) -> None:
    _, client = used
    response = client.get("/v1/usage", params={"group_by": "metadata.n", "format": "csv"})
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["metadata.n"] for row in rows] == [f"{n:05d}" for n in range(GROUPS)]
    assert int(response.headers["content-length"]) == len(response.content)


def test_one_caller_that_asks_too_much_is_refused_and_another_is_answered(operator: Operator, used) -> None:
    _, client = used
    _, other = operator.customer()

    def ask(_: int) -> str:
        response = client.get("/v1/usage", params={"group_by": "metadata.n,hour,day"})
        return "ok" if response.is_success else response.json()["code"]

    with ThreadPoolExecutor(24) as pool:
        asked = pool.map(ask, range(60))
        for _ in range(10):
            assert other.get("/v1/ledger").status_code == 200
        assert set(asked) <= {"ok", "too_many_queries"}


def test_min_offset_ahead_of_the_log_is_refused_at_once(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    offset = client.post("/v1/admissions", json={"operation": "read"}).json()["offset"]
    assert client.get("/v1/balance", params={"min_offset": offset}).status_code == 200
    for ahead in (offset + 1_000_000, 2**62, 10**30):
        for caller in (client, operator.http):
            began_at = time.monotonic()
            response = caller.get("/v1/balance", params={"min_offset": ahead, "project": project})
            assert (response.status_code, response.json()["field"]) == (422, "min_offset")
            assert time.monotonic() - began_at < 2


def test_bundles_of_a_balance_come_in_pages_that_add_up(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    for number in range(7):
        url = f"/v1/admin/projects/{project}/top-ups"
        assert operator.http.post(url, json={"bundle_usd": 20, "reference": str(number)}).status_code == 201
    whole = client.get("/v1/balance").json()
    assert (len(whole["top_ups"]), whole["top_ups_count"], whole["top_ups_remaining"]) == (7, 7, "28000")
    found, asked = [], {"limit": 3}
    while True:
        page = client.get("/v1/balance", params=asked).json()
        assert (page["top_ups_remaining"], page["available"]) == ("28000", "33000")
        found += page["top_ups"]
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert found == whole["top_ups"]
    assert client.get("/v1/balance", params={"cursor": "bm9uc2Vuc2U"}).json()["field"] == "cursor"


def test_a_page_goes_on_where_the_last_one_ended_though_that_item_is_gone() -> None:
    def place(number: int) -> tuple[int, str]:
        return number // 2, str(number)

    page, cursor = page_of(range(9), place, 4, None)
    assert page == [0, 1, 2, 3]
    assert page_of([1, 2, 5, 6, 7, 8], place, 4, cursor) == ([5, 6, 7, 8], None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    settings = Settings(data_dir=tmp_path_factory.mktemp("reads"), query_seconds_max=1.0)
    clickhouse = ClickHouse(settings)
    yield settings, clickhouse
    clickhouse.close()


def run(engine: tuple[Settings, ClickHouse], test: Callable) -> None:
    async def inside() -> None:
        reads = HistoryReads(*engine)
        try:
            await test(reads)
        finally:
            reads.close()

    asyncio.run(inside())


def test_a_heavy_question_ends_in_time_and_the_loop_never_waits(engine) -> None:
    async def test(reads: HistoryReads) -> None:
        heavy = "SELECT count() FROM system.numbers WHERE sipHash64(number) = 1"
        asked = [asyncio.create_task(reads.ask("p", lambda history: history.query(heavy))) for _ in range(3)]
        longest, began_at = 0.0, time.monotonic()
        while not all(each.done() for each in asked):
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert [each.code for each in refused] == ["too_much_history"] * 3
        assert time.monotonic() - began_at < 10
        assert longest < 1.0

    run(engine, test)


def test_a_caller_has_its_places_and_no_more_and_others_have_theirs(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS_MAX", 0.2)
    go_on = threading.Event()

    async def test(reads: HistoryReads) -> None:
        blocked = [asyncio.create_task(reads.ask("greedy", lambda _: go_on.wait(20))) for _ in range(2)]
        await asyncio.sleep(0.05)
        many = [reads.ask("greedy", lambda history: history.query("SELECT 1")) for _ in range(40)]
        refused = await asyncio.gather(*many, return_exceptions=True)
        assert {each.code for each in refused} == {"too_many_queries"}
        assert await reads.ask("modest", lambda history: history.query("SELECT 1")) == [(1,)]
        go_on.set()
        assert await asyncio.gather(*blocked) == [True, True]
        assert await reads.ask("greedy", lambda history: history.query("SELECT 1")) == [(1,)]

    run(engine, test)


def test_a_slow_download_is_cut_and_frees_its_place(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DOWNLOAD_SECONDS_MAX", 0.2)
    sql = "SELECT number FROM numbers(100000)"

    async def test(reads: HistoryReads) -> None:
        sent: list[dict] = []

        async def slow(message: dict) -> None:
            sent.append(message)
            await asyncio.sleep(0.15)

        for _ in range(module.DOWNLOADS_PER_CALLER_MAX + 1):
            download = await reads.csv("p", "x", lambda history: history.stream_csv(sql))
            await download({"type": "http"}, None, slow)  # type: ignore[arg-type]
        assert sent[-1].get("more_body"), "it was never ended"
        waiting = [await reads.csv("p", "x", lambda history: history.stream_csv(sql)) for _ in range(4)]
        with pytest.raises(Rejection) as refused:
            await reads.csv("p", "x", lambda history: history.stream_csv(sql))
        assert refused.value.code == "too_many_queries"
        assert len(waiting) == module.DOWNLOADS_PER_CALLER_MAX

    run(engine, test)
