"""A balance asked for at an earlier time is what the live balance was then."""

import msgspec
import pytest

from api.views.accounts import balance_of
from schemas.commands import ChangePlan, Tick
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.ledger import settled
from streams.history.past_balance import account_at
from tests.core.builders import START_MS, addressed
from tests.history.lives import DAY_MS, Life, insert_facts

INSTANTS = 20
SEEDS = (0, 1, 2, 6)


def live_balances(life: Life, at_ms: int) -> list[dict]:
    """The answers of GET /v1/balance at that time, made from the account stored then, with what was due applied."""
    account = life.state_at(at_ms)
    settled(account, at_ms, life.prices)
    return shown(account, at_ms)


def shown(account, at_ms: int) -> list[dict]:
    # `offset` differs where a record changed nothing, since the history has no fact of such a record.
    balances = [msgspec.structs.asdict(balance_of(account, each, at_ms, 0)) for each in ("production", "preview")]
    return [{name: value for name, value in balance.items() if name != "offset"} for balance in balances]


def test_the_lives_have_all_that_a_balance_is_made_of() -> None:
    said = set()
    for seed in SEEDS:
        life = Life(seed)
        life.live(250)
        said |= {fact.kind for fact in life.facts} | {fact.reason for fact in life.facts}
    assert {"hold", "release", "correction", "expiry", "captured", "recurring", "refund"} <= said


@pytest.mark.parametrize("seed", SEEDS)
def test_at_any_time_it_is_what_the_live_balance_was(embedded: ClickHouse, seed: int) -> None:
    life = Life(seed)
    life.live(250)
    # The account is touched at the very end, so that everything that was due is booked, late.
    life.at_ms += 20 * DAY_MS
    life.apply(Tick([life.project]))
    migrate(embedded)
    insert_facts(embedded, life.facts)
    span_ms = life.at_ms - START_MS
    instants = [START_MS + life.random.randrange(span_ms) for _ in range(INSTANTS)]
    instants += life.random.sample([at_ms for at_ms, _ in life.states], 6)
    instants += [fact.occurred_at_ms + late for fact in life.facts if fact.kind == "expiry" for late in (-1, 0)][:10]
    for at_ms in instants:
        account = account_at(embedded, life.project, at_ms)
        assert account is not None
        assert shown(account, at_ms) == live_balances(life, at_ms), f"seed {seed}, {at_ms - START_MS} ms after start"
        live = settled(life.state_at(at_ms), at_ms, life.prices)
        assert (account.plan, account.closed_at_ms, account.past) == (live.plan, live.closed_at_ms, live.past)


def test_before_a_project_there_is_none_and_at_its_birth_it_has_its_allowance(embedded: ClickHouse) -> None:
    life = Life(1, recurring=False)
    migrate(embedded)
    insert_facts(embedded, life.facts)
    assert account_at(embedded, life.project, START_MS - 1) is None
    born = account_at(embedded, life.project, START_MS)
    assert born is not None
    assert shown(born, START_MS) == live_balances(life, START_MS)


def test_a_plan_that_waits_for_the_renewal_is_not_there_before(embedded: ClickHouse) -> None:
    life = Life(1, recurring=False)
    for plan in ("build", "free"):
        life.apply(ChangePlan(project=life.project, plan=plan, contract_allowance=0, **addressed(f"to {plan}")))
    renews_at_ms = life.account.renews_at_ms
    life.at_ms = renews_at_ms + 5 * DAY_MS
    life.apply(Tick([life.project]))
    migrate(embedded)
    insert_facts(embedded, life.facts)
    plans = [
        getattr(account_at(embedded, life.project, at_ms), "plan", None)
        for at_ms in (START_MS, renews_at_ms - 1, renews_at_ms)
    ]
    assert plans == ["build", "build", "free"]
