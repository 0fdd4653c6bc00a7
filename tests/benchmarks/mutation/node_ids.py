"""A pytest plugin that gives tests the attribute by which mutmut 3.7 calls them: pytest 9.2 has it no more.

mutmut 3.8 does without, but takes only a newer click than Faust does.
"""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item._nodeid = item.nodeid  # type: ignore[attr-defined]
