"""Facts that move no credits are removed after some days; sums stay, the historian goes on, `verify` finds no drift."""

import asyncio
from collections.abc import Callable

import pytest

from schemas.facts import FACT_KINDS, PASSING_KINDS, Fact
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import Historian, journal_sink
from streams.clickhouse.migrations import migrate
from streams.clickhouse.retention import keep_passing_facts
from streams.history.facts import wait_for
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode, encode_account, encode_facts
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.reconcile.verify import verify
from streams.settings import Settings
from tests.clickhouse.test_historian import writing
from tests.core.test_ledger import Bench

KINDS = "SELECT arrayStringConcat(arraySort(groupUniqArray(kind)), ' ') FROM facts"
MARK = "SELECT max((offset, position)) FROM facts"


def fact(offset: int, kind: str, days: int, amount: int = 0, grant_id: str = "") -> Fact:
    at_ms = now_ms() - days * DAY_MS
    return Fact(
        offset, 0, kind, "p1", "production", "image", 1, amount, 5, grant_id, "", "v", "", "", "", "", at_ms, at_ms, ""
    )


def remove_old(clickhouse: ClickHouse) -> None:
    clickhouse.command("OPTIMIZE TABLE facts FINAL")


def test_what_moves_credits_or_says_what_holds_never_passes() -> None:
    assert set(PASSING_KINDS) == {"request", "duplicate", "shadow", "refusal"}
    for kind in PASSING_KINDS:
        known = FACT_KINDS[kind]
        assert not (known.is_entry or known.is_usage or known.bears_held or known.bears_cents)


def test_the_setting_is_the_tables_own_rule_and_changes_with_it(clickhouse: ClickHouse) -> None:
    migrate(clickhouse)
    for days, is_new in ((0, False), (30, True), (30, False), (400, True), (0, True), (0, False), (7, True)):
        assert keep_passing_facts(clickhouse, Settings(passing_facts_days=days)) == is_new, days


@pytest.mark.parametrize("days", [0, 30])
def test_old_facts_of_these_kinds_go_and_no_others(embedded: ClickHouse, days: int) -> None:
    migrate(embedded)
    sink = journal_sink(Settings())
    for offset, (kind, age) in enumerate((kind, age) for kind in FACT_KINDS for age in (1, 29, 31, 500)):
        pack = Pack((0, offset), encode([fact(offset, kind, age)]), 1)
        embedded.insert_packs("facts", sink.shared, sink.columns, [pack])
    keep_passing_facts(embedded, Settings(passing_facts_days=days))
    remove_old(embedded)
    left = dict(embedded.query("SELECT kind, count() FROM facts GROUP BY kind"))
    assert left == {kind: 2 if days and kind in PASSING_KINDS else 4 for kind in FACT_KINDS}


def test_rows_that_come_back_above_the_mark_go_again_and_change_no_sum(
    settings_for: Callable[..., Settings], embedded: ClickHouse
) -> None:
    """The worst case: the newest facts of a partition are old refusals. The mark falls back, and they are read and
    written anew each time that the historian starts; ClickHouse may take the same block for a repeat and drop it."""
    settings = settings_for(historian_flush_ms=50, partitions=1, passing_facts_days=30)
    bench = Bench()
    (grant,) = bench.account.grants
    bench.account.last_offset = 1
    grant.remaining = 70
    lasting = [fact(0, "grant", 500, 100, grant.id), fact(1, "charge", 499, -30, grant.id)]
    passing = [fact(2 + number, "refusal", 400) for number in range(50)]

    async def scenario(clickhouse: ClickHouse) -> None:
        publisher = Publisher(settings)
        await publisher.start()
        topics = topics_of(settings)
        try:
            for each in [*lasting, *passing]:
                await publisher.send_all(topics.journal, 0, [(None, encode_facts([each]))])
            account = encode_account(bench.account)
            await (await publisher.send(topics.accounts_changelog, 0, account, key=b"p1"))
        finally:
            await publisher.stop()
        for written in (52, 50, 50):
            historian = Historian(settings, clickhouse, journal_sink(settings))
            async with writing(historian), asyncio.timeout(30):
                while historian.rows_written < written:
                    await asyncio.sleep(0.05)
            assert historian.rows_written == written
            assert (await verify(settings, clickhouse)).ok
            await asyncio.to_thread(remove_old, clickhouse)
            assert clickhouse.query(MARK)[0][0] == (1, 0)
            assert clickhouse.query("SELECT count(), sum(amount) FROM facts")[0] == (2, 70)
            verdict = await verify(settings, clickhouse)
            assert verdict.ok and verdict.facts == 52
            # Nor does anybody wait for what is not to come.
            await wait_for(settings, clickhouse, 0, 51, 5.0)

    asyncio.run(create_topics(settings))
    migrate(embedded)
    keep_passing_facts(embedded, settings)
    asyncio.run(scenario(embedded))
    assert embedded.query(KINDS)[0][0] == "charge grant"
