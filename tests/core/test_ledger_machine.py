"""Every command, in any order and over months, against the plain model of tests/simulation; nothing ever differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from schemas.commands import AnyCommand
from tests.core.ledger_machine.partition import tally
from tests.core.ledger_machine.rules import LedgerMachine
from tests.seeds import BASE, LEDGER_PARTS, LEDGER_STEPS, LEDGER_STEPS_DEEP

STEPS_MIN = LEDGER_STEPS // len(LEDGER_PARTS)
STEPS_AN_EXAMPLE = 100
# Rounds, each from a seed of its own. Hypothesis varies what it liked, so that what is rare may be rarer still in one
# round: then there are more of them.
ROUNDS, ROUNDS_MAX = 2, 5
# Some examples end early.
EXAMPLES_A_ROUND = STEPS_MIN // ROUNDS // STEPS_AN_EXAMPLE * 5 // 4 + 1
# How often everything comes about at least in each part. In few steps what is rare may not come about at all.
TIMES_MIN = STEPS_MIN // 2000 if LEDGER_STEPS >= LEDGER_STEPS_DEEP else 0

# By what a tally calls it: each is done, and refused, many times.
COMMANDS = sorted({kind.__name__ for kind in AnyCommand.__args__} | {"Envelope", "Tick", "Hold"})
NEVER_REFUSED = ()
# What is to come about many times, beside what commands do by themselves.
STATED = (
    "charge captured",
    "charge recurring",
    "correction charged",
    "correction given_back",
    "duplicate ",
    "duplicate event_id_reused",
    "duplicate held",
    "duplicate job_id_reused",
    "expiry allowance",
    "expiry promotional",
    "limits raise_begun",
    "limits raise_ended",
    "limits raise_planned",
    "limits set",
    "limits shadow",
    "recharge booked",
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
@pytest.mark.parametrize("part", LEDGER_PARTS)
def test_any_commands_in_any_order_do_what_the_model_says(
    part: int, record_property: Callable[[str, object], None]
) -> None:
    tally.clear()
    for number in range(ROUNDS_MAX):
        run_state_machine_as_test(
            seed(BASE + part * ROUNDS_MAX + number)(LedgerMachine),
            settings=settings(
                max_examples=EXAMPLES_A_ROUND,
                stateful_step_count=STEPS_AN_EXAMPLE,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        if number + 1 >= ROUNDS and not too_seldom():
            break
    report = [f"{times:8} {what}" for what, times in sorted(tally.items())]
    print("\n".join(report))
    record_property("ledger_steps", tally["steps"])
    assert tally["steps"] >= STEPS_MIN
    assert not too_seldom()


def too_seldom() -> list[str]:
    """The events that have come about less often than they have to, by now."""
    done, refused = Counter[str](), Counter[str]()
    for what, times in tally.items():
        kind, _, outcome = what.partition(": ")
        if outcome == "done":
            done[kind] += times
        elif outcome not in ("asked again", "key reused"):
            refused[kind] += times
    found = [f"{kind} was done {done[kind]} times only" for kind in COMMANDS if done[kind] < TIMES_MIN]
    found += [
        f"{kind} was refused {refused[kind]} times only"
        for kind in COMMANDS
        if refused[kind] < TIMES_MIN and kind not in NEVER_REFUSED
    ]
    found += [
        f"{what} came about {tally[f'stated: {what}']} times only"
        for what in STATED
        if tally[f"stated: {what}"] < TIMES_MIN
    ]
    if tally["records of several commands"] < 10 * TIMES_MIN:
        found.append(f"there were {tally['records of several commands']} records of several commands only")
    return found
