"""Every page of the dashboard in a real browser: light and dark, on a desk and on a phone, by keyboard alone.

Pictures of all of them are in `tests/output/` afterwards, and what each page weighs in `weights.json` beside them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from api.stack import Stack
from streams.settings import PROJECT_ROOT
from tests.calls import Operator, eventually
from tests.dashboard.browser import OUTPUT, Looker, file_name, looking, weight_of
from tests.dashboard.conftest import Look
from tests.dashboard.keyboard import faults_of_tabbing
from tests.dashboard.story import Story, with_announced_prices
from tests.dashboard.walked import NO_PAGES, WALKED, WalkedPage, get_routes, is_of, unwalked

PAGE_BYTES_MAX = 60 * 1024
_STATIC = "/dashboard/static/"
WIDER_THAN_WINDOW = """
() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width && document.body.scrollWidth <= width) return [];
  const out = [...document.querySelectorAll("body *")].filter((each) =>
    each.getBoundingClientRect().right > width + 1 && !each.closest(".scroll, .menu"));
  return [`${document.documentElement.scrollWidth} of ${width} px`,
          ...out.slice(0, 5).map((each) => each.outerHTML.slice(0, 120))];
}
"""
MOVING = """
() => [...document.querySelectorAll("*")].filter((each) => {
  const style = getComputedStyle(each);
  const lasts = style.transitionDuration.split(",").some((time) => parseFloat(time) > 0);
  return style.animationName !== "none" || lasts;
}).map((each) => each.outerHTML.slice(0, 120))
"""
UNREACHED_TABLES = """
() => [...document.querySelectorAll(".scroll")].filter((each) =>
    each.scrollWidth > each.clientWidth + 1 && !each.matches('[tabindex="0"][role="region"][aria-label]'))
  .map((each) => each.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def announced(operator: Operator, story: Story) -> Iterator[Story]:
    """The story with prices announced."""
    with with_announced_prices(operator, story) as story:
        yield story


@pytest.fixture(scope="module")
def weights() -> Iterator[dict[str, int]]:
    """The weights of all pages, written to a file at the end."""
    found: dict[str, int] = {}
    yield found
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "weights.json").write_text(json.dumps(found, indent=1))


def test_every_route_of_the_dashboard_is_walked() -> None:
    assert unwalked(WALKED, NO_PAGES, get_routes()) == []
    assert len({each.name for each in WALKED}) == len(WALKED), "each page once"
    assert [test for test in NO_PAGES.values() if not (PROJECT_ROOT / test).exists()] == []
    page = WalkedPage("/dashboard/b/1?c=2", "key", route="/dashboard/b/{b}", parts=("/dashboard/part",))
    found = unwalked((page,), {"/dashboard/file": "a test"}, {"/dashboard/b/{b}", "/dashboard/new", "/dashboard/file"})
    assert found == [
        "/dashboard/new is walked by nobody: add a page of it",
        "/dashboard/part is in the table, and no route",
    ]
    assert is_of("/dashboard/b/{b}", "/dashboard/b/1") and is_of("/d/{name:path}", "/d/a/b")
    assert not is_of("/dashboard/b/{b}", "/dashboard/b/1/2") and not is_of("/d/b", "/d/bc")


@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.name)
def test_a_page_is_whole_however_it_is_looked_at(
    page: WalkedPage, look: Look, announced: Story, weights: dict[str, int]
) -> None:
    looker, path, name = look(page.who), announced.filled(page.path), file_name(page.name)
    _first_visit(looker, page, path, announced, weights)
    looker.picture(f"{name}-light")
    looker.pause()
    found: dict[str, list[Any]] = {"light: axe": looker.axe(), "keyboard": faults_of_tabbing(looker.page)}
    looker.show(dark=True)
    _open(looker, path, page)
    found["kept"] = [each for each, over_the_wire, _ in looker.loaded() if _STATIC in each and over_the_wire]
    found["dark: axe"] = looker.axe()
    looker.picture(f"{name}-dark")
    looker.show(phone=True, still=True)
    _open(looker, path, page)
    found["phone: axe"] = looker.axe()
    found["phone: wider than the window"] = looker.page.evaluate(WIDER_THAN_WINDOW)
    found["phone: tables that scroll, out of a keyboard's reach"] = looker.page.evaluate(UNREACHED_TABLES)
    found["moves, though it should not"] = looker.page.evaluate(MOVING)
    looker.picture(f"{name}-phone")
    looker.show(phone=True, still=True, dark=True)
    found["dark phone: axe"] = looker.axe()
    faults = [f"{what}: {fault}" for what, some in found.items() for fault in some]
    assert not faults, "\n".join(faults)


def test_names_as_long_as_they_may_be_make_no_page_wider_than_a_phone(
    browser: Browser, stack: Stack, operator: Operator, story: Story
) -> None:
    """Names without a place to break, as ids are."""
    wide = "W" * 512
    project = f"{wide[:54]}{secrets.token_hex(5)}"
    assert operator.http.post("/v1/admin/projects", json={"project": project, "plan": "scale"}).status_code == 201
    client = operator.client(operator.key(project, name=wide[:64])["key"])
    body = {"operation": "image", "source": f"/{wide[:200]}", "metadata": {"customer_id": wide, wide[:40]: wide}}
    entry = client.post("/v1/admissions", json=body).raise_for_status().json()["entry_id"]
    client.post("/v1/admissions", json={**body, "metadata": {"customer_id": wide[:128]}}).raise_for_status()
    held = {**body, "hold": True, "job_id": wide[:120]}
    hold = client.post("/v1/admissions", json=held).raise_for_status().json()["hold_id"]
    hook = {"target": f"https://acme.invalid/{wide[:200]}", "description": wide[:200]}
    endpoint = client.post("/v1/webhook-endpoints", json=hook).raise_for_status().json()["id"]
    link = client.post("/v1/portal-links", json={"customer_id": wide[:128]}).raise_for_status().json()["url"]
    eventually(lambda: entry in client.get("/v1/ledger").text)
    of_project = (
        "", "/usage?group=customer_id", "/usage?group=customer_id&group2=metadata." + wide[:40], "/ledger",
        f"/ledger?customer_id={wide}", f"/receipts/{entry}", "/limits", "/holds", f"/holds/{hold}", "/alerts",
        "/webhooks", f"/webhooks/{endpoint}", "/invoices", "/prices", f"/receipts/{wide[:100]}",
    )  # fmt: skip
    of_admin = (
        f"/projects/{project}", f"/projects/{project}/acts/close", f"/projects/{project}/acts/revoke-key",
        f"/projects?search={project}", f"/audit?project={project}", f"/audit/keys?project={project}",
        f"/events?source=/{wide[:200]}&id={wide[:200]}", f"/dead-letters?source={wide}", f"?project={project}",
    )  # fmt: skip
    key = client.headers["authorization"].removeprefix("Bearer ")
    faults = list[str]()
    for who, paths in ((key, of_project), (story.admin_key, of_admin), ("", ("", "/usage", "/ledger"))):
        with looking(browser, stack.url) as looker:
            if who:
                looker.sign_in(who)
            else:
                looker.page.goto(f"{stack.url}{link[link.index('/dashboard/portal') :]}")
                looker.page.get_by_role("button", name="Show my usage").press("Enter")
                looker.page.wait_for_url("**/dashboard")
            looker.show(phone=True, still=True)
            for path in paths:
                looker.open(f"/dashboard{path}")
                faults += [f"{path[:60]}: {fault}" for fault in looker.page.evaluate(WIDER_THAN_WINDOW)]
    assert not faults, "\n".join(faults)


def _first_visit(looker: Looker, page: WalkedPage, path: str, story: Story, weights: dict[str, int]) -> None:
    """Open a page with nothing kept of it, and look at what it says of itself and what it weighs."""
    _open(looker, path, page)
    for text in page.shows:
        expect(looker.page.locator("main")).to_contain_text(story.filled(text), ignore_case=True)
    assert looker.page.locator("h1").count() == 1
    title = looker.page.title()
    assert title.endswith(" · Meterline") and len(title) > len(" · Meterline")
    had = [asked for _, asked in looker.asked()] + looker.parts_it_came_with()
    missing = [part for part in page.parts if not any(is_of(part, each) for each in had)]
    assert missing == [], "parts that the page neither came with nor asked for"
    loaded = looker.loaded()
    elsewhere = [each for each, _, _ in loaded if not each.startswith("/dashboard")]
    assert elsewhere == []
    weights[page.name] = weight_of(loaded)
    assert weights[page.name] <= PAGE_BYTES_MAX, sorted(loaded, key=lambda each: -each[2])[:8]


def _open(looker: Looker, path: str, page: WalkedPage) -> None:
    status = looker.open(path)
    assert status == page.status, looker.page.content()
    for refused in {status, page.part_status} - {200}:
        # The browser itself notes an answer that is a refusal.
        told = f"the server responded with a status of {refused}"
        looker.faults[:] = [fault for fault in looker.faults if told not in fault]
