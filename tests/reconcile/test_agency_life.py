"""The life of an agency, 13 months of 40 projects, goes through the real pipeline: the intake log is written with the
times of that life, and then read.

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
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api import stack as stack_module
from api.stack import Stack
from schemas.facts import ENTRY_KINDS, Fact
from streams.kafka.codecs import encode_intake
from streams.settings import Settings
from tests.calls import Operator, eventually
from tests.kafka.written_log import create_intake, write_intake
from tests.reconcile.agency import CREDIT, MONTHS, Life, renewal_days

PARTITIONS = 2
GOLDEN = Path(__file__).parent.parent / "golden"


class Replayed:
    """The stack after it has read a life, and the facts that were expected of it."""

    def __init__(self, life: Life, facts: dict[int, list[Fact]], stack: Stack, told: list[str]) -> None:
        self.life = life
        self.told = told
        self.facts = facts
        self.stack = stack
        self.operator = Operator(stack)

    def invoice(self, account: str, month: str) -> dict[str, Any]:
        answer = self.operator.http.get(f"/v1/admin/billing-accounts/{account}/invoices/{month}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

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
        # No ticks, so that nothing moves by today's clock.
        tick_seconds=0,
        # What moves no credits is kept, however long ago it was.
        passing_facts_days=0,
        # The life takes longer, so that the start is told of it.
        reply_timeout_seconds=1,
    )
    asyncio.run(create_intake(settings))
    asyncio.run(write_intake(settings, [(partition, at_ms, encode_intake(body)) for partition, at_ms, body in records]))
    told: list[str] = []
    with pytest.MonkeyPatch.context() as here:
        here.setattr(stack_module, "_TOLD_EVERY_SECONDS", 0.0)
        stack = Stack(settings, tell=told.append)
        stack.start()
    try:
        replayed = Replayed(life, facts, stack, told)
        count = sum(len(each) for each in facts.values())
        eventually(lambda: replayed.rows("SELECT count() FROM facts") == [[str(count)]], seconds=120)
        yield replayed
    finally:
        stack.stop()


def test_a_start_tells_what_waits_until_it_is_decided(replayed: Replayed) -> None:
    waited = [int(text.split()[2].replace(",", "")) for text in replayed.told if text.startswith("catching up: ")]
    assert len(waited) > 1
    assert waited[0] > max(1_000, waited[-1])


def test_history_is_the_life(replayed: Replayed) -> None:
    """The history has exactly the facts that the core states, one record at a time, and in their order."""
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
        # An upgrade grants credits at once too, which is no renewal.
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
    # The accounts are the projects, two billing accounts, and a price list for each partition.
    assert verdict["rebuild"]["accounts"] == 40 + 2 + PARTITIONS
    assert verdict["rebuild"]["records"] >= len(replayed.life.moments)
    assert verdict["facts"] == sum(len(each) for each in replayed.facts.values())


@pytest.mark.parametrize(("account", "month"), [("northwind", "2025-08"), ("contoso", "2025-03")])
def test_golden_invoices(replayed: Replayed, account: str, month: str) -> None:
    # It is final once the historian has said how far it is, after all can be read.
    invoice = eventually(lambda: (found := replayed.invoice(account, month))["status"] == "final" and found)
    assert invoice["status"] == "final"
    text = json.dumps(invoice, indent=2) + "\n"
    golden = GOLDEN / f"agency-{account}-{month}.json"
    if os.environ.get("METERLINE_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_invoices_add_up_to_the_entries_and_to_the_cent(replayed: Replayed) -> None:
    """The invoices of all months of both accounts agree with the facts that the core stated while the life was written:
    the money, and for each project the change of its balance, to the microcredit, and the number of facts."""
    expected: Counter[tuple[str, str]] = Counter()
    changes: Counter[tuple[str, str, str]] = Counter()
    counts: Counter[tuple[str, str, str]] = Counter()
    for facts in replayed.facts.values():
        for fact in facts:
            month = datetime.fromtimestamp(fact.booked_at_ms / 1000, UTC).strftime("%Y-%m")
            expected[fact.billing_account, month] += fact.cents
            if fact.kind in (*ENTRY_KINDS, "subscription"):
                changes[fact.billing_account, month, fact.project] += fact.amount
                counts[fact.billing_account, month, fact.project] += 1
    total = 0
    for account in ("northwind", "contoso"):
        months = replayed.operator.http.get(f"/v1/admin/billing-accounts/{account}/invoices").json()["invoices"]
        assert len(months) >= MONTHS
        for month in (each["month"] for each in months):
            invoice = replayed.invoice(account, month)
            assert invoice["total_cents"] == expected[account, month], (account, month)
            projects = invoice["projects"]
            assert sum(project["total_cents"] for project in projects) == invoice["total_cents"]
            for project in projects:
                assert sum(line["cents"] for line in project["lines"]) == project["total_cents"]
                key = (account, month, project["project"])
                credits = sum(Decimal(line["credits"]) for line in project["lines"])
                assert credits == Decimal(project["credits_change"]) == Decimal(changes.pop(key, 0)) / CREDIT, key
                assert sum(line["facts"] for line in project["lines"]) == project["facts"] == counts[key], key
            total += invoice["total_cents"]
    assert total == sum(expected.values()) > 0
    assert not changes, "a fact of a project is on no invoice"


def test_a_plan_that_never_changed_costs_its_price_a_month(replayed: Replayed) -> None:
    """A project that stayed on Hobby is due $25 on each of its renewal days, by the price list alone."""
    touched = {row[0] for row in replayed.rows("SELECT DISTINCT project FROM facts WHERE kind = 'plan'")}
    touched |= set(_closed_spans(replayed))
    steady = [name for name, plan in replayed.life.plans.items() if plan == "hobby" and name not in touched]
    assert steady, "this life has no project that stays on its plan"
    for name in steady:
        days = renewal_days(replayed.life.signed_up[name], datetime(2026, 2, 1, tzinfo=UTC))
        (cents,) = replayed.rows(f"SELECT sum(cents) FROM facts WHERE project = '{name}' AND kind = 'subscription'")
        assert cents == [str(25_00 * len(days))]


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
