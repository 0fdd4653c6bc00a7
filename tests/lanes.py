"""Lanes of tests that run at the same time: `meterline test` has two lanes, each a process that takes whole groups.

A lane has one broker and one stack for all its tests that ask for those, so what is grouped is a file: it shares what
its fixtures started, and its tests come in their order. A file that neither asks for a real part nor starts one is
pure; each of its tests goes to whichever lane is free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest

# Fixtures that stand for something running, and names of what starts it.
PARTS = {"broker", "stack", "operator", "settings_for", "engine", "serve"}
STARTERS = {"Stack", "EmbeddedBroker", "lifeline", "subprocess", "measure"}

# The files that take longest, longest first. They begin, and what is pure ends, so that both lanes end together.
LONG = (
    "tests/test_readme.py",
    "tests/api/test_cli.py",
    "tests/client/test_away.py",
    "tests/embedded/test_broker.py",
    "tests/reconcile/test_agency_life.py",
    "tests/worker/test_crashes.py",
    "tests/api/test_conformance_times.py",
    "tests/api/test_openapi_contract.py",
    "tests/cashier/test_purchases.py",
    "tests/reconcile/test_verify.py",
)


def arrange(items: list[pytest.Item]) -> None:
    """Mark files that need real parts as `parts` and as a group; put the longest first, and what is pure last."""
    # Tests of one file need not come together here: pytest has put those that share a fixture side by side.
    files = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    for tests in files.values():
        if needs_parts(tests):
            for item in tests:
                item.add_marker(pytest.mark.parts)
                item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))

    def place(item: pytest.Item) -> int:
        name = item.nodeid.partition("::")[0]
        if item.get_closest_marker("parts") is None:
            return len(LONG) + 1
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


def needs_parts(tests: Iterable[pytest.Item]) -> bool:
    """Whether a file's tests ask for a real part or may start one."""
    return any(
        not PARTS.isdisjoint(getattr(item, "fixturenames", ())) or not STARTERS.isdisjoint(vars(item.module))  # type: ignore[attr-defined]
        for item in tests
    )
