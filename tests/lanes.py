"""Lanes are processes that run tests at the same time: `meterline test` has three, each for one file after another.

A lane has one broker and one stack for all its tests that ask for those. A test file is pure if nothing in it asks for
a real part or starts one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import pytest

# Fixtures that stand for something running, and names of what starts it.
PARTS = {"broker", "stack", "operator", "settings_for", "engine", "serve", "chromium"}
STARTERS = {"Stack", "EmbeddedBroker", "Reader", "lifeline", "subprocess", "measure"}

# The files that take longest, longest first. They come before the others, so that all lanes end together.
LONG = (
    "tests/test_readme.py",
    "tests/test_role_pages.py",
    "tests/api/test_cli.py",
    "tests/client/test_away.py",
    "tests/embedded/test_broker.py",
    "tests/reconcile/test_agency_life.py",
    # It rehearses all projects there are, so it comes while the lane's stack has few.
    "tests/api/test_rehearsals.py",
    "tests/cashier/test_purchases.py",
    "tests/courier/test_courier.py",
    "tests/dashboard/test_walk.py",
    "tests/api/test_openapi_contract.py",
    "tests/worker/test_crashes.py",
    "tests/api/test_conformance_times.py",
    # Before the simulation: what is seeded runs by itself too, and its parts are then one lane's each.
    "tests/core/test_ledger_machine.py",
    "tests/simulation/test_simulation.py",
    "tests/benchmarks/test_admission.py",
    "tests/benchmarks/test_chaos.py",
    "tests/benchmarks/test_baselines.py",
    "tests/api/test_recharge.py",
    "tests/worker/test_recovery.py",
    "tests/reconcile/test_verify.py",
)


def arrange(items: list[pytest.Item], in_lanes: bool) -> None:
    """Mark the tests of files that need real parts as `parts`, and put the longest files first, pure ones last; where
    there is one lane, the longest last, so that a failure shows soon."""
    files = [(path, list(tests)) for path, tests in groupby(items, lambda item: item.path)]
    for _, tests in files:
        if needs_parts(tests):
            for item in tests:
                item.add_marker(pytest.mark.parts)

    def place(item: pytest.Item) -> int:
        name = item.nodeid.partition("::")[0]
        if name in LONG:
            return LONG.index(name) if in_lanes else len(LONG) + 2
        return len(LONG) + (item.get_closest_marker("parts") is None)

    items.sort(key=place)


def needs_parts(tests: Iterable[pytest.Item]) -> bool:
    """Whether a file's tests ask for a real part or may start one."""
    return any(
        not PARTS.isdisjoint(getattr(item, "fixturenames", ())) or not STARTERS.isdisjoint(vars(item.module))  # type: ignore[attr-defined]
        for item in tests
    )
