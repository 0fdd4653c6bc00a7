"""Everybody who looks at the dashboard's pages: with a key of the story's project, as an admin, or by a portal link."""

from __future__ import annotations

import httpx
from playwright.sync_api import Browser, StorageState

from tests.dashboard.browser import Looker, looking
from tests.dashboard.story import Story
from tests.dashboard.walked import Who


def all_signed_in(browser: Browser, url: str, story: Story) -> dict[Who, StorageState]:
    """Sign each of them in, or open their link; gives the states that a browser keeps."""
    keys: dict[Who, str] = {"key": story.key, "preview": story.preview_key, "admin": story.admin_key}
    kept: dict[Who, StorageState] = {}
    for who, key in keys.items():
        with looking(browser, url) as looker:
            looker.sign_in(key)
            kept[who] = looker.context.storage_state()
    links: dict[Who, dict[str, str]] = {"portal": {}, "customer": {"customer_id": story.customer}}
    for who, asked in links.items():
        with looking(browser, url) as looker:
            _open_link(looker, _link(url, story, asked))
            kept[who] = looker.context.storage_state()
    return kept


def _link(url: str, story: Story, asked: dict[str, str]) -> str:
    headers = {"authorization": f"Bearer {story.admin_key}"}
    made = httpx.post(f"{url}/v1/admin/projects/{story.project}/portal-links", json=asked, headers=headers, timeout=30)
    return str(made.raise_for_status().json()["url"])


def _open_link(looker: Looker, link: str) -> None:
    # The link names the API as the world knows it; here that is another address.
    path = link[link.index("/dashboard/portal") :]
    looker.page.goto(f"{looker.base_url}{path}")
    looker.page.get_by_role("button", name="Show my usage").press("Enter")
    looker.page.wait_for_url("**/dashboard")
