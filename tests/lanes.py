"""Lanes: which tests may run beside which. Two groups run at once (`pytest -n 2 --dist loadgroup`).

- pure: no part runs; each test by itself, anywhere. `meterline test --fast` runs these alone.
- engine: an embedded ClickHouse, which a module's tests share.
- broker: the session's Kafka, which all tests of this lane share.
- stack: the session's whole Meterline, which all tests of this lane share.
- own: a module whose tests start parts of their own, or kill them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

LANES = ("stack", "own", "broker", "engine", "pure")
# Modules that start processes without asking for a fixture that says so.
OWN = frozenset(
    {
        "tests/test_readme.py",
        "tests/api/test_cli.py",
        "tests/api/test_conformance_times.py",
        "tests/api/test_openapi_contract.py",
        "tests/api/test_recharge.py",
        "tests/api/test_stack.py",
        "tests/client/test_away.py",
        "tests/client/test_imports.py",
        "tests/embedded/test_broker.py",
        "tests/embedded/test_lifeline.py",
        "tests/kafka/test_existing_cluster.py",
        "tests/reconcile/test_agency_life.py",
        "tests/reconcile/test_verify.py",
        "tests/state/test_price_broadcast.py",
        "tests/worker/test_crashes.py",
        "tests/worker/test_lease.py",
    }
)
_OF_FIXTURES = {
    "stack": {"stack", "operator"},
    "broker": {"broker", "settings_for"},
    "engine": {"engine", "embedded", "over_http", "clickhouse", "serve"},
}


def lane_of(module: str, fixtures: Iterable[str]) -> str:
    """The lane of a test, by its module's path and the fixtures that the module's tests use."""
    if module in OWN:
        return "own"
    used = set(fixtures)
    return next((lane for lane, of_lane in _OF_FIXTURES.items() if used & of_lane), "pure")


def assign(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Mark every test with its lane and its group; gives the tests in the order in which the lanes start.

    What takes longest goes first, so that both workers end at about the same time: pure tests fill the gaps. A pure
    test of a module with others stays pure.
    """
    ranked = []
    for item in items:
        module = item.nodeid.partition("::")[0]
        is_benchmark = item.get_closest_marker("benchmark") is not None
        lane = "own" if is_benchmark else lane_of(module, getattr(item, "fixturenames", ()))
        item.add_marker(getattr(pytest.mark, lane))
        if lane in ("stack", "broker"):
            item.add_marker(pytest.mark.xdist_group(lane))
        elif lane != "pure":
            item.add_marker(pytest.mark.xdist_group(module))
        ranked.append((LANES.index(lane), item))
    return [item for _, item in sorted(ranked, key=lambda each: each[0])]
