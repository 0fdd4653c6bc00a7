"""A worker comes back: from its changelogs, compacted or not, from its disk, and soon after a kill."""

import asyncio
import shutil
import time
from collections.abc import Callable

import pytest

from streams.errors import OperatorError
from streams.kafka.topic_creation import create_topics
from streams.settings import Settings
from streams.worker.membership import lock
from tests.benchmarks.recovery.compaction import await_compaction, compact_eagerly
from tests.benchmarks.recovery.filling import filler
from tests.benchmarks.recovery.run import BenchWorker, seen_rows, wrong_accounts
from tests.benchmarks.workload import Workload

PROJECTS = 200
EVENTS = 2_000


def test_a_worker_recovers_from_a_compacted_changelog_with_gaps(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()

    async def run() -> None:
        await create_topics(settings)
        await compact_eagerly(settings)
        workload = Workload(EVENTS, PROJECTS)
        worker = BenchWorker(settings)
        try:
            async with filler(settings, workload.project_ids()) as fill:
                await fill.open_projects()
                await fill.charge(workload)
                assert (await worker.start(fill)).wrong_replies == 0
                for seed in (2, 3):
                    # A pause each time, so that the next record begins a segment, and the last one can be compacted.
                    await asyncio.sleep(0.3)
                    await fill.charge(Workload(EVENTS, PROJECTS, seed))
                    assert await fill.decide_everywhere() == 0
                worker.stop()
                versions = 3 * PROJECTS
                # The newest segment is never compacted, so some accounts still have more than one version.
                left = await await_compaction(settings, versions - PROJECTS // 2)
                assert left >= PROJECTS
                shutil.rmtree(settings.worker_dir)
                assert (await worker.start(fill)).wrong_replies == 0
                worker.stop()
                assert wrong_accounts(settings, fill.expected) == 0
                assert seen_rows(settings) == 3 * EVENTS
                # The offset at which the worker's files stand may have been compacted away meanwhile.
                assert (await worker.start(fill)).wrong_replies == 0
                worker.stop()
                assert wrong_accounts(settings, fill.expected) == 0
        finally:
            worker.kill()

    asyncio.run(run())


def test_a_killed_worker_need_not_wait_for_its_own_session(settings_for: Callable[..., Settings]) -> None:
    session_seconds = 60.0
    settings = settings_for(session_timeout_seconds=session_seconds)

    async def run() -> None:
        await create_topics(settings)
        workload = Workload(EVENTS, PROJECTS)
        worker = BenchWorker(settings)
        try:
            async with filler(settings, workload.project_ids()) as fill:
                await fill.open_projects()
                assert (await worker.start(fill)).wrong_replies == 0
                await fill.charge(workload)
                assert await fill.decide_everywhere() == 0
                worker.kill()
                began_at = time.monotonic()
                assert (await worker.start(fill)).wrong_replies == 0
                assert time.monotonic() - began_at < session_seconds / 2
                worker.stop()
                assert wrong_accounts(settings, fill.expected) == 0
                assert seen_rows(settings) == EVENTS
        finally:
            worker.kill()

    asyncio.run(run())


def test_one_worker_at_a_time_runs_on_a_directory(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.worker.membership.LOCK_SECONDS_MAX", 0.1)
    settings = settings_for()
    with lock(settings.worker_dir, "worker"):
        with pytest.raises(OperatorError, match="METERLINE_WORKER_NAME"):
            lock(settings.worker_dir, "worker")
        lock(settings_for(worker_name="worker-2").worker_dir, "worker").close()
    lock(settings.worker_dir, "worker").close()
