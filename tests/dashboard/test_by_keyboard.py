"""The dashboard with a keyboard and nothing else: signing in, going everywhere, acting, signing out."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from tests.dashboard.browser import Looker
from tests.dashboard.conftest import Look
from tests.dashboard.story import Story

_TABS_MAX = 200


def tab_to(page: Page, text: str) -> None:
    """Press Tab until the focus is on what has this text. Raises AssertionError where it never comes there."""
    for _ in range(_TABS_MAX):
        page.keyboard.press("Tab")
        if page.evaluate("() => (document.activeElement.innerText ?? '').trim()") == text:
            return
    raise AssertionError(f"Tab never comes to {text!r}")


def sign_in(looker: Looker, key: str) -> None:
    """Sign in by keyboard: the focus is on the field already."""
    looker.page.goto(f"{looker.base_url}/dashboard/sign-in")
    expect(looker.page.locator("#key")).to_be_focused()
    looker.page.keyboard.type(key)
    looker.page.keyboard.press("Tab")
    looker.page.keyboard.press("Enter")
    looker.page.wait_for_url(re.compile(r"/dashboard(\?|$)"))


def test_one_signs_in_goes_everywhere_and_out_by_keyboard_alone(look: Look, story: Story) -> None:
    looker = look("nobody")
    page = looker.page
    sign_in(looker, story.key)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    places = page.locator(".menu a:not(.brand)")
    texts = [each.strip() for each in places.all_inner_texts()]
    assert "Overview" in texts
    for text in texts:
        there = page.locator(".menu").get_by_role("link", name=text, exact=True).get_attribute("href")
        assert there is not None
        tab_to(page, text)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{looker.base_url}{there}")
        looker.settle()
        assert page.locator(".menu [aria-current=page]").inner_text().strip() == text
    tab_to(page, "Sign out")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/sign-in**")
    assert looker.open("/dashboard") == 200
    assert urlsplit(page.url).path == "/dashboard/sign-in", "signed out for good"


def test_who_chooses_a_range_by_keyboard_stays_where_it_was_chosen(look: Look) -> None:
    looker = look("key")
    looker.open("/dashboard")
    for name in ("24 h", "30 d"):
        tab_to(looker.page, name)
        looker.page.keyboard.press("Enter")
        chosen = looker.page.locator("#by-operation [aria-current=true]")
        expect(chosen).to_have_text(name)
        looker.settle()
        # The part of the page is another one now, and its links too.
        expect(chosen).to_be_focused()


def test_a_wrong_key_is_told_beside_its_field_and_can_be_typed_again(look: Look, story: Story) -> None:
    looker = look("nobody")
    page = looker.page
    page.goto(f"{looker.base_url}/dashboard/sign-in")
    page.keyboard.type("mtl_live_nobody.has-this")
    page.keyboard.press("Enter")
    expect(page.locator("#key-wrong")).to_be_visible()
    assert looker.faults == [
        "console error: Failed to load resource: the server responded with a status of 401 (Unauthorized)"
    ]
    looker.faults.clear()
    assert looker.axe() == []
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type(story.key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard")


def test_no_key_is_kept_in_the_browser_or_in_an_address(look: Look, story: Story) -> None:
    looker = look("nobody")
    sign_in(looker, story.key)
    kept = looker.page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert kept == '[{},{},""]', "the cookie is out of a script's reach"
    secret = story.key.partition(".")[2]
    assert not any(secret in request.url for request in looker.requests)
    assert all(secret not in str(cookie) for cookie in looker.context.cookies())
    assert secret not in looker.page.content()


def test_a_form_of_a_tab_that_signed_out_elsewhere_leads_to_signing_in(look: Look, story: Story) -> None:
    looker = look("nobody")
    sign_in(looker, story.key)
    # Else a part that is still asked for would lead there before the form does.
    looker.settle()
    looker.pause()
    other = looker.context.new_page()
    other.goto(f"{looker.base_url}/dashboard")
    other.get_by_role("button", name="Sign out").press("Enter")
    other.wait_for_url("**/dashboard/sign-in**")
    looker.page.get_by_role("button", name="Sign out").press("Enter")
    looker.page.wait_for_url("**/dashboard/sign-in**")
    expect(looker.page.locator("#key")).to_be_focused()
