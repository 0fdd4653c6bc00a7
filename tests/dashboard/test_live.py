"""A page that goes on by itself, in a real browser: a decision is a row, once, without anybody asking again."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Route, expect

from api.stack import Stack
from tests.calls import Operator
from tests.dashboard.browser import Looker, looking
from tests.dashboard.conftest import Look
from tests.dashboard.story import Story
from tests.dashboard.walked import get_routes

LIVE = "/dashboard/ledger"


def use(operator: Operator, story: Story, operation: str, key: str = "") -> str:
    """Let the story's project, or its preview, use an operation once; gives the id of the entry."""
    with operator.client(key or story.key) as client:
        answer = client.post("/v1/admissions", json={"operation": operation, "metadata": {"customer_id": "wayne"}})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["entry_id"])


def row(looker: Looker, entry_id: str) -> Locator:
    """The row of an entry."""
    return looker.page.locator(f"main tbody tr[id='entry-{entry_id}']")


def row_ids(looker: Looker) -> list[str]:
    """The ids of all rows, as they stand."""
    found: list[str] = looker.page.locator("main tbody tr[id]").evaluate_all("all => all.map(each => each.id)")
    return found


# Where the ledger is no page of this dashboard yet, there is nothing to look at.
if LIVE in get_routes():

    def test_what_is_decided_is_a_row_by_itself_and_once(look: Look, operator: Operator, story: Story) -> None:
        looker = look("key")
        looker.open(LIVE)
        # Rows come while the page is watched, not before.
        looker.page.evaluate("() => { window.isTheSame = true; }")
        newest_first = list[str]()
        for _ in range(3):
            entry_id = use(operator, story, "page.edit")
            newest_first.insert(0, f"entry-{entry_id}")
            expect(row(looker, entry_id)).to_have_count(1, timeout=10_000)
            expect(row(looker, entry_id)).to_contain_text("page.edit")
            # Others, as of a delivery, may come between.
            assert [each for each in row_ids(looker) if each in newest_first] == newest_first
        assert looker.page.evaluate("() => window.isTheSame === true"), "the page was not loaded again"
        assert len(row_ids(looker)) == len(set(row_ids(looker)))
        assert looker.axe() == []

    def test_a_lost_connection_is_made_up_for_without_a_double(look: Look, operator: Operator, story: Story) -> None:
        looker = look("key")
        looker.open(LIVE)
        entry_ids = [use(operator, story, "page.edit")]
        expect(row(looker, entry_ids[0])).to_have_count(1, timeout=10_000)
        looker.context.set_offline(True)
        entry_ids.append(use(operator, story, "page.edit"))
        looker.context.set_offline(False)
        entry_ids.append(use(operator, story, "page.edit"))
        for entry_id in entry_ids:
            expect(row(looker, entry_id)).to_have_count(1, timeout=20_000)
        assert len(row_ids(looker)) == len(set(row_ids(looker)))
        # The browser says itself that it was offline.
        looker.faults[:] = [each for each in looker.faults if "net::ERR_INTERNET_DISCONNECTED" not in each]

    @pytest.mark.parametrize("how", ("not reached", 429, 503))
    def test_a_stream_that_is_refused_at_first_is_tried_again(
        look: Look, operator: Operator, story: Story, how: str | int
    ) -> None:
        looker = look("key")
        tries = 0

        def refuse_twice(route: Route) -> None:
            nonlocal tries
            tries += 1
            if tries > 2:
                route.continue_()
            elif isinstance(how, int):
                route.fulfill(status=how, content_type="text/html", body="<p>refused</p>")
            else:
                route.abort()

        looker.page.route("**/dashboard/ledger/stream?*", refuse_twice)
        looker.open(LIVE)
        entry_id = use(operator, story, "page.edit")
        expect(looker.page.locator("#ledger-state")).to_contain_text("not connected, and tried again")
        expect(row(looker, entry_id)).to_have_count(1, timeout=10_000)
        expect(looker.page.locator("#ledger-state")).to_contain_text("live")
        assert tries == 3
        expect(looker.page.locator("main")).not_to_contain_text("refused")
        # The browser says itself what it was refused.
        looker.faults[:] = [each for each in looker.faults if "Failed to" not in each]

    def test_a_page_of_production_does_not_tell_of_preview(look: Look, operator: Operator, story: Story) -> None:
        looker = look("key")
        looker.open(LIVE)
        rows = looker.page.locator("main tbody tr")
        use(operator, story, "social_post.text", story.preview_key)
        use(operator, story, "social_post.text")
        expect(rows.filter(has_text="social_post.text")).to_have_count(1, timeout=10_000)

    def test_a_key_that_is_revoked_ends_the_page_that_watches(
        browser: object, stack: Stack, operator: Operator, story: Story
    ) -> None:
        made = operator.key(story.project)
        with looking(browser, stack.url) as looker:  # type: ignore[arg-type]
            looker.sign_in(made["key"])
            looker.open(LIVE)
            use(operator, story, "page.edit")
            gone = operator.http.delete(f"/v1/admin/projects/{story.project}/keys/{made['key_id']}")
            assert gone.is_success, gone.text
            expect(looker.page.locator("main")).to_contain_text(
                re.compile("revoked|ended|signed out", re.I), timeout=15_000
            )
            looker.page.goto(f"{stack.url}{LIVE}")
            expect(looker.page.locator("#key")).to_be_visible()
