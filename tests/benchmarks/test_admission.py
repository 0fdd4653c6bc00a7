"""`meterline bench admission` measures what it says, no credit is overspent or can't be spent, and Redis, its
yardstick, decides by the same rules."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.stack import Stack
from schemas.accounts import Limits
from streams.core.windows import count_request, rested
from streams.settings import Settings
from tests.benchmarks.admission.callers import Level
from tests.benchmarks.admission.lean_http import LeanConnection
from tests.benchmarks.admission.run import LEVELS, measure, passed, ratios, targets, yardstick
from tests.benchmarks.admission.spenders import COST, ZERO_FIGURES, Answers, compare, spend
from tests.benchmarks.admission.trace import ENCODING, READING, WORDS, WRITING, table
from tests.benchmarks.rivals import redis_script
from tests.benchmarks.rivals.batch_clock import (
    ACCOUNTS,
    DECIDING,
    IDLE_SECONDS,
    JOURNAL,
    NOTE,
    NOTE_EVERY_SECONDS,
    WAITING,
    BatchClock,
    Parts,
)

SPENDERS, CREDITS = 1000, 10_000


@pytest.mark.benchmark
def test_quick_measures_every_part_and_says_what_is_not_installed() -> None:
    result = measure(True, print, traced=True)
    assert passed(result), result["spenders"]
    assert [level["callers"] for level in result["client"]] == LEVELS
    for level in (*result["client"], *result["http"]):
        assert level["decisions_per_second"] > 0
        assert 0 < level["p50_ms"] <= level["p99_ms"]
        assert level["answers"] == {"200": level["decisions"]}
        assert level["asked"] >= level["decisions"]
    assert [level["callers"] for level in result["http"]] == [64]
    assert set(result["idle_percent_of_a_core"]) == {"api", "courier", "history", "kafka", "worker-1"}
    assert result["idle_worker_and_api_percent"] > 0
    assert result["overspent_microcredits"] == result["unspendable_microcredits"] == 0
    assert set(result["cpu_microseconds_per_decision"]["http"]) == {"api", "courier", "history", "kafka", "worker-1"}
    for row in result["redis"]:
        assert_measured_or_not_installed(row)
    assert_compared_with_the_floor(result)
    assert_written(result["written_per_decision"])
    assert_traced(result["trace"])


def assert_compared_with_the_floor(result: dict[str, Any]) -> None:
    assert [level["callers"] for level in result["floor"]] == LEVELS
    for level in result["floor"]:
        assert level["answers"] == {"200": level["decisions"]}
        assert 0 < level["p50_ms"] <= level["p99_ms"]
    known = {name: ratio for name, ratio in result["ratios"].items() if ratio is not None}
    assert min(known.values()) > 0
    assert len(known) == (len(result["ratios"]) if redis_script.missing() is None else 3)
    assert {name for name, reached in result["targets"].items() if reached is None} <= {
        name for name in result["targets"] if "Redis" in name
    }
    assert result["targets"]["no reply expired"]
    assert all(figure > 0 for figure in result["decisions_per_core"].values())


def assert_written(written: dict[str, dict[str, Any]]) -> None:
    for way in ("client", "http"):
        by_topic = written[way]["bytes_by_topic"]
        assert written[way]["bytes"] == pytest.approx(sum(by_topic.values()), abs=0.1 * len(by_topic))
        for topic in ("intake", "journal", "replies", "worker-accounts-changelog", "worker-seen-changelog"):
            assert by_topic[topic] > 0, topic
            assert 0 < written[way]["records_by_topic"][topic] <= 2, topic
        assert by_topic["usage"] == by_topic["dead-letters"] == 0
    assert written["client"]["bytes_by_topic"]["journal"] > 20, "a fact has more"


def assert_traced(trace: dict[str, Any]) -> None:
    parts = {part["part"]: part for part in trace["parts"]}
    assert list(parts) == list(WORDS.values())
    whole = sum(part["ms"] for name, part in parts.items() if not name.startswith("·"))
    assert all(0 < part["ms"] < whole for part in parts.values())
    assert parts[WORDS[DECIDING]]["ms"] > parts[WORDS[READING]]["ms"] + parts[WORDS[ENCODING]]["ms"]
    assert parts[WORDS[ACCOUNTS]]["ms"] > parts[WORDS[WRITING]]["ms"]
    # What is decided and looked up is what the floor does without.
    unknown = {name for name, part in parts.items() if part["floor_ms"] is None}
    assert unknown == {WORDS[name] for name in (DECIDING, READING, ENCODING, WRITING)}
    for side in ("worker", "floor"):
        assert trace[side]["callers"] == 64
        assert trace[side]["answers"] == {"200": trace[side]["decisions"]}
        assert 1 < trace[side]["decisions_per_batch"] <= 64 * 64
        assert 0 < trace[side]["acknowledged_ms"] < trace[side]["mean_ms"]
        assert trace[side]["else_ms"] > 0
        assert trace[side]["caller_cpu_microseconds_per_decision"] > 0
        assert 1 <= trace[side]["asked_per_record"] <= 64

    assert table(trace).row_count == len(parts) + 3


def level(callers: int, per_second: float, p50_ms: float, p99_ms: float) -> Level:
    return Level(callers, per_second, p50_ms, p99_ms, 1, 1.0, 1, 0.0, {"200": 1})


def test_ratios_are_to_the_floor_and_to_redis_and_targets_say_what_they_reach() -> None:
    client = [level(1, 300, 3.0, 9), level(64, 5_000, 12, 15), level(256, 8_000, 30, 50)]
    least = [level(1, 400, 2.0, 9), level(64, 10_000, 6, 10), level(256, 40_000, 6, 9)]
    redis = [{"callers": 64, "decisions_per_second": 10_000, "p99_ms": 10.0}]
    redis.append({"callers": 256, "decisions_per_second": 4_000, "p99_ms": 10.0})
    http = [level(64, 1_000, 30, 60)]
    found = ratios(client, http, least, redis)
    assert found == {
        "client/floor at 64": 0.5,
        "client/floor at 256": 0.2,
        "client/floor at 1: p50": 1.5,
        "client/redis at 64": 0.5,
        "client/redis at 256": 2.0,
        "client/redis at 64: p99": 1.5,
        "http/redis at 64": 0.1,
    }
    reached = targets(found, 999.0, 0, 2.9)
    assert [name for name, is_reached in reached.items() if not is_reached] == [
        "client at 64: 0.7 of Redis with fsync",
        "http at 64: 0.3 of Redis with fsync",
        "moonshot: client at 64: faster than Redis with fsync",
        "moonshot: client at 256: three times Redis with fsync",
    ]
    missed = targets(ratios(client, http, least, []), 1001.0, 1, 3.0)
    assert [name for name, is_reached in missed.items() if is_reached] == [
        "client at 64: 0.45 of the floor",
        "client at 1: p50 at most 1.5 times the floor's",
    ]
    assert [name for name, is_reached in missed.items() if is_reached is False] == [
        "at most 1,000 bytes a decision",
        "no reply expired",
        "idle: all but Kafka under 3% of a core",
    ]


def test_a_batch_clock_gives_each_part_its_time_and_leaves_out_that_nobody_asks(tmp_path: Path) -> None:
    clock = BatchClock(tmp_path)
    looked_up = clock.within(READING, lambda: time.sleep(0.01))
    for pause in (0.0, 0.02, IDLE_SECONDS + 0.1):
        time.sleep(pause)
        clock.begin()
        looked_up()
        time.sleep(0.01)
        clock.end(DECIDING)
        time.sleep(0.03)
        clock.end(JOURNAL)
        clock.end(ACCOUNTS)
    time.sleep(5 * NOTE_EVERY_SECONDS)
    parts = msgspec.json.decode((tmp_path / NOTE).read_bytes(), type=Parts)
    assert parts.batches == 3
    assert 0.02 <= parts.seconds[WAITING] < IDLE_SECONDS
    assert 0.03 <= parts.seconds[READING] < parts.seconds[DECIDING]
    assert parts.seconds[DECIDING] >= 0.06
    assert parts.seconds[JOURNAL] >= 0.09
    assert parts.since(parts) == Parts(0, dict.fromkeys(parts.seconds, 0.0))


@pytest.mark.benchmark
@pytest.mark.parametrize("fsync", [True, False])
def test_redis_answers_every_caller_or_it_is_said_that_it_is_not_installed(fsync: bool) -> None:
    row = yardstick(Settings(), 0.8, fsync=fsync)
    assert ("always" in row["name"]) == fsync
    assert_measured_or_not_installed(row)


def assert_measured_or_not_installed(row: dict[str, Any]) -> None:
    if (missing := redis_script.missing()) is not None:
        assert row["skipped"] == missing
        return
    assert [level["callers"] for level in row["levels"]] == LEVELS
    assert all(level["answers"] == {"200": level["decisions"]} for level in row["levels"])
    assert "history" in row["does_not_give"]


def test_a_thousand_spenders_spend_all_of_one_balance_and_no_more_while_its_worker_is_killed(
    settings_for: Callable[..., Settings],
) -> None:
    with Stack(settings_for(api_port=0, clickhouse_front_port=0, partitions=4)) as stack:
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        result = spend(stack, live, SPENDERS, CREDITS, print)
    assert {name: result[name] for name in ZERO_FIGURES} == dict.fromkeys(ZERO_FIGURES, 0), result
    assert result["kills"] == 2
    assert result["charges"] == CREDITS == result["admitted"]
    assert result["spent_by_the_last_one_microcredits"] == result["left_by_the_spenders_microcredits"] == 0


# Two credits, both spent.
CHARGES = {"a": (1, COST), "b": (1, COST)}


def told() -> Answers:
    return Answers(admitted={"a": COST, "b": 0}, refused={"c": 0})


def wrong(book: Answers, charges: dict[str, tuple[int, int]], ledger: int = 0, available: int = 0) -> dict[str, int]:
    figures = compare(book, charges, 2 * COST, ledger, available)
    return {name: figures[name] for name in ZERO_FIGURES if figures[name]}


def test_spenders_who_were_told_what_the_history_holds_have_only_zeros() -> None:
    assert wrong(told(), CHARGES) == {}


def test_credits_too_many_or_left_over_are_seen() -> None:
    assert wrong(told(), CHARGES | {"d": (1, COST)}) == {"overspent_microcredits": COST, "charged_unasked": 1}
    one = Answers(admitted={"a": COST}, refused={"c": 0})
    assert wrong(one, {"a": (1, COST)}, COST, COST) == {"unspendable_microcredits": COST}
    assert wrong(told(), CHARGES, 1, 0) == {"ledger_and_balance_differ_microcredits": 1}


def test_answers_that_the_history_does_not_bear_out_are_seen() -> None:
    book = told()
    book.refused["d"] = COST
    assert wrong(book, CHARGES) == {"refused_with_credits": 1}
    book = told()
    book.admitted["d"] = 0
    assert wrong(book, CHARGES) == {"admitted_but_not_charged": 1}
    book = told()
    book.refused["a"] = 0
    assert wrong(book, CHARGES) == {"refused_but_charged": 1}
    book = Answers(admitted={"a": COST}, refused={"c": 0}, expired={"b"})
    assert wrong(book, CHARGES) == {"replies_expired": 1}
    twice = {"a": (2, 2 * COST), "b": (1, COST)}
    assert wrong(told(), twice) == {"overspent_microcredits": COST, "charged_twice": 1}
    book = told()
    book.unexpected["plan_required"] += 1
    assert wrong(book, CHARGES) == {"unexpected_answers": 1}


@pytest.fixture
def redis_address() -> Iterator[str | None]:
    """The address of a Redis server, or None where a part is not installed; the first test sees that the result says
    so."""
    if redis_script.missing() is not None:
        yield None
        return
    with redis_script.server(fsync=False) as address:
        yield address


@pytest.mark.benchmark
@pytest.mark.parametrize("seed", range(4))
def test_the_yardstick_decides_windows_as_the_product_does(redis_address: str | None, seed: int) -> None:
    if redis_address is None:
        return
    import redis

    chance = random.Random(seed)
    # Half of the seeds have more requests than a window tells apart.
    limits = Limits(chance.randint(90, 150), chance.randint(150, 200), 0)
    gaps_ms = [0, 1, 30, 99, 700]
    if seed % 2:
        limits = Limits(chance.randint(3, 30), chance.randint(30, 60), 0)
        gaps_ms += [2_000, 9_000]
    now_ms = 1_800_000_000_000
    window = rested(now_ms)
    with redis.Redis.from_url(redis_address) as client:
        client.hset("a", "balance", 10**15)
        decide = client.register_script(redis_script.SCRIPT)
        statuses, entries = [], []
        for _ in range(1_000):
            now_ms += chance.choice(gaps_ms)
            state = count_request(window, limits, now_ms)
            expected = [429 if state.retry_at_ms else 200, state.remaining, state.retry_at_ms]
            args = [7, limits.requests_per_minute, limits.burst, now_ms]
            assert decide(keys=["a", "a:w"], args=args) == expected
            statuses.append(expected[0])
            entries.append(len(window.arrivals) // 2)
        assert (max(entries) == 64) == (seed % 2 == 0)
        assert set(statuses) == {200, 429}
        assert int(client.hget("a", "balance")) == 10**15 - 7 * statuses.count(200)


@pytest.mark.benchmark
def test_the_yardstick_spends_a_balance_whole_and_no_more(redis_address: str | None) -> None:
    if redis_address is None:
        return
    import redis

    with redis.Redis.from_url(redis_address) as client:
        client.hset("b", "balance", 25)
        decide = client.register_script(redis_script.SCRIPT)
        answers = [decide(keys=["b", "b:w"], args=[10, 100, 200, 0])[0] for _ in range(4)]
        assert answers == [200, 200, 402, 402]
        assert int(client.hget("b", "balance")) == 5
        assert decide(keys=["absent", "absent:w"], args=[10, 100, 200, 0])[0] == 404


def test_the_lean_client_reads_answers_however_they_are_cut() -> None:
    answers = [
        b"HTTP/1.1 402 x\r\nContent-Length: 11\r\n\r\nhello world",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def ask() -> list[int]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            connection = await LeanConnection.open("127.0.0.1", server.sockets[0].getsockname()[1])
            statuses = [await connection.ask(b"GET / HTTP/1.1\r\n\r\n") for _ in answers]
            with pytest.raises(ConnectionError):
                await connection.ask(b"GET / HTTP/1.1\r\n\r\n")
            return statuses

    assert asyncio.run(ask()) == [402, 200]
