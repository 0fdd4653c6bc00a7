"""13 months of an agency with 40 projects through the real pipeline: the log is written with its own times, then read.

Kafka, worker, API, historian and ClickHouse are the real ones. Only the times of the intake records are simulated: that
topic is created with `CreateTime` here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from api.stack import Stack
from schemas.ledger import Fact
from streams.codecs import encode
from streams.settings import Settings
from streams.topics import kafka_client_settings, topics_of
from tests.client import Operator, eventually
from tests.streams.agency import Life, renewal_days

PARTITIONS = 2


class Replayed:
    """The stack after the life, and what was expected of it."""

    def __init__(self, life: Life, facts: dict[int, list[Fact]], stack: Stack) -> None:
        self.life = life
        self.facts = facts
        self.stack = stack
        self.operator = Operator(stack)

    def rows(self, sql: str) -> list[list[str]]:
        return self.operator.rows(self.stack.clickhouse_url, sql)


@pytest.fixture(scope="module")
def replayed(broker: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    life = Life(PARTITIONS)
    records, facts = life.written()
    settings = Settings(
        kafka_url=broker.url,  # type: ignore[attr-defined]
        topic_prefix="agency",
        partitions=PARTITIONS,
        data_dir=tmp_path_factory.mktemp("agency"),
        api_port=0,
        clickhouse_front_port=0,
        # Nothing moves by today's clock.
        tick_seconds=0,
    )
    asyncio.run(_write(settings, [(partition, at_ms, encode(body)) for partition, at_ms, body in records]))
    with Stack(settings) as stack:
        told = Replayed(life, facts, stack)
        count = sum(len(each) for each in facts.values())
        eventually(lambda: told.rows("SELECT count() FROM facts") == [[str(count)]], seconds=120)
        yield told


async def _write(settings: Settings, records: list[tuple[int, int, bytes]]) -> None:
    """The intake topic with the times of the life, before anyone reads it."""
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    topic = topics_of(settings).intake
    config = topics_of(settings).configs()[topic] | {"message.timestamp.type": "CreateTime"}
    await admin.create_topics([NewTopic(topic, settings.partitions, 1, topic_configs=config)])
    await admin.close()
    producer = AIOKafkaProducer(**kafka_client_settings(settings), enable_idempotence=True)
    await producer.start()
    for partition, at_ms, value in records:
        await producer.send(topic, value, partition=partition, timestamp_ms=at_ms)
    await producer.stop()


def test_history_is_the_life(replayed: Replayed) -> None:
    """Every fact that the core states one record at a time, the pipeline has, in its order."""
    columns = "offset, position, kind, project, operation, quantity, amount, held, balance, cents, billing_account"
    for partition, facts in replayed.facts.items():
        rows = replayed.rows(
            f"SELECT {columns} FROM facts WHERE partition = {partition} ORDER BY offset, position FORMAT TSV"
        )
        assert rows == [
            [
                str(value)
                for value in (
                    fact.offset, fact.index, fact.kind, fact.project, fact.operation, fact.quantity, fact.amount,
                    fact.held, fact.balance, fact.cents, fact.billing_account,
                )
            ]
            for fact in facts
        ]  # fmt: skip
    kinds = Counter(fact.kind for facts in replayed.facts.values() for fact in facts)
    for kind in ("charge", "hold", "release", "grant", "expiry", "refund", "refusal", "duplicate", "plan", "item"):
        assert kinds[kind] > 10, f"this life has too little of {kind}"


def test_renewals_come_on_the_right_days(replayed: Replayed) -> None:
    found = defaultdict(list)
    sql = (
        "SELECT project, toUnixTimestamp64Milli(occurred_at), countIf(kind = 'grant'), countIf(kind = 'subscription') "
        "FROM facts WHERE (kind = 'grant' AND reason = 'allowance') OR kind = 'subscription' "
        "GROUP BY project, occurred_at ORDER BY project, occurred_at"
    )
    for project, at_ms, _grants, _subscriptions in replayed.rows(sql):
        found[project].append(datetime.fromtimestamp(int(at_ms) / 1000, UTC))
    changes = {
        (project, datetime.fromtimestamp(int(at_ms) / 1000, UTC))
        for project, at_ms in replayed.rows(
            "SELECT project, toUnixTimestamp64Milli(booked_at) FROM facts WHERE kind = 'plan' OR "
            "(kind = 'project' AND reason = 'reopened')"
        )
    }
    closed = _closed_spans(replayed)
    end = datetime(2026, 2, 1, tzinfo=UTC)
    assert len(replayed.life.signed_up) == 40
    for project, signed_up in replayed.life.signed_up.items():
        due = [
            at
            for at in renewal_days(signed_up, end)
            if not any(begin <= at < until for begin, until in closed.get(project, []))
        ]
        # An upgrade grants at once, too: those are not renewals.
        renewals = [at for at in found[project] if (project, at) not in changes or at in due]
        assert renewals == due, project
    days = {at.day for ats in found.values() for at in ats}
    assert {28, 29, 30, 31} <= days


def test_verify_is_clean_and_the_rebuild_is_byte_equal(replayed: Replayed) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "verify", "--rebuild", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"METERLINE_DATA_DIR": str(replayed.stack.settings.data_dir)},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"]
    assert verdict["rebuild"]["ok"]
    assert verdict["projects"] == 40
    # The projects, two billing accounts, and a price list a partition.
    assert verdict["rebuild"]["accounts"] == 40 + 2 + PARTITIONS
    assert verdict["rebuild"]["records"] >= len(replayed.life.moments)
    assert verdict["facts"] == sum(len(each) for each in replayed.facts.values())


def _closed_spans(replayed: Replayed) -> dict[str, list[tuple[datetime, datetime]]]:
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    begun: dict[str, datetime] = {}
    for project, reason, at_ms in replayed.rows(
        "SELECT project, reason, toUnixTimestamp64Milli(booked_at) FROM facts WHERE kind = 'project' "
        "AND reason IN ('closed', 'reopened') ORDER BY project, booked_at"
    ):
        at = datetime.fromtimestamp(int(at_ms) / 1000, UTC)
        if reason == "closed":
            begun[project] = at
        else:
            spans.setdefault(project, []).append((begun.pop(project), at))
    return spans
