"""Helpers for tests of pages: somebody who has signed in, and what a page says as text."""

from __future__ import annotations

import re
from html import unescape

import httpx

from tests.calls import Operator


def signed_in(operator: Operator, key: str, zone: str = "UTC") -> httpx.Client:
    """A client that has signed in with a key, as a browser does."""
    browser = httpx.Client(base_url=operator.url, timeout=30.0)
    answer = browser.post("/dashboard/sign-in", data={"key": key, "zone": zone})
    assert answer.status_code == 303, answer.text
    return browser


def text_of(page: httpx.Response | str) -> str:
    """The text of a page, without tags, in one line."""
    html = page if isinstance(page, str) else page.text
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", re.sub(r"</(td|th|p|div|li|dt|dd|h\d)>", " ", html))))
