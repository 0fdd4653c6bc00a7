"""Every command, in any order and over months, against the plain model of tests/simulation; nothing ever differs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from schemas.commands import AnyCommand
from tests.core.ledger_machine.partition import tally
from tests.core.ledger_machine.rules import LedgerMachine

STEPS_MIN = int(os.environ.get("METERLINE_LEDGER_STEPS", "20000"))
# The same steps each time, unless a base is given: `meterline test --deep` draws one, and says which.
BASE = int(os.environ.get("METERLINE_SEED_BASE", "0"))
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


@pytest.mark.timeout(900)
def test_any_commands_in_any_order_do_what_the_model_says(record_property: Callable[[str, object], None]) -> None:
    tally.clear()
    # As `hypothesis.seed` does, which takes no class.
    LedgerMachine._hypothesis_internal_use_seed = BASE  # type: ignore[attr-defined]
    run_state_machine_as_test(
        LedgerMachine,
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
    # A short run meets what is rare a few times only; a deep one is to meet it often.
    each_min = STEPS_MIN // 2000 if STEPS_MIN >= 100_000 else 3
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
