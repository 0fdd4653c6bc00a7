"""A browser without a screen for the tests of admins' pages: it keeps cookies, and sends the forms that a page has."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import httpx


class FormReader(HTMLParser):
    """A FormReader finds the fields of a page's forms, with what they hold; a form is known by its class."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self._select = self._textarea = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((given.get("class", ""), {}))
        elif tag == "input" and self.forms and given.get("name"):
            if given.get("type") != "checkbox" or "checked" in given:
                self.forms[-1][1][given["name"]] = given.get("value", "")
        elif tag == "select":
            self._select = given["name"]
        elif tag == "option" and self._select and ("selected" in given or self._select not in self.forms[-1][1]):
            self.forms[-1][1][self._select] = given.get("value", "")
        elif tag == "textarea":
            self._textarea = given["name"]
            self.forms[-1][1][self._textarea] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        if tag == "textarea":
            self._textarea = ""

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self.forms[-1][1][self._textarea] += data


class AdminBrowser:
    """An AdminBrowser is signed in with a key."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=False, timeout=60.0)
        signed = self.http.post("/dashboard/sign-in", data={"key": key, "zone": "UTC"})
        assert signed.status_code == 303, signed.text

    def page(self, path: str, **query: Any) -> str:
        """A page that is there."""
        answer = self.http.get(path, params=query or None)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.text

    def form(self, page: str) -> dict[str, str]:
        """The fields of the page's form of an act, with what they hold."""
        reader = FormReader()
        reader.feed(page)
        return next(fields for kind, fields in reader.forms if "deed" in kind.split())

    def send(self, path: str, fields: dict[str, str], **changes: str) -> httpx.Response:
        """Send a form, with changes."""
        return self.http.post(path, data=fields | changes)

    def act(self, path: str, **changes: str) -> httpx.Response:
        """Open an act's page, fill in its form, and do it at once."""
        return self.send(path, self.form(self.page(path)), **{"step": "do", **changes})


def fragment_of(streamed: httpx.Response) -> str:
    """The last fragment of a stream of server-sent events."""
    last = streamed.text.strip().split("\n\n")[-1]
    return "\n".join(line.removeprefix("data: ") for line in last.splitlines())
