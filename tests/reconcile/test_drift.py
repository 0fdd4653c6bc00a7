"""The drift check compares balances with the history all the time; here on the real changelog and the real engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from schemas.accounts import Account, Grant
from schemas.facts import Fact
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import journal_sink
from streams.clickhouse.migrations import migrate
from streams.kafka.codecs import encode, encode_account
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import partition_of, topics_of
from streams.reconcile.drift import DriftCheck, _Snapshot
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.state.rocks import VersionedFile

NOW_MS = 1_780_272_000_000
PROJECTS = [f"p{number}" for number in range(7)]


def granted(offset: int, project: str, amount: int) -> Fact:
    return Fact(
        offset, 0, "grant", project, "production", "", 0, amount, amount, "g", "allowance", "", "", "", "", "",
        NOW_MS, NOW_MS, "",
    )  # fmt: skip


def account(project: str, offset: int, microcredits: int) -> Account:
    grants = [Grant("g", "allowance", "production", microcredits, microcredits, NOW_MS, 0)]
    return Account(project, "", "free", microcredits, NOW_MS, NOW_MS, grants, [], 0, offset, NOW_MS)


def test_what_history_lacks_is_drift_only_once_it_had_time(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for()
    clickhouse = ClickHouse(settings)
    migrate(clickhouse)
    sink = journal_sink(settings)

    def write(*facts: Fact) -> None:
        packs = [
            Pack((partition_of(fact.project, settings.partitions), fact.offset), encode([fact]), 1) for fact in facts
        ]
        clickhouse.insert_packs(sink.table, sink.shared, sink.columns, packs)

    async def scenario() -> None:
        await create_topics(settings)
        publisher, view = Publisher(settings), AccountsView(settings, tmp_path / "view")
        await publisher.start()
        for project in PROJECTS:
            value = encode_account(account(project, 10, 500))
            partition = partition_of(project, settings.partitions)
            await publisher.send(topics_of(settings).accounts_changelog, partition, value, project.encode())
        await publisher.stop()
        await view.start()
        try:
            async with asyncio.timeout(60):
                while not (view.is_ready and len(list(view.all())) == len(PROJECTS)):
                    await asyncio.sleep(0.02)
            await check_all(DriftCheck(view, clickhouse, grace_seconds=60))
            await check_all(DriftCheck(view, clickhouse, grace_seconds=0))
        finally:
            await view.stop()

    async def check_all(check: DriftCheck) -> None:
        # A fact after the account's own offset is not in its balance yet, and does not count.
        write(*(granted(10, project, 500) for project in PROJECTS[1:]), granted(11, "p1", 9))
        while not check.passes:
            await check.check_some(count=2)
        assert check.projects_checked >= len(PROJECTS) - 1
        patient = check.grace_seconds > 0
        assert check.drift_microcredits == ({} if patient else {"p0": 500})
        write(granted(10, "p0", 500))
        await check.check_some()
        assert check.drift_microcredits == {}
        clickhouse.command("TRUNCATE TABLE facts")

    try:
        asyncio.run(scenario())
    finally:
        clickhouse.close()


@pytest.mark.parametrize("count", [1, 3, 100])
def test_accounts_can_be_gone_through_in_pieces(
    settings_for: Callable[..., Settings], tmp_path: Path, count: int
) -> None:
    settings = settings_for()
    view = AccountsView(settings, tmp_path)
    for partition in range(settings.partitions):
        view._files[partition] = VersionedFile(tmp_path / str(partition))
    for project in PROJECTS:
        file = view._files[partition_of(project, settings.partitions)]
        file.write([(project.encode(), encode_account(account(project, 1, 1)))], 1)
    found: list[str] = []
    while more := [each.project for each in view.after(found[-1] if found else "")][:count]:
        found += more
    assert sorted(found) == PROJECTS
    assert len(found) == len(PROJECTS)


def test_hundreds_of_projects_with_long_ids_are_compared_over_http_too(over_http: ClickHouse) -> None:
    """Above 4,096 characters the driver sends a query's parameters as a form, which the front refused: nothing was
    compared from some hundred projects on."""
    migrate(over_http)
    sink = journal_sink(over_http._settings)
    projects = {f"project:{number:03}-{'x' * 40}": number for number in range(400)}
    packs = [Pack((0, number), encode([granted(number, project, 7)]), 1) for project, number in projects.items()]
    over_http.insert_packs(sink.table, sink.shared, sink.columns, packs)
    check = DriftCheck(cast(AccountsView, None), over_http, grace_seconds=0)
    asked = {project: _Snapshot(offset, 7, 0.0) for project, offset in projects.items()}
    assert check._history(asked) == dict.fromkeys(projects, 7)
