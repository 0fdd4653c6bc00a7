"""Every command, in any order and over months, against the plain model of tests/simulation; nothing ever differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from schemas.accounts import Account, Grant, Limits
from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Commands,
    Correct,
    CountRequest,
    CreateKey,
    CreateProject,
    EndRaise,
    Envelope,
    ExtendHold,
    GivenBack,
    OpenBillingAccount,
    PublishPrices,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    RevokeKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetStanding,
    SettleRecharge,
    Tick,
    TopUp,
)
from schemas.events import Usage
from schemas.facts import Fact
from schemas.prices import PriceBook
from streams.core.booking import available, balance, held
from streams.core.fold import Effects, IntakeItem, fold
from streams.core.items import unpaid
from streams.core.price_list import PRICES_ID
from streams.core.projects import BILLING_PREFIX, NEVER_MS
from streams.core.replies import REPLIES_KEPT
from streams.kafka.codecs import decode_account, encode_account
from tests.core.builders import CREDIT, START_MS, addressed, usage
from tests.seeds import BASE, LEDGER_STEPS, LEDGER_STEPS_DEEP
from tests.simulation.checks import stored_use, used
from tests.simulation.model import Hold, Line, Model, answer_of

STEPS_MIN = LEDGER_STEPS
STEPS_AN_EXAMPLE = 100
# Some examples end early.
EXAMPLES = STEPS_MIN // STEPS_AN_EXAMPLE * 5 // 4 + 1

# By what a tally calls it: each is done, and refused, many times.
COMMANDS = sorted({kind.__name__ for kind in AnyCommand.__args__} | {"Envelope", "Tick", "Hold"})
NEVER_REFUSED = ()
# What is to come about many times, beside what commands do by themselves.
STATED = (
    "charge captured",
    "charge recurring",
    "correction charged",
    "correction given_back",
    "expiry allowance",
    "expiry promotional",
    "limits raise_begun",
    "limits raise_ended",
    "limits raise_planned",
    "limits set",
    "limits shadow",
    "recharge cap_reached",
    "recharge failed",
    "recharge requested",
    "refund top_up",
    "refusal over_cost_ceiling",
    "refusal rate_limited",
    "release captured",
    "release expired",
    "release released",
    "request ",
    "shadow over_cost_ceiling",
    "shadow rate_limited",
)


@pytest.mark.seeded
@pytest.mark.timeout(900)
def test_any_commands_in_any_order_do_what_the_model_says(record_property: Callable[[str, object], None]) -> None:
    tally.clear()
    # As `hypothesis.seed` does, which takes no class.
    LedgerMachine._hypothesis_internal_use_seed = BASE  # type: ignore[attr-defined]
    run_state_machine_as_test(
        seed(BASE)(LedgerMachine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS_AN_EXAMPLE,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    report = [f"{times:8} {what}" for what, times in sorted(tally.items())]
    print("\n".join(report))
    record_property("ledger_steps", tally["steps"])
    assert tally["steps"] >= STEPS_MIN
    # In fewer steps what is rare may not come about at all.
    each_min = STEPS_MIN // 2000 if STEPS_MIN >= LEDGER_STEPS_DEEP else 0
    done, refused = Counter[str](), Counter[str]()
    for what, times in tally.items():
        kind, _, outcome = what.partition(": ")
        if outcome == "done":
            done[kind] += times
        elif outcome not in ("asked again", "key reused"):
            refused[kind] += times
    for kind in COMMANDS:
        assert done[kind] >= each_min, f"{kind} was done {done[kind]} times only"
        assert refused[kind] >= each_min or kind in NEVER_REFUSED, f"{kind} was refused {refused[kind]} times only"
    assert tally["records of several commands"] >= 10 * each_min
    for what in STATED:
        assert tally[f"stated: {what}"] >= each_min, f"{what} came about {tally[f'stated: {what}']} times only"
