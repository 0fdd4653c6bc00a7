"""The real processes are killed while usage streams through: all is billed once, and state and history agree."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import psutil
import pytest

from api.demo.replay import Progress, Report, Target, replay
from api.demo.trace import BUNDLED_TRACE, Trace, read_trace
from api.stack import Stack
from streams.client import Decision, KafkaAdmissions, MeterlineAway
from streams.embedded.broker import EmbeddedBroker
from streams.settings import Settings
from tests.calls import Operator, eventually
from tests.conftest import SESSION_TIMEOUT_SECONDS

EVENTS = 3_000
SPENDERS = 1_000


@pytest.fixture(scope="module")
def fleet(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with two workers, which tests may break."""
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix="fleet",
        data_dir=tmp_path_factory.mktemp("fleet"),
        api_port=0,
        clickhouse_front_port=0,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
    )
    with Stack(settings, workers=2) as running:
        yield running


def part_of_trace(name: str) -> Trace:
    whole = read_trace(BUNDLED_TRACE)
    return Trace(f"trace-{name}", whole.rows[:EVENTS])


def run(fleet: Stack, trace: Trace, kill: object = None, rounds: int = 1) -> Report:
    """Replay a trace, and call `kill` once a quarter of it has been decided."""
    progress = Progress()
    killed: list[bool] = []

    def on_progress() -> None:
        fleet.check()
        if callable(kill) and not killed and progress.sent and progress.decided * 4 >= progress.sent:
            killed.append(True)
            kill()

    target = Target(fleet.settings, fleet.url, fleet.clickhouse_url, fleet.admin_key)
    report = asyncio.run(
        replay(
            target,
            trace,
            project_count=60,
            rounds=rounds,
            spoil=False,
            started_at=0.0,
            progress=progress,
            on_progress=on_progress,
        )
    )
    assert killed or kill is None
    return report


def assert_exact(report: Report, sent: int) -> None:
    assert report.events_sent == sent
    assert report.events_billed + report.events_refused == sent
    assert (report.events_duplicate, report.events_dead_lettered) == (0, 0)
    assert report.balance_drift_microcredits == 0


def test_the_same_trace_sent_twice_bills_once(fleet: Stack) -> None:
    trace = part_of_trace("aaaaaaaaaaaa")
    first = run(fleet, trace)
    assert_exact(first, EVENTS)
    assert first.first_refusal is not None
    assert first.first_refusal["code"] == "out_of_credits"
    second = run(fleet, trace)
    assert (second.events_billed, second.events_refused, second.events_duplicate) == (0, 0, EVENTS)
    assert second.balance_drift_microcredits == 0


def test_killed_workers_bill_nothing_twice_and_lose_nothing(fleet: Stack) -> None:
    def kill_both() -> None:
        for name, pid in fleet.pids().items():
            if name.startswith("worker"):
                os.kill(pid, signal.SIGKILL)

    report = run(fleet, part_of_trace("bbbbbbbbbbbb"), kill_both, rounds=3)
    assert report.events_billed + report.events_refused == 3 * EVENTS
    assert report.balance_drift_microcredits == 0
    assert set(fleet.pids()) == {"api", "courier", "history", "worker-1", "worker-2"}


def test_a_worker_that_lost_its_disk_recovers_from_the_changelogs(fleet: Stack) -> None:
    def lose() -> None:
        pid = fleet.pids()["worker-1"]
        os.kill(pid, signal.SIGSTOP)
        shutil.rmtree(fleet.settings.data_dir / "workers" / "worker-1")
        os.kill(pid, signal.SIGKILL)

    trace = part_of_trace("cccccccccccc")
    report = run(fleet, trace, lose)
    assert report.events_billed + report.events_refused == EVENTS
    assert report.balance_drift_microcredits == 0
    again = run(fleet, trace)
    assert (again.events_billed, again.events_refused) == (0, 0)
    # There may be more: events that accept had in hand when it was killed it sends to intake again, and those may be
    # decided only by now.
    assert again.events_duplicate >= EVENTS


def test_a_thousand_spenders_of_one_account_are_told_their_first_answers_though_workers_and_disks_are_lost(
    fleet: Stack,
) -> None:
    operator = Operator(fleet)
    project = operator.project("scale")
    operator.lift_limits(project)

    def lose_workers() -> None:
        pids = [pid for name, pid in fleet.pids().items() if name.startswith("worker")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        # A worker that has just been started again may have no disk yet.
        with suppress(FileNotFoundError):
            shutil.rmtree(fleet.settings.data_dir / "workers")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    async def spend() -> tuple[list[Decision], list[Decision]]:
        async with KafkaAdmissions(fleet.settings, timeout_seconds=30.0) as admissions:

            async def ask(number: int) -> Decision:
                names = {"id": f"e{number}", "source": "/spenders", "idempotency_key": f"k{number}"}
                while True:
                    with suppress(MeterlineAway):
                        return await admissions.admit(project, "chat.message", **names)

            asking = [asyncio.create_task(ask(number)) for number in range(SPENDERS)]
            await asking[SPENDERS // 4]
            lose_workers()
            first = await asyncio.gather(*asking)
            lose_workers()
            return first, await asyncio.gather(*(ask(number) for number in range(SPENDERS)))

    before = operator.http.get("/v1/balance", params={"project": project}).json()["available"]
    first, again = asyncio.run(spend())
    assert {decision.code for decision in first} == {""}
    # A repeat is a request too: it is told the window as it is now, and of the first answer all else.
    assert [told(decision) for decision in again] == [told(decision) for decision in first]
    assert {decision.rate is None for decision in [*first, *again]} == {False}
    assert len({decision.entry_id for decision in first}) == SPENDERS
    left = operator.http.get("/v1/balance", params={"project": project, "min_offset": max(d.offset for d in first)})
    assert int(before) - int(left.json()["available"]) == SPENDERS


def told(decision: Decision) -> Decision:
    return replace(decision, rate=None)


def is_restarted(fleet: Stack, killed: int) -> bool:
    """Whether another API runs than the one that was killed: its supervisor needs a moment to notice."""
    return fleet.pids().get("api", killed) != killed


def test_a_killed_api_and_historian_leave_the_history_exact(fleet: Stack) -> None:
    """The API process holds ClickHouse and the historian. Usage by Kafka goes on while that process is gone."""
    trace = part_of_trace("dddddddddddd")
    operator = Operator(fleet)

    async def send() -> None:
        from api.demo.trace import events_of, projects_of
        from streams.client.kafka_producer import KafkaProducer

        projects = projects_of(trace.name, 60)
        for project, plan in projects:
            operator.http.post("/v1/admin/projects", json={"project": project, "plan": plan, "contract_credits": 9})
        async with KafkaProducer(fleet.settings, events_per_pack=50) as producer:
            for number, event in enumerate(events_of(trace, [p for p, _ in projects], datetime.now(UTC))):
                await producer.send(event)
                if number % 1_000 == 500:
                    killed = fleet.pids()["api"]
                    os.kill(killed, signal.SIGKILL)
                    restarted = partial(is_restarted, fleet, killed)
                    await asyncio.to_thread(eventually, restarted, 30)

    asyncio.run(send())
    decided = f"source = '/{trace.name}' AND kind IN ('charge', 'refusal')"
    sql = f"SELECT toString(uniqExact(event_id)) FROM facts WHERE {decided}"

    def all_there() -> bool:
        try:
            rows = operator.rows(fleet.clickhouse_url, sql)
        except Exception:
            return False
        return bool(rows and int(rows[0][0]) == EVENTS)

    eventually(all_there, 90)
    repeated = "SELECT partition, offset, position FROM facts GROUP BY ALL HAVING count() > 1"
    assert operator.rows(fleet.clickhouse_url, repeated) == []


def test_nothing_is_left_running_when_the_supervisor_is_killed(tmp_path) -> None:
    import sys

    from streams.embedded import lifeline

    code = (
        "import sys, time, pathlib\n"
        "from api.stack import Stack\n"
        "from streams.settings import Settings\n"
        f"stack = Stack(Settings(data_dir=pathlib.Path({str(tmp_path)!r}), api_port=0, clickhouse_front_port=0))\n"
        "stack.start()\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).write_text('up')\n"
        "time.sleep(600)\n"
    )
    parent = lifeline.start("parent", [sys.executable, "-c", code], log_path=tmp_path / "parent.log")
    try:
        eventually((tmp_path / "up").exists, 90)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert any("java" in child.name() for child in children)
        assert len(children) >= 4
        os.kill(parent.pid, signal.SIGKILL)
        psutil.wait_procs(children, timeout=30)
        assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        parent.stop()
