"""The browser that walks the pages notices each fault: tried on a page that has them all, and on one that has none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser

from api.dashboard.pages import POLICY
from tests.dashboard.browser import Looker, looking, weight_of
from tests.dashboard.keyboard import faults_of_tabbing
from tests.dashboard.test_walk import MOVING, UNREACHED_TABLES, WIDER_THAN_WINDOW

_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<link rel="icon" href="data:,">"""
_GOOD = f"""{_HEAD}</head><body><main><h1>A page</h1><a href="/good">On</a></main></body></html>"""
_BAD = f"""{_HEAD}<link rel="stylesheet" href="/bad.css"><script src="/bad.js" defer></script></head>
<body><main><h1>A page</h1><p style="color: red">Red</p><img src="http://elsewhere.example/a.png" alt="">
<input id="unlabelled"><a href="/good" tabindex="2">second</a><a href="/good" tabindex="1">first</a>
<a class="ring" href="/good">here</a><div class="wide">wide</div>
<div class="scroll"><div class="wide">wide</div></div><i class="moves">moves</i></main></body></html>"""
_FILES = {
    "/good": ("text/html", _GOOD),
    "/bad": ("text/html", _BAD),
    "/bad.css": (
        "text/css",
        ".wide { width: 900px } .scroll { overflow-x: auto } .ring:focus-visible { outline: 0 }"
        ".moves { animation: turn 9s infinite } @keyframes turn { to { rotate: 90deg } }",
    ),
    "/bad.js": ("text/javascript", 'console.log("I was here"); nothing.at.all();'),
}


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, text = _FILES[self.path]
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.send_header("content-security-policy", POLICY.replace("img-src 'self'", "img-src 'self' data: http:"))
        self.send_header("cache-control", "max-age=600")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """A server of both pages, by its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def looker(browser: Browser, pages: str) -> Iterator[Looker]:
    """Somebody who looks at those pages."""
    with looking(browser, pages) as looker:
        looker.show(phone=True)
        yield looker


def test_a_page_without_faults_has_none(looker: Looker) -> None:
    assert looker.open("/good") == 200
    assert looker.faults == looker.axe() == faults_of_tabbing(looker.page) == []
    for look in (WIDER_THAN_WINDOW, UNREACHED_TABLES, MOVING):
        assert looker.page.evaluate(look) == []


def test_each_fault_of_a_page_is_noticed(looker: Looker) -> None:
    assert looker.open("/bad") == 200
    told = "\n".join(looker.faults)
    for fault in (
        "policy: style-src-attr inline",
        "a request elsewhere: http://elsewhere.example/a.png",
        "console log: I was here",
        "page error: nothing is not defined",
    ):
        assert fault in told
    assert {each.split()[0] for each in looker.axe()} == {"label", "tabindex"}
    tabbing = "\n".join(faults_of_tabbing(looker.page))
    assert 'no sign of the focus: <a class="ring"' in tabbing and "Tab goes to and fro" in tabbing
    assert '<div class="wide">' in "".join(looker.page.evaluate(WIDER_THAN_WINDOW))
    assert '<div class="scroll">' in "".join(looker.page.evaluate(UNREACHED_TABLES))
    assert '<i class="moves">' in "".join(looker.page.evaluate(MOVING))
    first = weight_of(looker.loaded())
    assert first == sum(len(_FILES[name][1]) for name in ("/bad", "/bad.css", "/bad.js"))
    looker.open("/bad")
    assert [path for path, over_the_wire, _ in looker.loaded() if path.startswith("/bad.") and over_the_wire] == []
