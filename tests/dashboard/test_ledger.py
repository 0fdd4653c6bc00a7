"""The ledger's pages, in a real browser: rows come by themselves, once each, and lead to their receipts."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from api.stack import Stack
from tests.calls import Operator, eventually
from tests.dashboard.pages import signed_in

EXPECTED_MS = 30_000
expect.set_options(timeout=EXPECTED_MS)


@pytest.fixture(scope="module")
def shown(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(shown: Browser) -> Iterator[Page]:
    """A page that may say nothing on the console: neither an error of ours nor a violation of the policy."""
    context = shown.new_context(timezone_id="Asia/Kolkata")
    context.set_default_timeout(EXPECTED_MS)
    page = context.new_page()
    said = list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert said == []


def sign_in(page: Page, url: str, key: str) -> None:
    page.goto(f"{url}/dashboard/sign-in")
    page.fill("#key", key)
    page.click("button:has-text('Sign in')")
    page.wait_for_url(re.compile("/dashboard(/projects)?$"))


def key_of(client: httpx.Client) -> str:
    return client.headers["authorization"].removeprefix("Bearer ")


def use(client: httpx.Client, customer: str = "globex", operation: str = "image") -> str:
    """Have something used; gives its entry's id."""
    body = {"operation": operation, "id": secrets.token_hex(4), "source": "/t", "metadata": {"customer_id": customer}}
    answer = client.post("/v1/admissions", json=body)
    assert answer.status_code == 200, answer.text
    entry: str = answer.json()["entry_id"]
    return entry


def row(page: Page, entry: str) -> Any:
    return page.locator(f"[id='entry-{entry}']")


def live(page: Page) -> None:
    expect(page.locator("[data-state]")).to_have_text("live", timeout=EXPECTED_MS)


def test_entries_come_by_themselves_newest_first_and_wait_while_it_is_paused(
    stack: Stack, operator: Operator, page: Page
) -> None:
    _, client = operator.customer("build")
    first = use(client)
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 2)
    sign_in(page, stack.url, key_of(client))
    page.goto(f"{stack.url}/dashboard/ledger")
    expect(row(page, first)).to_contain_text("globex")
    live(page)
    second = use(client, "initech")
    expect(row(page, second)).to_contain_text("initech")
    assert page.locator("#ledger-rows tr").first.get_attribute("id") == f"entry-{second}"
    page.get_by_role("button", name="Pause").press("Enter")
    third = use(client, "hooli")
    other = httpx.Client(base_url=stack.url, headers=client.headers, timeout=30.0)
    eventually(lambda: other.get("/v1/ledger").json()["entries"][0]["entry_id"] == third)
    expect(row(page, third)).to_have_count(0)
    page.get_by_role("button", name="Live").press("Enter")
    expect(row(page, third)).to_contain_text("hooli")
    ids = page.locator("#ledger-rows tr[id]").evaluate_all("rows => rows.map((row) => row.id)")
    assert ids[:3] == [f"entry-{each}" for each in (third, second, first)] and len(ids) == len(set(ids)) == 4


def test_a_page_of_nothing_says_so_until_the_first_entry_comes(stack: Stack, operator: Operator, page: Page) -> None:
    _, client = operator.customer("build")
    sign_in(page, stack.url, key_of(client))
    page.goto(f"{stack.url}/dashboard/ledger?customer_id=nobody")
    expect(page.get_by_text("No entry is like this")).to_be_visible()
    live(page)
    use(client, "somebody")
    entry = use(client, "nobody")
    expect(row(page, entry)).to_be_visible()
    expect(page.get_by_text("No entry is like this")).to_be_hidden()
    assert page.locator("#ledger-rows tr[id]").count() == 1


def test_what_is_asked_for_is_in_the_address_and_older_entries_are_by_the_page(
    stack: Stack, operator: Operator, page: Page
) -> None:
    project, client = operator.customer("scale")
    for number in range(55):
        use(client, "globex" if number % 2 else "initech")
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 56)
    sign_in(page, stack.url, stack.admin_key)
    page.goto(f"{stack.url}/dashboard/ledger?project={project}")
    rows = page.locator("#ledger-rows tr[id]")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Older entries").click()
    expect(rows).to_have_count(6)
    expect(page.get_by_text("not live")).to_be_visible()
    page.get_by_role("link", name="Newest entries").click()
    expect(rows).to_have_count(50)
    page.get_by_label("Customer").fill("initech")
    page.get_by_label("Kind").select_option("charge")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(28)
    address = httpx.URL(page.url)
    assert {**address.params} == {
        "project": project, "customer_id": "initech", "kind": "charge", "operation": "", "from": "", "to": ""
    }  # fmt: skip
    page.reload()
    expect(rows).to_have_count(28)


def test_a_time_that_the_api_takes_is_one_for_the_page_too(operator: Operator) -> None:
    project, _ = operator.customer("build")
    reader = signed_in(operator, operator.key(project)["key"], "Asia/Kolkata")
    for to, is_live in (
        (f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%S.%fZ}", True),
        (f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%d %H:%M:%S}+00:00", False),
        (f"{datetime.now(UTC) + timedelta(days=2):%Y%m%d}", True),
        ("2026-01-01", False),
    ):
        rows = reader.get("/dashboard/ledger/rows", params={"to": to})
        assert rows.status_code == 200 and ("data-live-go" in rows.text) == is_live, (to, rows.text)
        assert reader.get("/dashboard/ledger", params={"to": to}).status_code == 200
    for odd in ("1796109291", "9999-12-31", "2026-13-01", "2026-01-01T10:00", "soon", "1e9999"):
        refused = reader.get("/dashboard/ledger/rows", params={"to": odd}, headers={"hx-request": "true"})
        assert refused.status_code == 422 and 'role="alert"' in refused.text, odd


def test_an_entry_leads_to_its_receipt_which_says_why_and_from_which_grant(
    stack: Stack, operator: Operator, page: Page
) -> None:
    _, client = operator.customer("hobby")
    entry = use(client)
    sign_in(page, stack.url, key_of(client))
    page.goto(f"{stack.url}/dashboard/ledger")
    row(page, entry).get_by_role("link").press("Enter")
    expect(page.get_by_role("heading", name="Receipt", exact=True)).to_be_visible()
    expect(page.get_by_text("Charged 32 credits for image")).to_be_visible()
    expect(page.locator("section", has_text="The production budget")).to_contain_text("4968")
    expect(page.locator("section", has_text="Grants that it moved")).to_contain_text("Allowance")


def test_a_receipt_that_is_not_there_is_told_with_what_to_do(stack: Stack, operator: Operator) -> None:
    _, client = operator.customer("build")
    browser = httpx.Client(base_url=stack.url, timeout=30.0)
    browser.post("/dashboard/sign-in", data={"key": key_of(client)})
    answer = browser.get("/dashboard/receipts/0-999999999-0")
    assert answer.status_code == 404 and "Unknown receipt" in answer.text and 'role="alert"' in answer.text


def test_a_revoked_key_ends_the_page_that_is_open_and_says_so(stack: Stack, operator: Operator, page: Page) -> None:
    project = operator.project("build")
    key = operator.key(project)
    sign_in(page, stack.url, key["key"])
    page.goto(f"{stack.url}/dashboard/ledger")
    live(page)
    assert operator.http.delete(f"/v1/admin/projects/{project}/keys/{key['key_id']}").is_success
    expect(page.get_by_role("alert")).to_contain_text("No longer live")
    expect(page.locator("[data-state]")).to_have_text("no longer live")


def test_nobody_follows_a_ledger_without_a_session_or_of_another_project(stack: Stack, operator: Operator) -> None:
    _, client = operator.customer("build")
    other, foreign = operator.customer("build")
    browser = httpx.Client(base_url=stack.url, timeout=30.0)
    assert browser.get("/dashboard/ledger/stream?after=0-0-0").status_code == 303
    browser.post("/dashboard/sign-in", data={"key": key_of(client)})
    assert "event: end" in browser.get("/dashboard/ledger/stream?after=yesterday").text
    entry = eventually(lambda: client.get("/v1/ledger").json()["entries"])[0]["entry_id"]
    # Whatever a key's session names, it is about its own project.
    with browser.stream("GET", f"/dashboard/ledger/stream?after={entry}&project={other}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        use(foreign, "theirs")
        use(client, "<script>alert(1)</script>")
        told = []
        for line in stream.iter_lines():
            told.append(line)
            if "alert(1)" in line:
                break
    assert "&lt;script&gt;" in told[-1]
    assert not any("theirs" in line for line in told)
