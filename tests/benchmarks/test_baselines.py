"""The baselines do the work they are timed for: the contents of each one's own store are compared with a plain sum."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from schemas.prices import FIRST_PRICE_BOOK
from streams.core.acceptance import accept_record
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.topics import partition_of
from tests.benchmarks.rivals import postgres, quix
from tests.benchmarks.rivals.faust_app import faust_baseline
from tests.benchmarks.rivals.postgres import find_binaries, postgres_baseline
from tests.benchmarks.rivals.quix import quix_baseline
from tests.benchmarks.rivals.raw import raw_baseline
from tests.benchmarks.rivals.rival import BaselineError, BaselineResult, BenchChild, Run, measured
from tests.benchmarks.workload import Workload

SECONDS_MAX = 120.0
WORKLOAD = Workload(events=3000, projects=150, seed=5)


def fold(workload: Workload) -> dict[str, tuple[int, int]]:
    """The (events, microcredits) of each project, summed up the plain way."""
    counts: Counter[str] = Counter()
    spent: dict[str, int] = defaultdict(int)
    for project, text in workload:
        event = json.loads(text)
        assert event["subject"] == project
        data = event["data"]
        counts[project] += 1
        spent[project] += FIRST_PRICE_BOOK.rates[data["operation"]] * data.get("quantity", 1)
    return {project: (count, spent[project]) for project, count in counts.items()}


def assert_all_charged(result: BaselineResult) -> None:
    assert result.skipped is None
    assert result.events == WORKLOAD.events
    assert result.events_per_second is not None
    assert result.events_per_second == pytest.approx(WORKLOAD.events / result.seconds, rel=0.01)
    assert "WRONG" not in result.note
    assert result.charged == fold(WORKLOAD)
    assert "charged" not in result.summary()
    json.dumps(result.summary())


@pytest.mark.benchmark
def test_plain_faust_charges_every_event(broker: EmbeddedBroker) -> None:
    assert_all_charged(faust_baseline(broker.url, WORKLOAD, SECONDS_MAX))
    assert not [topic for topic in topics(broker) if "bench-faust" in topic]


@pytest.mark.benchmark
def test_quix_streams_charges_every_event_or_says_that_it_is_not_installed(broker: EmbeddedBroker) -> None:
    result = quix_baseline(broker.url, WORKLOAD, SECONDS_MAX)
    if find_spec("quixstreams") is None:
        assert result == not_measured("quix", "quixstreams is not installed: uv sync --group bench")
        return
    assert_all_charged(result)
    assert not [topic for topic in topics(broker) if "bench-quix" in topic]


@pytest.mark.benchmark
@pytest.mark.parametrize("fsync", [True, False])
def test_postgres_charges_every_event_or_says_what_is_not_installed(fsync: bool) -> None:
    result = postgres_baseline("", WORKLOAD, SECONDS_MAX, fsync=fsync)
    name = "postgres" if fsync else "postgres-no-fsync"
    if find_binaries() is None:
        assert result == not_measured(name, "PostgreSQL is not installed: apt-get install postgresql")
        return
    if find_spec("psycopg_pool") is None:
        assert result == not_measured(name, "psycopg is not installed: uv sync --group bench")
        return
    assert_all_charged(result)
    assert "synchronous_commit on" in result.note
    assert f"fsync {'on' if fsync else 'off'}" in result.note


@pytest.mark.benchmark
def test_postgres_bills_a_repeated_event_once() -> None:
    class Repeated(Workload):
        def __iter__(self) -> Iterator[tuple[str, bytes]]:
            for event in super().__iter__():
                yield event
                yield event

    result = postgres_baseline("", Repeated(500, 20), SECONDS_MAX)
    if result.skipped is None:
        assert result.events == 1000
        assert result.charged == fold(Workload(500, 20))


@pytest.mark.benchmark
def test_the_raw_baseline_decodes_every_event(broker: EmbeddedBroker) -> None:
    result = raw_baseline(broker.url, WORKLOAD, SECONDS_MAX)
    assert result.events == WORKLOAD.events
    assert result.events_per_second is not None
    assert result.charged == {}
    assert not [topic for topic in topics(broker) if "bench-raw" in topic]


@pytest.mark.benchmark
def test_a_baseline_stops_when_its_time_is_up_and_says_so(broker: EmbeddedBroker) -> None:
    result = faust_baseline(broker.url, Workload(200_000, 100), 0.2)
    assert result.events < 200_000
    assert result.seconds >= 0.2
    assert f"with {result.events:,} of 200,000 events done" in result.note


def test_what_is_not_installed_is_said_and_not_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgres, "_DEBIAN_BINARIES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(quix, "find_spec", lambda _name: None)
    assert postgres_baseline("", WORKLOAD, 1.0) == not_measured(
        "postgres", "PostgreSQL is not installed: apt-get install postgresql"
    )
    assert quix_baseline("", WORKLOAD, 1.0) == not_measured(
        "quix", "quixstreams is not installed: uv sync --group bench"
    )


def test_the_newest_postgres_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgres, "_DEBIAN_BINARIES", tmp_path)
    for version in ("9", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
    for version in ("9", "15"):
        for name in ("initdb", "postgres"):
            (tmp_path / version / "bin" / name).touch()
    assert find_binaries() == tmp_path / "15" / "bin"


def test_a_note_tells_a_stall_from_a_bound_and_from_a_wrong_sum() -> None:
    workload = Workload(1000, 10)
    stalled = measured("x", workload, Run(300, 60.0, 30.0), "note", {})
    assert "STALLED" in stalled.note
    assert "no progress for the last 30 s, 10/s until then" in stalled.note
    assert stalled.events_per_second == 5.0
    slow = measured("x", workload, Run(300, 60.0, 0.1), "note", {})
    assert slow.note == "note; stopped after 60 s with 300 of 1,000 events done"
    charged = fold(workload)
    assert measured("x", workload, Run(1000, 1.0), "note", charged).note == "note"
    project, (count, spent) = next(iter(charged.items()))
    wrong = measured("x", workload, Run(1000, 1.0), "note", charged | {project: (count, spent + 1)})
    assert wrong.note == "note; WRONG: 1 projects were not charged what they owe"


@pytest.mark.benchmark
def test_a_child_that_ends_is_an_error_that_quotes_its_log() -> None:
    async def follow() -> None:
        with BenchChild("tests.benchmarks.absent", "127.0.0.1:1", "x") as child:
            await child.follow(lambda: asyncio.sleep(0, 0), 1, 1.0)

    with pytest.raises(BaselineError, match="(?s)ended before it consumed an event.*No module named"):
        asyncio.run(follow())


def test_a_workload_is_its_seeds_and_a_longer_one_begins_with_it() -> None:
    assert list(WORKLOAD) == list(Workload(3000, 150, 5))
    assert list(WORKLOAD) != list(Workload(3000, 150, 6))
    assert list(Workload(40_000, 150, 5))[:3000] == list(WORKLOAD)


def test_ids_are_unique_within_a_seed_and_between_seeds() -> None:
    ids = [json.loads(text)["id"] for seed in (1, 2) for _, text in Workload(20_000, 10, seed)]
    assert len(set(ids)) == len(ids)


def test_every_event_is_accepted_with_its_customer() -> None:
    workload = Workload(3000, 150, 5, time="2026-01-01T00:00:00Z")
    texts = [text for _, text in workload]
    accepted, rejected = accept_record(b"[" + b",".join(texts) + b"]", 1_767_225_600_000, FIRST_PRICE_BOOK.rates)
    assert not rejected
    assert {usage.occurred_at_ms for usage in accepted} == {1_767_225_600_000}
    assert all("customer_id" in usage.metadata for usage in accepted)
    operations = Counter(usage.operation for usage in accepted)
    assert operations["chat.message"] > len(accepted) / 2
    assert 0 < operations["image"] < len(accepted) / 10


def test_records_hold_every_event_in_its_projects_partition() -> None:
    found: list[bytes] = []
    for record in WORKLOAD.records(70, 3):
        events = json.loads(record.value)
        assert len(events) == record.events <= 70
        assert {partition_of(event["subject"], 3) for event in events} == {record.partition}
        found += [json.dumps(event, separators=(",", ":")).encode() for event in events]
    assert sorted(found) == sorted(text for _, text in WORKLOAD)


def test_expected_is_what_a_plain_fold_gives() -> None:
    for workload in (WORKLOAD, Workload(20_000, 3), Workload(1, 1)):
        assert workload.expected() == fold(workload)


def test_some_projects_are_hundreds_of_times_busier_than_others() -> None:
    workload = Workload(500_000, 10_000)
    counts = sorted((count for count, _ in workload.expected().values()), reverse=True)
    assert counts[0] > 300 * counts[len(counts) // 2]
    assert len(counts) > 9_000
    assert set(workload.expected()) <= set(workload.project_ids())


@pytest.mark.benchmark
@pytest.mark.parametrize("made", [lambda w: sum(1 for _ in w), lambda w: sum(1 for _ in w.records(500, 4))])
def test_making_events_is_no_bottleneck(made: Callable[[Workload], int]) -> None:
    """To make an event costs less than the first thing that one worker does with it: to accept it."""
    workload = Workload(50_000, 10_000)
    records = [record.value for record in workload.records(500, 4)]

    def accept() -> None:
        for value in records:
            accepted, _ = accept_record(value, 0, FIRST_PRICE_BOOK.rates)
            assert accepted

    assert spent(lambda: made(workload)) < spent(accept)


def spent(act: Callable[[], object]) -> float:
    """The processor time of an act, the shortest of three."""
    times = []
    for _ in range(3):
        begun = time.process_time()
        act()
        times.append(time.process_time() - begun)
    return min(times)


def not_measured(name: str, words: str) -> BaselineResult:
    return BaselineResult(name, None, 0, 0.0, "", skipped=words)


def topics(broker: EmbeddedBroker) -> list[str]:
    async def names() -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.url)
        await admin.start()
        try:
            return [str(name) for name in await admin.list_topics()]
        finally:
            await admin.close()

    return asyncio.run(names())
