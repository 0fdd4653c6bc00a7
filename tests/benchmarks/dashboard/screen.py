"""The dashboard on a screen: how soon a page shows its figures, what it weighs, and how soon a decision is a row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, StorageState

from tests.dashboard.browser import looking, weight_of
from tests.dashboard.story import Story
from tests.dashboard.walked import WalkedPage, Who

LEDGER = "/dashboard/ledger"
_ROW_SECONDS_MAX = 30.0
_BETWEEN_SECONDS = 0.1
_REST_SECONDS = 0.5
# Until when a page says that a part of it is busy; the last time counts.
_NOTE_SETTLED = """
(() => {
  const note = () => {
    // A live ledger that connects has its rows already: what it waits for is yet to be decided.
    const isBusy = document.readyState === "loading"
      || document.querySelector('[aria-busy="true"], .htmx-request:not([data-live])');
    window.settledAt = isBusy ? undefined : window.settledAt ?? performance.now();
  };
  // Once all of the page is read, which is before its deferred scripts run: what they load makes it busy again.
  document.addEventListener("readystatechange", () => {
    note();
    new MutationObserver(note).observe(document.documentElement,
      {subtree: true, childList: true, attributes: true, attributeFilter: ["aria-busy", "class"]});
  }, {once: true});
})();
"""
_TIMES = """
() => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const page = performance.getEntriesByType("navigation")[0];
  return paint && window.settledAt !== undefined
    ? {first_byte_ms: page.responseStart, first_paint_ms: paint.startTime, settled_ms: window.settledAt} : null;
}
"""
# A row is on screen once the frame after its coming is drawn. Of each: when that was, and when its entry was booked, as
# the row itself says; Unix milliseconds.
_NOTE_ROWS = """
() => {
  window.rowsSeen = {};
  const note = (row) => requestAnimationFrame(() => setTimeout(() => {
    const bookedAt = Date.parse(row.querySelector("time").dateTime);
    window.rowsSeen[row.id] ??= [performance.timeOrigin + performance.now(), bookedAt];
  }));
  new MutationObserver((changes) => {
    for (const change of changes) for (const each of change.addedNodes) {
      if (each instanceof Element) {
        if (each.matches("tr[id]")) note(each);
        each.querySelectorAll("tr[id]").forEach(note);
      }
    }
  }).observe(document.querySelector("main"), {subtree: true, childList: true});
}
"""


def kept_of(browser: Browser, url: str, key: str) -> StorageState:
    """Sign in, and give what the browser keeps of that."""
    with looking(browser, url) as looker:
        looker.sign_in(key)
        return looker.context.storage_state()


def painted(browser: Browser, url: str, kept: StorageState, path: str, opens: int) -> dict[str, Any]:
    """Open a page so many times, each time with nothing kept of it, and give the milliseconds from asking for it: until
    the first paint, and until all of its figures are there. With the first time, which warms the server, apart."""
    found = []
    for _ in range(opens + 1):
        with looking(browser, url, kept) as looker:
            looker.context.add_init_script(_NOTE_SETTLED)
            # To close the last browser's window and open this one takes processor time that is not the page's.
            time.sleep(_REST_SECONDS)
            status = looker.open(path)
            found.append(_times(looker.page) | {"status": status, "faults": looker.faults})
    cold, *warm = found
    with_data = [max(each["first_paint_ms"], each["settled_ms"]) for each in warm]
    return {
        "path": path,
        "status": cold["status"],
        "faults": sorted({fault for each in found for fault in each["faults"]}),
        "first_byte_ms_p50": round(statistics.median(each["first_byte_ms"] for each in warm), 1),
        "first_paint_ms_p50": round(statistics.median(each["first_paint_ms"] for each in warm), 1),
        "first_paint_with_data_ms": {"p50": round(statistics.median(with_data), 1), "max": round(max(with_data), 1)},
        "first_time_with_data_ms": round(max(cold["first_paint_ms"], cold["settled_ms"]), 1),
    }


def weights(
    browser: Browser, url: str, kept: dict[Who, StorageState], pages: Sequence[WalkedPage], story: Story
) -> dict[str, int]:
    """The bytes of each walked page with nothing kept of it, compressed as the server sends it."""
    found = {}
    for page in pages:
        with looking(browser, url, kept.get(page.who)) as looker:
            looker.open(story.filled(page.path))
            found[page.name] = weight_of(looker.loaded())
    return found


def rows_on_screen(browser: Browser, url: str, kept: StorageState, key: str, decisions: int) -> dict[str, Any]:
    """Watch a live ledger while so many admissions are decided, one after the other; gives the milliseconds from the
    time of each decision's fact, the broker's, until its row was drawn. The first, which warms up, is left out."""
    with _watched(browser, url, kept) as page, httpx.Client(base_url=url, timeout=30.0) as client:
        client.headers["authorization"] = f"Bearer {key}"
        entries = []
        for number in range(decisions + 1):
            answer = client.post("/v1/admissions", json={"operation": "page.edit"}).raise_for_status().json()
            entries.append(f"entry-{answer['entry_id']}")
            if number == 0:
                _wait_for_rows(page, entries)
            page.wait_for_timeout(1000 * _BETWEEN_SECONDS)
        seen = _wait_for_rows(page, entries)
    waits = sorted(drawn - booked for entry in entries[1:] if entry in seen for drawn, booked in [seen[entry]])
    return {
        "decisions": decisions,
        "missed": decisions - len(waits),
        "ms": {f"p{percent}": _percentile(waits, percent) for percent in (50, 95, 100)},
    }


@contextmanager
def _watched(browser: Browser, url: str, kept: StorageState) -> Iterator[Page]:
    with looking(browser, url, kept) as looker:
        looker.open(LEDGER)
        looker.page.evaluate(_NOTE_ROWS)
        yield looker.page


def _wait_for_rows(page: Page, entries: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The rows that were seen, once those of all of these entries were, or time is up."""
    deadline = time.monotonic() + _ROW_SECONDS_MAX
    while True:
        seen: dict[str, tuple[float, float]] = page.evaluate("() => window.rowsSeen")
        if seen.keys() >= set(entries) or time.monotonic() > deadline:
            return seen
        page.wait_for_timeout(50)


def _times(page: Page) -> dict[str, Any]:
    deadline = time.monotonic() + _ROW_SECONDS_MAX
    while (times := page.evaluate(_TIMES)) is None:
        assert time.monotonic() < deadline, "the browser noted no paint"
        page.wait_for_timeout(20)
    found: dict[str, Any] = times
    return found


def _percentile(ordered: list[float], percent: int) -> float | None:
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1) if ordered else None
