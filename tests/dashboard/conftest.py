"""Fixtures of the dashboard's tests: the story, told once for a lane, and a browser that looks at its pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, StorageState

from api.stack import Stack
from tests.admins import ADMIN_KEYS
from tests.dashboard.admin_pages import AdminBrowser
from tests.dashboard.browser import Looker, launched, looking
from tests.dashboard.story import Story, told
from tests.dashboard.visitors import all_signed_in
from tests.dashboard.walked import Who

Look = Callable[[Who], Looker]


@pytest.fixture(scope="session")
def story(stack: Stack) -> Iterator[Story]:
    """The story, told to the lane's stack."""
    with told(stack) as story:
        yield story


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A browser for a module's tests. An event loop runs in this thread as long, so no test of such a module may run
    one; that is why the lane's other modules do not have it too."""
    with launched(chromium) as browser:
        yield browser


@pytest.fixture(scope="module")
def signed_in(browser: Browser, stack: Stack, story: Story) -> dict[Who, StorageState]:
    """The state that a browser keeps of each who has signed in."""
    return all_signed_in(browser, stack.url, story)


@pytest.fixture
def look(browser: Browser, stack: Stack, signed_in: dict[Who, StorageState]) -> Iterator[Look]:
    """A function that gives somebody who looks at pages: signed in with the story's key, its preview key, as an admin,
    or not. A test fails where any of their pages had a fault."""
    with ExitStack() as ends:
        lookers: list[Looker] = []

        def begin(who: Who) -> Looker:
            looker = ends.enter_context(looking(browser, stack.url, signed_in.get(who)))
            lookers.append(looker)
            return looker

        yield begin
        faults = [fault for looker in lookers for fault in looker.faults]
        assert not faults, "\n".join(faults)


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[AdminBrowser]:
    """An owner's browser."""
    browser = AdminBrowser(stack.url, ADMIN_KEYS["owner"])
    yield browser
    browser.http.close()
