"""Readers of the dashboard over HTTP, as a browser without scripts is one: they sign in, open pages and send forms."""

from __future__ import annotations

import html
import re
from typing import Any

import httpx

_FORM = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
_TAGS = re.compile(r"<[^>]+>")


class DashboardReader:
    """A reader who has signed in with a key."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=False, timeout=60.0)
        signed = self.http.post("/dashboard/sign-in", data={"key": key})
        assert signed.status_code == 303, signed.text

    def open(self, path: str, status: int = 200, *, is_part: bool = False) -> str:
        """The text of a page, or of the part of one that the page would load."""
        answer = self.http.get(path, headers={"hx-request": "true"} if is_part else {})
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, page: str, holding: str, **fields: Any) -> httpx.Response:
        """Send the form of a page that has this text in it, with its hidden fields and these."""
        for attributes, inside in _FORM.findall(page):
            if 'method="post"' in attributes and holding in attributes + inside:
                action = re.search(r'action="([^"]+)"', attributes)
                assert action is not None
                hidden = {name: html.unescape(value) for name, value in _HIDDEN.findall(inside)}
                return self.http.post(html.unescape(action[1]), data=hidden | fields)
        raise AssertionError(f"no form has {holding!r}")


def token_of(page: str) -> str:
    """The token that a form of a page has."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def text_of(page: str) -> str:
    """The text of a page, without its tags and with single spaces; digits of a figure stand together."""
    return " ".join(html.unescape(_TAGS.sub(" ", page.replace("<i></i>", ""))).split())
