"""Refusals at the edge: the API refuses by itself only what the owner would refuse, for no record on Kafka, and counts
it."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api import refusals
from api.callers.calls import Call, find_full
from api.refusals import TALLIES_A_PROJECT_MAX, Refusals, full_window, may_be_full
from schemas.accounts import Account, Limits
from schemas.commands import ChangePlan, CountRefused, CountRequest, EndRaise, RaiseLimits, SetLimits
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from streams.settings import Settings
from tests.calls import Operator, event, eventually
from tests.core.builders import CREDIT, START_MS
from tests.core.test_ledger import Bench

MINUTE_MS = 60_000
_GAPS = st.sampled_from((0, 0, 0, 1, 99, 100, 900, 1_000, 20_000, 59_999, MINUTE_MS, 10 * MINUTE_MS))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), _GAPS, st.integers(1, 40)),
        st.tuples(st.just("limits"), _GAPS, st.integers(0, 5)),
        st.tuples(st.just("raise"), _GAPS, st.integers(0, 90_000)),
        st.tuples(st.just("end"), _GAPS, st.just(0)),
        st.tuples(st.just("plan"), _GAPS, st.integers(0, 1)),
        st.tuples(st.just("copy"), _GAPS, st.just(0)),
    ),
    max_size=40,
)


def _change(bench: Bench, kind: str, number: int, at_ms: int) -> None:
    """Change a project's limits, in one of the ways that there are."""
    if kind == "limits":
        limits = Limits(number, number * 2, 0)
        bench.do(SetLimits, at_ms, limits=limits, is_shadow=False, reason="")
    elif kind == "raise":
        times = {"starts_at_ms": at_ms + number, "ends_at_ms": at_ms + number + 40_000}
        bench.do(RaiseLimits, at_ms, limits=Limits(40, 60, 0), reason="", **times)
    elif kind == "end" and bench.account.raises:
        bench.do(EndRaise, at_ms, raise_id=bench.account.raises[0].id)
    elif kind == "plan":
        bench.do(ChangePlan, at_ms, plan=("free", "hobby")[number], contract_allowance=0)


@hypothesis_settings(max_examples=150)
@given(_STEPS)
def test_what_a_copy_says_is_full_the_owner_refuses(steps: list[tuple[str, int, int]]) -> None:
    """The copy is as old as it likes, as long as no change of limits is missing in it."""
    bench, at_ms = Bench(), START_MS
    bench.do(SetLimits, at_ms, limits=Limits(3, 5, 1_000 * CREDIT), is_shadow=False, reason="")
    copied = msgspec.msgpack.encode(bench.account)
    for kind, gap, number in steps:
        at_ms += gap
        if kind == "request":
            for _ in range(number):
                copy = msgspec.msgpack.decode(copied, type=Account)
                full = full_window(copy, bench.prices, at_ms) if may_be_full(copy) else None
                reply = bench.do(CountRequest, at_ms, operation="GET /", environment="production")
                if full is not None:
                    assert reply.code == "rate_limited"
                    assert reply.rate is not None and full.limit == reply.rate.limit
                    assert at_ms < full.retry_at_ms <= reply.rate.retry_at_ms
        else:
            _change(bench, kind, number, at_ms)
            copied = msgspec.msgpack.encode(bench.account)


def test_a_fresh_copy_of_a_full_window_says_so_until_the_time_it_tells() -> None:
    bench = Bench()
    assert not may_be_full(bench.account)
    while bench.do(CountRequest, operation="GET /", environment="production").status == 200:
        assert full_window(bench.account, bench.prices, START_MS) is None or bench.account.window
    assert may_be_full(bench.account)
    state = full_window(bench.account, bench.prices, START_MS)
    assert state is not None and (state.limit, state.remaining) == (30, 0)
    assert full_window(bench.account, bench.prices, state.retry_at_ms - 1) is not None
    assert full_window(bench.account, bench.prices, state.retry_at_ms) is None


class _Commands:
    """A stand-in for the command client that notes what it is told, or fails."""

    def __init__(self) -> None:
        self.told: list[CountRefused] = []
        self.fails = False

    def addressing(self, actor: str) -> dict[str, Any]:
        return {
            "actor": actor,
            "idempotency_key": "",
            "correlation": "c",
            "reply_instance": "mine",
            "reply_partition": 0,
        }

    async def tell(self, command: CountRefused) -> None:
        if self.fails:
            raise ConnectionError("away")
        self.told.append(command)


def test_one_command_a_project_each_second_tells_all_and_nothing_is_lost_while_kafka_is_away() -> None:
    commands = _Commands()
    tallies = Refusals(cast(CommandClient, commands))

    async def flood() -> None:
        for number in range(1_000):
            tallies.add("p1", f"k{number % 3}", "production", "GET *")
        tallies.add("p2", "k9", "preview", "POST *")
        commands.fails = True
        await tallies.tell()
        assert not commands.told
        commands.fails = False
        for seconds in range(1, 4):
            before = len(commands.told)
            await tallies.tell()
            projects = [command.project for command in commands.told[before:]]
            assert len(projects) == len(set(projects)), f"second {seconds}"
        assert sorted(projects) == ["p1"]
        await tallies.tell()
        assert len(commands.told) == 4

    asyncio.run(flood())
    by_key = Counter({(told.project, told.actor): told.count for told in commands.told})
    assert by_key == {("p1", "k0"): 334, ("p1", "k1"): 333, ("p1", "k2"): 333, ("p2", "k9"): 1}
    assert all(told.reply_instance == "" and told.first_at_ms <= told.last_at_ms for told in commands.told)
    assert tallies.total == 1_001


def test_a_flood_of_many_kinds_takes_bounded_room_and_is_counted_to_the_last() -> None:
    commands = _Commands()
    tallies = Refusals(cast(CommandClient, commands))
    for number in range(10_000):
        tallies.add("p1", f"k{number}", "production", "GET *")
    asyncio.run(tallies.tell_all())
    assert len(commands.told) <= TALLIES_A_PROJECT_MAX + 2
    assert sum(told.count for told in commands.told) == 10_000


def test_the_keys_under_which_owners_have_decided_are_known_the_newest_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "KEYS_REMEMBERED_MAX", 3)
    keys = refusals.DecidedKeys()
    for number in range(5):
        keys.add("p1", f"k{number}")
    assert [number for number in range(5) if keys.has("p1", f"k{number}")] == [2, 3, 4]
    assert not keys.has("p2", "k3")


def test_the_latest_that_the_brokers_clock_can_show_is_never_behind_it(settings_for: Any) -> None:
    settings: Settings = settings_for(partitions=1)

    async def compare() -> None:
        await create_topics(settings)
        mine, others = Publisher(settings), Publisher(settings)
        await mine.start()
        await others.start()
        client = CommandClient(settings, mine)
        addressing = client.addressing() | {"reply_instance": ""}
        command = CountRequest(project="p1", operation="GET /", environment="production", **addressing)
        try:
            assert client.latest_ms("p1") is None
            for _ in range(20):
                await client.tell(command)
                _, stamped_ms = await others.append(topics_of(settings).intake, 0, b"\xc0")
                latest_ms = client.latest_ms("p1")
                assert latest_ms is not None and stamped_ms <= latest_ms < stamped_ms + 2_000
        finally:
            await others.stop()
            await mine.stop()

    asyncio.run(compare())


def intake_end(settings: Settings, project: str) -> int:
    """The number of records on the intake partition of a project."""

    async def ask() -> int:
        consumer = AIOKafkaConsumer(**kafka_client_settings(settings))
        await consumer.start()
        try:
            tp = TopicPartition(topics_of(settings).intake, partition_of(project, settings.partitions))
            return int((await consumer.end_offsets([tp]))[tp])
        finally:
            await consumer.stop()

    return asyncio.run(ask())


def refused_of(operator: Operator, project: str) -> list[list[str]]:
    return operator.rows(
        operator.clickhouse_url,
        "SELECT quantity, key_id, environment, operation FROM facts "
        f"WHERE project = '{project}' AND kind = 'refusal' AND reason IN ('rate_limited', 'limited_at_edge')",
    )


def test_a_flood_at_a_full_window_is_answered_without_kafka_and_counted(operator: Operator) -> None:
    project, client = operator.customer(is_limited=True)
    preview = operator.client(operator.key(project, "preview")["key"])
    # A batch is as many requests as it has items.
    batch = {"requests": [{"operation": "read"}] * 59}
    decisions = client.post("/v1/admissions/batch", json=batch).json()["decisions"]
    assert {each["status"] for each in decisions} == {200}
    kept = client.post("/v1/admissions", json={"operation": "image"}, headers={"idempotency-key": "kept"})
    assert kept.status_code == 200, kept.text
    assert client.get("/v1/balance").status_code == 429
    refused = 1
    before, flood = intake_end(operator.settings, project), 0
    for number in range(12):
        key = {"idempotency-key": f"k{number}"}
        answers = [
            client.get("/v1/balance"),
            client.post("/v1/events", json=event(project, f"{number}")),
            client.post("/v1/admissions", json={"operation": "image"}, headers=key),
            client.post("/v1/admissions", json={"operation": "image"}, headers={"idempotency-key": "kept"}),
            client.post("/v1/admissions", content=b"{"),
            client.get("/v1/nothing"),
            preview.get("/v1/ledger"),
            operator.http.post("/v1/admissions", json={"operation": "image", "project": project}),
        ]
        for answer in answers:
            problem = answer.json()
            assert (answer.status_code, problem["code"], problem["project"]) == (429, "rate_limited", project)
            assert 0 < int(answer.headers["retry-after"]) <= 60 and problem["instance"]
            assert answer.headers["x-ratelimit-remaining"] == "0"
        items = client.post("/v1/admissions/batch", json=batch).json()["decisions"]
        assert {each["status"] for each in items} == {429}
        assert all(each["rate"]["retry_after_seconds"] > 0 for each in items)
        flood += len(answers) + len(items)
    # Each second one record tells of all; others of that partition are the session's.
    assert intake_end(operator.settings, project) - before < flood // 20
    assert operator.http.get("/v1/balance", params={"project": project}).json()["available"] == "218"
    refused += flood
    eventually(lambda: sum(int(row[0]) for row in refused_of(operator, project)) >= refused)
    rows = refused_of(operator, project)
    assert sum(int(row[0]) for row in rows) == refused
    assert sum(int(row[0]) for row in rows if row[2] == "preview") == 12
    assert len(rows) < flood // 20
    # Limits that are raised hold at once, and what was refused may come again under its key.
    raised = operator.http.put(
        f"/v1/admin/projects/{project}/limits", json={"requests_per_minute": 900, "reason": "launch"}
    )
    assert raised.status_code == 200, raised.text
    late = client.post("/v1/admissions", json={"operation": "image"}, headers={"idempotency-key": "k0"})
    assert late.status_code == 200, late.text
    # What was decided is told again, once the window lets the repeat through.
    again = client.post("/v1/admissions", json={"operation": "image"}, headers={"idempotency-key": "kept"})
    assert (again.status_code, again.json()["entry_id"]) == (200, kept.json()["entry_id"])
    assert client.get("/v1/balance").json()["available"] == "186"


def test_a_copy_that_is_behind_or_a_clock_nobody_heard_leaves_it_to_the_owner() -> None:
    bench = Bench()
    while bench.do(CountRequest, operation="GET /", environment="production").status == 200:
        pass
    found = {}
    for lag_ms, owner_ms in ((0, START_MS), (1_000, START_MS), (1_001, START_MS), (-1, START_MS), (0, None)):
        services = SimpleNamespace(
            accounts=SimpleNamespace(lag_ms=lambda _project, lag_ms=lag_ms: lag_ms, prices=lambda: bench.prices),
            commands=SimpleNamespace(latest_ms=lambda _project, owner_ms=owner_ms: owner_ms),
        )
        call = Call()
        find_full(cast(Any, services), call, bench.account)
        found[lag_ms, owner_ms] = call.full is not None
    assert found == {(0, START_MS): True, (1_000, START_MS): True, (1_001, START_MS): False} | {
        (-1, START_MS): False,
        (0, None): False,
    }
