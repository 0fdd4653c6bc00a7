"""Receipts of decisions that limits had a part in: the limits of that time, the minute before and the wait, read from
the history alone, against what the core said then."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from api.cli.explain import explain_text
from schemas.accounts import Account, Limits
from schemas.commands import ChangePlan, CountRequest, EndRaise, RaiseLimits, SetLimits, Tick
from schemas.facts import entry_id
from schemas.http.receipts import Receipt
from schemas.replies import Reply
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.fold import IntakeItem, fold
from streams.core.limits import limits_of
from streams.core.price_list import Prices
from streams.core.replies import Kept
from streams.history.limit_words import limit_values
from streams.history.receipts import find_decision, receipt_of
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, top_up, usage
from tests.history.lives import asker, insert_facts


class Gate:
    """A project whose requests and limits the real core decides; `facts` are what it stated."""

    def __init__(self, plan: str = "free") -> None:
        self.at_ms, self.offset = START_MS, 0
        self.accounts: dict[str, Account] = {}
        self.seen: dict[bytes, int] = {}
        self.kept = Kept()
        self.facts: list[Any] = []
        self.apply(create_project("p1", plan))

    @property
    def account(self) -> Account:
        return self.accounts["p1"]

    def apply(self, body: Any) -> Reply | None:
        effects = fold(0, [IntakeItem(self.offset, self.at_ms, body)], self.accounts, self.seen, self.kept, "intake")
        self.offset += 1
        self.facts += effects.facts
        return effects.replies[0][1] if effects.replies else None

    def do(self, kind: type[Any], **fields: Any) -> Reply:
        reply = self.apply(kind(project="p1", actor="key_1", **fields, **addressed(f"c{self.offset}")))
        assert reply is not None
        return reply

    def ask(self, operation: str = "read", hold_seconds: int = 0) -> Reply:
        used = usage(f"e{self.offset}", operation=operation, key_id="key_1", occurred_at_ms=self.at_ms)
        reply = self.apply(admit(used, correlation=f"c{self.offset}", hold_seconds=hold_seconds))
        assert reply is not None
        return reply

    def hold(self, operation: str) -> Reply:
        return self.ask(operation, hold_seconds=3_600)

    def count(self, operation: str = "GET /v1/balance") -> Reply:
        return self.do(CountRequest, operation=operation, environment="production")

    def set(self, *limits: int, is_shadow: bool = False, reason: str = "") -> Reply:
        return self.do(SetLimits, limits=Limits(*limits), is_shadow=is_shadow, reason=reason)

    def raise_limits(self, limits: Limits, begins_ms: int, ends_ms: int) -> Reply:
        times = {"starts_at_ms": self.at_ms + begins_ms, "ends_at_ms": self.at_ms + ends_ms}
        return self.do(RaiseLimits, limits=limits, reason="launch", **times)


@pytest.fixture
def history(embedded: ClickHouse) -> ClickHouse:
    migrate(embedded)
    return embedded


def receipt(history: ClickHouse, fact_id: str) -> Receipt:
    decision, position = asyncio.run(find_decision(asker(history), None, fact_id, 1))
    found = receipt_of(history, Prices(), decision, position)
    assert found.summary in explain_text(found.model_dump(mode="json"))
    return found


def wait_seconds(gate: Gate, reply: Reply) -> int:
    assert reply.rate is not None
    return -(-(reply.rate.retry_at_ms - gate.at_ms) // 1000)


def test_a_429_of_the_window_has_the_limits_of_its_time_and_the_minute_before(history: ClickHouse) -> None:
    gate = Gate("free")
    gate.set(3, 4, 0, reason="abuse")
    for _ in range(4):
        assert gate.ask().status == 200
        gate.at_ms += 1_000
    limited = gate.ask()
    wait = wait_seconds(gate, limited)
    gate.set(0, 0, 0)
    insert_facts(history, gate.facts)
    found = receipt(history, limited.entry_id)
    assert (found.outcome, found.refusal and found.refusal.status) == ("refused", 429)
    assert found.price is None and found.limits is not None and found.refusal is not None
    assert found.limits.in_force == limit_values(Limits(3, 4, 300 * CREDIT))
    assert found.limits.contract is not None and found.limits.contract.cost_ceiling is None
    assert (found.limits.requests_before, found.limits.credits_before) == (4, "0")
    assert found.limits.retry_after_seconds == wait == 57
    assert found.refusal.detail == (
        "4 requests of the 60 seconds before had used up what was allowed, 3 a minute and 4 at once; "
        "it would have passed 57 seconds later"
    )
    assert "retry after" in explain_text(found.model_dump(mode="json"))


def test_a_429_of_the_ceiling_says_what_was_spent_and_held(history: ClickHouse) -> None:
    gate = Gate("hobby")
    gate.set(0, 0, 100 * CREDIT)
    gate.ask("image")
    gate.at_ms += 10_000
    gate.hold("image")
    gate.at_ms += 10_000
    limited, never = gate.ask("blog_post"), gate.ask("website")
    assert (limited.code, never.code) == ("rate_limited", "over_cost_ceiling")
    insert_facts(history, gate.facts)
    found = receipt(history, limited.entry_id)
    assert found.refusal is not None and found.limits is not None
    assert (found.refusal.status, found.refusal.needed, found.limits.credits_before) == (429, "60", "64")
    assert found.limits.retry_after_seconds == wait_seconds(gate, limited) == 40
    assert found.refusal.detail == (
        "blog_post costs 60 credits; 64 of the 100 that may be spent in a minute were spent in the 60 seconds before; "
        "it would have passed 40 seconds later"
    )
    assert found.price is not None and found.price.total == "60"
    found = receipt(history, never.entry_id)
    assert found.refusal is not None and found.limits is not None
    assert (found.refusal.status, found.refusal.code) == (403, "over_cost_ceiling")
    assert found.refusal.detail == "website costs 240 credits, more than the 100 that may be spent in a minute"
    assert found.limits.retry_after_seconds is None


def test_a_counted_call_and_one_that_was_too_many(history: ClickHouse) -> None:
    gate = Gate("free")
    gate.set(1, 1, 0)
    counted, limited = gate.count(), gate.count("GET /v1/ledger")
    insert_facts(history, gate.facts)
    found = receipt(history, counted.entry_id)
    assert (found.outcome, found.inputs.operation, found.inputs.key_id) == ("counted", "GET /v1/balance", "key_1")
    assert found.summary == "Counted GET /v1/balance in the project's request window; it cost nothing"
    assert found.refusal is None and found.limits is not None and found.limits.requests_before == 0
    found = receipt(history, limited.entry_id)
    assert (found.outcome, found.refusal and found.refusal.code) == ("refused", "rate_limited")
    assert found.limits is not None
    assert (found.limits.requests_before, found.limits.retry_after_seconds) == (1, 60)


def test_changes_of_limits_explain_themselves(history: ClickHouse) -> None:
    gate = Gate("free")
    replies = [
        gate.set(50, 0, 0, reason="contract 7"),
        gate.set(5, 0, 0, is_shadow=True),
        gate.raise_limits(Limits(0, 0, 500 * CREDIT), 0, 60_000),
        gate.raise_limits(Limits(0, 900, 0), 1_000, 70_000),
    ]
    gate.at_ms += 2_000
    gate.apply(Tick(["p1"]))
    begun = entry_id(0, gate.facts[-1].offset, gate.facts[-1].index)
    replies.append(gate.do(EndRaise, raise_id=replies[2].entry_id))
    replies.append(gate.set(0, 0, 0))
    insert_facts(history, gate.facts)
    receipts = [receipt(history, reply.entry_id) for reply in replies]
    assert [found.outcome for found in receipts] == [
        "limits set",
        "limits on trial",
        "limits raised",
        "limits raised",
        "raise ended",
        "limits set",
    ]
    assert receipts[0].summary == "Limits of its own from now on: 50 requests a minute (contract 7)"
    assert receipts[1].summary == "Limits on trial from now on: 5 requests a minute"
    assert receipts[2].summary.startswith("Limits raised to 500 credits a minute from ")
    assert receipts[2].limits is not None and receipts[2].limits.in_force.cost_ceiling == "500"
    assert receipts[3].limits is not None and receipts[3].limits.in_force.burst == 60, "it has not begun"
    assert receipts[4].summary == f"Raise {replies[2].entry_id} ended: 500 credits a minute"
    assert receipts[4].limits is not None and receipts[4].limits.raises == [replies[3].entry_id]
    assert receipts[5].summary == "Its plan's limits from now on"
    assert receipts[5].limits is not None and receipts[5].limits.contract is None
    turned = receipt(history, begun)
    assert turned.outcome == "raise begun" and turned.limits is not None and turned.limits.in_force.burst == 900


def test_what_a_trial_would_have_refused_stands_beside_what_was_done(history: ClickHouse) -> None:
    gate = Gate("free")
    gate.set(1, 1, 10 * CREDIT, is_shadow=True)
    charged, counted = gate.ask("image"), gate.count()
    assert (charged.shadow, counted.shadow) == ("over_cost_ceiling", "rate_limited")
    insert_facts(history, gate.facts)
    found = receipt(history, charged.entry_id)
    assert (found.outcome, found.refusal) == ("charged", None)
    assert found.shadow is not None and found.shadow.code == "over_cost_ceiling"
    assert found.shadow.detail == (
        "The limits on trial, 1 requests a minute, 1 at once, 10 credits a minute, would have refused it"
    )
    assert "on trial" in explain_text(found.model_dump(mode="json"))
    mine = next(fact for fact in gate.facts if fact.kind == "shadow")
    assert receipt(history, entry_id(0, mine.offset, mine.index)) == found
    found = receipt(history, counted.entry_id)
    assert found.shadow is not None and (found.outcome, found.shadow.status) == ("counted", 429)


@pytest.mark.parametrize("seed", range(3))
def test_every_429_of_a_busy_life_is_explained_as_it_was_answered(history: ClickHouse, seed: int) -> None:
    """A receipt has the limits that were in force and the wait that was answered, whatever limits, raises and plans
    there were."""
    random, gate = Random(seed), Gate("hobby")
    for number in range(3):
        gate.apply(top_up(500, correlation=f"t{number}"))
    expected: dict[str, tuple[Limits, int]] = {}
    for _ in range(700):
        gate.at_ms += random.choice([0, 1, 7, 40, 40, 90, 300, 300, 2_500])
        choice = random.random()
        if choice < 0.01:
            gate.set(random.choice([0, 5, 20]), random.choice([0, 30]), random.choice([0, 100, 700]) * CREDIT)
        elif choice < 0.02:
            begins_ms = random.choice([0, 4_000])
            limits = Limits(random.choice([0, 40]), random.choice([0, 90]), random.choice([1, 900]) * CREDIT)
            gate.raise_limits(limits, begins_ms, begins_ms + 20_000)
        elif choice < 0.025:
            gate.do(ChangePlan, plan=random.choice(["hobby", "build"]), contract_allowance=0)
        else:
            do = random.choice([gate.ask, gate.ask, gate.hold, lambda _: gate.count()])
            reply = do(random.choice(["read", "chat.message", "image", "blog_post"]))
            if reply.code == "rate_limited":
                expected[reply.entry_id] = (limits_of(gate.account), wait_seconds(gate, reply))
    insert_facts(history, gate.facts)
    assert len(expected) > 20
    reasons = set()
    for fact_id in random.sample(sorted(expected), 20):
        limits, wait = expected[fact_id]
        found = receipt(history, fact_id)
        assert found.limits is not None
        assert found.limits.in_force == limit_values(limits), fact_id
        assert found.limits.retry_after_seconds == wait, fact_id
        reasons.add(found.price is None)
    assert reasons == {True, False}, "by the window, and by the ceiling"
