"""A pytest plugin for the tests that mutmut runs.

It gives tests the attribute by which mutmut 3.7 calls them, and pytest 9.2 has no more: mutmut 3.8 does without, but
takes only a newer click than Faust does. And it empties the core's caches before each test, since mutmut notes which
tests reach a function: one that is answered from a cache is not reached.
"""

from __future__ import annotations

import sys

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item._nodeid = item.nodeid  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith(("streams.core.", "schemas.")):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
