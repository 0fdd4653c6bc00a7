"""Fixtures of the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.stack import Stack
from tests.admins import ADMIN_KEYS
from tests.dashboard.admin_pages import AdminBrowser


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[AdminBrowser]:
    """An owner's browser."""
    browser = AdminBrowser(stack.url, ADMIN_KEYS["owner"])
    yield browser
    browser.http.close()
