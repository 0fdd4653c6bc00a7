"""The overview: what there is, what it is made of, how long it lasts, exactly as the API says it."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from html import unescape

import httpx
import pytest

from api.dashboard.figures import credits_sum
from api.dashboard.spans import ShownPeriod
from api.dashboard.usage_figures import usage_chart
from api.dashboard.views.overview import pace_of, parts_of
from api.stack import Stack
from streams.core.booking import parse_credits
from tests.calls import Operator, event, eventually
from tests.dashboard.pages import signed_in, text_of

BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture(scope="module")
def used(operator: Operator) -> tuple[str, httpx.Client]:
    """A project with all kinds of grants, a hold and usage of two customers, and a browser of its own."""
    project, client = operator.customer("hobby")
    url = f"/v1/admin/projects/{project}"
    operator.http.post(f"{url}/top-ups", json={"bundle_usd": 20})
    for days in (9, 20):
        ends_at = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        given = {"amount": "600.5", "reason": "welcome", "expires_at": ends_at}
        assert operator.http.post(f"{url}/grants", json=given).status_code == 201
    batch = [
        event(project, str(number), "image", metadata={"customer_id": f"customer {number % 7}"}) for number in range(90)
    ]
    assert client.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["accepted"] == 90
    held = {"operation": "website", "job_id": "j1", "hold": True}
    assert client.post("/v1/admissions", json=held).status_code == 200
    eventually(lambda: len(client.get("/v1/ledger", params={"limit": 1000}).json().get("entries", ())) >= 94)
    return project, signed_in(operator, operator.key(project)["key"], "Europe/Berlin")


def test_it_says_what_is_available_and_what_that_is_made_of(operator: Operator, used) -> None:
    project, browser = used
    page = browser.get("/dashboard")
    balance = operator.http.get("/v1/balance", params={"project": project}).json()
    said = text_of(page)
    assert page.status_code == 200
    # The separators are no part of the text, so what is copied is the number.
    assert f"{balance['available']}of {parse_credits(balance['available'], '') // 10**6 + 240}, the rest held" in said
    assert "hobby plan" in said and "240for 1 job" in said
    assert "600.5 end" in said, "of the promotional credits the next end"
    assert "1 · no end" in said and f"of {balance['allowance']['granted']} · ends" in said
    assert f"{balance['spent_24h']} spent in the last 24 hours" in said
    assert 'fill="url(#hatch)"' in page.text and '<pattern id="hatch"' in page.text
    assert " style=" not in page.text and "<style" not in page.text
    widths = re.findall(r'<rect (?:class="p-|fill="url)[^>]* x="([\d.]+)%" y="0" width="([\d.]+)%"', page.text)
    assert sum(float(width) for _, width in widths) == pytest.approx(100, abs=1e-6) and len(widths) == 4


def test_its_parts_are_loaded_and_say_what_the_api_says(operator: Operator, used) -> None:
    project, browser = used
    chart = browser.get("/dashboard/overview/operations?range=24h").text
    assert "</i>image<" in unescape(chart) and "2 880 credits" in unescape(chart).replace("\u202f", " ")
    assert "/dashboard/usage?granularity=15m&amp;from=" in chart and chart.count('<a href="/dashboard/usage') in (
        24,
        25,
    )
    customers = text_of(browser.get("/dashboard/overview/customers"))
    assert "customer 0" in customers and "All others" in customers
    top = operator.http.get(
        "/v1/usage", params={"project": project, "group_by": "customer_id", "top": 5, "environment": "production"}
    ).json()["rows"]
    for row in top:
        assert f"{'All others' if row.get('other') else row['group']['customer_id']} {row['uses']}" in customers
    # What is there soon comes with the page.
    assert re.search(
        r'(hx-get|data-part)="/dashboard/ledger/rows\?limit=8&amp;brief=true"', browser.get("/dashboard").text
    )
    assert browser.get("/dashboard/overview/now").text.count("<html") == 0


def test_before_the_first_use_it_says_what_to_do_and_the_call_works(operator: Operator) -> None:
    project, _ = operator.customer("free")
    key = operator.key(project)["key"]
    browser = signed_in(operator, key)
    assert "Nothing was spent in the last 24 hours" in text_of(browser.get("/dashboard"))
    steps = browser.get("/dashboard/overview/operations").text
    (said,) = re.findall(r'<code id="first-call">(.*?)</code>', steps, re.DOTALL)
    curl, url, *rest = shlex.split(unescape(said).replace("\\\n", "").replace("$METERLINE_KEY", key))
    assert curl == "curl" and rest[::2] == ["-H", "-H", "-d"]
    headers = dict(each.split(": ", 1) for each in rest[1:4:2])
    answer = httpx.post(url, headers=headers, content=rest[-1])
    assert answer.status_code == 200, answer.text
    eventually(lambda: "first-call" not in browser.get("/dashboard/overview/operations").text)
    assert "globex" in browser.get("/dashboard/overview/customers").text


def test_the_preview_environment_has_its_own(operator: Operator, used) -> None:
    project, browser = used
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 100, "environment": "preview"})
    page = browser.get("/dashboard?environment=preview")
    assert "environment=preview" in page.text
    eventually(lambda: "20000" in text_of(browser.get("/dashboard?environment=preview")))
    own = signed_in(operator, operator.key(project, "preview")["key"])
    page = own.get("/dashboard?environment=production")
    assert "20000" in text_of(page) and "?environment" not in page.text, "a preview key sees preview alone"


def test_a_closed_project_and_an_empty_one_say_so(operator: Operator) -> None:
    project, client = operator.customer("free")
    browser = signed_in(operator, operator.key(project)["key"])
    assert client.post("/v1/admissions", json={"operation": "website", "job_id": "1"}).status_code == 200
    # A page reads this process's copy of the account, which may be some milliseconds behind.
    page = eventually(lambda: text_of(browser.get("/dashboard")).partition("Empty in about")[2])
    assert "before the renewal" in page
    operator.http.put(f"/v1/admin/projects/{project}/state", json={"closed": True, "reason": "test"})
    eventually(lambda: "This project was closed on" in text_of(browser.get("/dashboard")))


def test_an_admin_looks_at_any_project_and_a_key_at_its_own(stack: Stack, operator: Operator, used) -> None:
    project, browser = used
    admin = signed_in(operator, stack.admin_key)
    assert project in text_of(admin.get(f"/dashboard?project={project}"))
    assert admin.get("/dashboard").headers["location"] == "/dashboard/projects"
    assert admin.get("/dashboard?project=prj_nobody").status_code == 404
    other, _ = operator.customer("free")
    theirs = text_of(browser.get(f"/dashboard?project={other}"))
    assert other not in theirs and project in theirs, "a key's page is about its own project, whatever is named"
    assert browser.get("/dashboard?range=2d").status_code == 422


def _balance(**parts: object) -> dict[str, object]:
    return {
        "available": "10", "held": "5", "allowance": None, "promotional_count": 0, "promotional": [],
        "promotional_remaining": "0", "promotional_held": "0", "top_ups_count": 0, "top_ups_remaining": "0",
        "top_ups_held": "0", "spent_24h": "1", "empty_at": None, "renews_at": "2026-12-01T00:00:00Z",
        "as_of": "2026-11-27T00:00:00Z", **parts,
    }  # fmt: skip


def test_parts_stand_in_the_order_in_which_they_are_spent_and_add_up() -> None:
    ends = ["2026-12-03T00:00:00Z", "2026-12-03T00:00:00Z", "2027-01-03T00:00:00Z"]
    grants = [{"remaining": amount, "expires_at": end} for amount, end in zip(("1", "2", "4"), ends, strict=True)]
    grants.insert(0, {"remaining": "0", "expires_at": "2026-12-02T00:00:00Z"})
    allowance = {"granted": "20", "remaining": "6.5", "held": "1.5", "renews_at": "2026-12-01T00:00:00Z"}
    parts = parts_of(
        _balance(
            allowance=allowance, promotional_count=4, promotional=grants, promotional_remaining="7",
            promotional_held="3.5", top_ups_count=1, top_ups_remaining="1.5", available="10",
        )
    )  # fmt: skip
    assert [(part.kind, part.credits) for part in parts] == [
        ("allowance", "5"),
        ("promotional", "3.5"),
        ("topup", "1.5"),
        ("held", "5"),
    ]
    assert (parts[1].note, parts[1].ends_at) == ("3", ends[0]), "what ends next, of those that have any left"
    assert [part.width for part in parts] == ["33.33%", "23.33%", "10%", "33.34%"]


def test_the_pace_says_how_long_credits_last_and_whether_they_end_before_the_renewal() -> None:
    assert pace_of(_balance()).lasts_seconds is None
    early = pace_of(_balance(empty_at="2026-11-29T00:00:00Z"))
    assert (early.lasts_seconds, early.before_renewal_seconds) == (2 * 86_400, 2 * 86_400)
    late = pace_of(_balance(empty_at="2026-12-29T00:00:00Z"))
    assert late.before_renewal_seconds is None and not late.is_empty
    assert pace_of(_balance(available="0", empty_at="2026-11-27T00:00:00Z")).is_empty


def test_amounts_are_summed_exactly_whatever_their_size_and_sign() -> None:
    """A correction of what was used in another time leaves less than nothing in this one."""
    assert credits_sum() == "0"
    assert credits_sum("-12.5", "12", "-0.000001") == "-0.500001"
    assert credits_sum("9223372036854.775807", "9223372036854.775807") == "18446744073709.551614"
    top_ups = {"top_ups_count": 2000, "top_ups_remaining": "1999999999999.999999", "top_ups_held": "0.000001"}
    balance = _balance(available="1999999999999.999998", held="0.000001", empty_at="2026-11-29T00:00:00Z", **top_ups)
    assert [part.credits for part in parts_of(balance)] == ["1999999999999.999998", "0.000001"]
    assert not pace_of(balance).is_empty and pace_of(balance | {"available": "-3"}).is_empty
    rows = [
        {"group": {"operation": "image", "period": "2026-11"}, "uses": 2, "credits": credits}
        for credits in ("-96", "1999999999999.999999")
    ]
    report = {"group_by": ["operation", "period"], "rows": rows, "previous_from": None}
    periods = [ShownPeriod("2026-11", "Nov", "November 2026", "2026-11-01", "2026-12-01")]
    assert usage_chart(report, periods, "credits").periods[0].credits == "1999999999903.999999"
