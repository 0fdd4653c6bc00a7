"""A real browser that looks at the dashboard's pages, and notes all that a page must not do.

Nothing of it leaves this machine: names lead nowhere but to 127.0.0.1, and each request elsewhere is noted as a fault.
Playwright's routing would do the same, but switches the browser's cache off, which is looked at too.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    StorageState,
    expect,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError

from streams.settings import PROJECT_ROOT

AXE = Path(__file__).with_name("vendor") / "axe.min.js"
OUTPUT = PROJECT_ROOT / "tests" / "output"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ZONE = "Europe/Berlin"
_HOST = "127.0.0.1"
# Without a graphics card the browser would imitate one, in a process that takes more time than the drawing.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {_HOST}",
)
_WAIT_MS = 30_000
# The policy's report is an event of the document; a binding tells it to us, also of a page that is left.
_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  window.tellViolation(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile || ""}`));
"""
# Without a preload: axe would fetch the style sheets anew, and break the policy by a style of its own. It is for one
# rule, whether a page locks its orientation, and no sheet of ours asks for the orientation.
_RUN_AXE = """
async () => {
  const found = await axe.run(document, {resultTypes: ["violations"], preload: false, iframes: false});
  return found.violations.map((each) =>
    `${each.id} (${each.impact}): ${each.help}: ${each.nodes.map((node) => node.html).join(" | ").slice(0, 400)}`);
}
"""


class Looker:
    """A Looker is a reader with a browser of their own: nothing kept, no key. Their pages' faults are in `faults`."""

    def __init__(self, context: BrowserContext, base_url: str) -> None:
        self.context, self.base_url = context, base_url
        self.faults: list[str] = []
        self.requests: list[Request] = []
        context.set_default_timeout(_WAIT_MS)
        context.expose_binding("tellViolation", lambda _source, text: self.faults.append(f"policy: {text}"))
        context.add_init_script(_TELL_VIOLATIONS)
        context.on("console", self._note_console)
        context.on("weberror", lambda error: self.faults.append(f"page error: {error.error}"))
        context.on("request", self._note_request)
        self.page: Page = context.new_page()

    def sign_in(self, key: str) -> None:
        """Sign in by the form."""
        self.page.goto(f"{self.base_url}/dashboard/sign-in")
        self.page.fill("#key", key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(re.compile(r"/dashboard(?!/sign-in)"))

    def open(self, path: str) -> int:
        """Open a page, wait until it has settled, and give the status that it was answered with."""
        answer = self.page.goto(f"{self.base_url}{path}")
        self.settle()
        return answer.status if answer is not None else 0

    def settle(self) -> None:
        """Wait until all parts of the page are there: none says that it is busy, and the letters have their shapes."""
        expect(self.page.locator('[aria-busy="true"], .htmx-request')).to_have_count(0, timeout=_WAIT_MS)
        self.page.evaluate("() => document.fonts.ready.then(() => true)")

    def pause(self) -> None:
        """Pause the page's ledger where it has a live one, so that no row comes while something else is looked at."""
        self.page.evaluate("() => document.querySelector('[data-live-pause]')?.click()")

    def show(self, *, dark: bool = False, phone: bool = False, still: bool = False) -> None:
        """Show pages in the dark, on a phone, or with reduced motion from now on."""
        self.page.emulate_media(
            color_scheme="dark" if dark else "light", reduced_motion="reduce" if still else "no-preference"
        )
        self.page.set_viewport_size({**PHONE} if phone else {**DESKTOP})  # type: ignore[arg-type]

    def axe(self) -> list[str]:
        """The findings of axe about the page as it is shown, of any impact."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(_axe())
        found: list[str] = self.page.evaluate(_RUN_AXE)
        return found

    def picture(self, name: str) -> Path:
        """Make a picture of the whole page, for people."""
        OUTPUT.mkdir(parents=True, exist_ok=True)
        path = OUTPUT / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path

    def asked(self) -> set[tuple[str, str]]:
        """The (method, path) of all that pages have asked the server for so far."""
        return {(each.method, urlsplit(each.url).path) for each in self.requests}

    def parts_it_came_with(self) -> list[str]:
        """The paths of the parts that were ready in time to come with the page."""
        found = self.page.locator("[data-part]").evaluate_all("all => all.map(each => each.dataset.part)")
        return [urlsplit(each).path for each in found]

    def loaded(self) -> list[tuple[str, int, int]]:
        """The (path, bytes that came over the wire, bytes of its compressed body) of all that the page has loaded; what
        the browser had kept has come in 0 bytes."""
        found: list[tuple[str, int, int]] = self.page.evaluate(
            """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
              .map((each) => [new URL(each.name).pathname, each.transferSize, each.encodedBodySize])"""
        )
        return found

    def _note_console(self, message: ConsoleMessage) -> None:
        # What the browser itself says when one signs out, and the server has it forget all it has kept.
        if message.type == "info" and message.text.startswith("Clear-Site-Data header on "):
            return
        self.faults.append(f"console {message.type}: {message.text}")

    def _note_request(self, request: Request) -> None:
        self.requests.append(request)
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != _HOST:
            self.faults.append(f"a request elsewhere: {request.url}")


@contextmanager
def launched(chromium: str) -> Iterator[Browser]:
    """A browser without a window, while the block runs. Until then no event loop can be run in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def looking(browser: Browser, base_url: str, kept: StorageState | None = None) -> Iterator[Looker]:
    """A Looker with a context of their own, with the cookies of another one's `storage_state` where these are given."""
    # From an address of their own: what other tests ask for without a key is not theirs.
    address = {"x-forwarded-for": f"198.18.{secrets.randbelow(256)}.{secrets.randbelow(256)}"}
    context = browser.new_context(
        viewport={**DESKTOP},  # type: ignore[arg-type]
        timezone_id=ZONE,
        locale="en-GB",
        storage_state=kept,
        extra_http_headers=address,
    )
    try:
        yield Looker(context, base_url)
    finally:
        with contextlib.suppress(PlaywrightError):
            context.close()


@cache
def _axe() -> str:
    return AXE.read_text()


def file_name(text: str) -> str:
    """A name for a page's pictures, of its path."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def weight_of(loaded: list[tuple[str, int, int]]) -> int:
    """The bytes of the bodies of all that a page has loaded, each file once, compressed as the server sends it."""
    return sum({path: size for path, _, size in loaded}.values())


def rows_of(loaded: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """The files that a page has loaded, for a report."""
    return [{"path": path, "transferred": over_the_wire, "body": body} for path, over_the_wire, body in loaded]
