"""The usage view: the API's figures by any group and period, with links that look closer, and a file of the same."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.calls import Operator, event, eventually
from tests.dashboard.pages import signed_in, text_of

BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture(scope="module")
def used(operator: Operator) -> tuple[str, httpx.Client]:
    """A project with usage of 12 customers and two teams, and a browser of its own."""
    project, client = operator.customer("build")
    batch = [
        event(
            project, str(number), "image" if number % 3 else "blog_post",
            metadata={"customer_id": f"customer {number % 12}", "team": "ab"[number % 2]},
        )
        for number in range(120)
    ]  # fmt: skip
    assert client.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["accepted"] == 120
    eventually(lambda: len(client.get("/v1/ledger", params={"limit": 1000}).json().get("entries", ())) >= 121)
    return project, signed_in(operator, operator.key(project)["key"])


def figures(browser: httpx.Client, query: str = "") -> httpx.Response:
    return browser.get(f"/dashboard/usage/figures?{query}", headers={"hx-request": "true"})


def test_the_figures_are_those_of_the_api(operator: Operator, used) -> None:
    project, browser = used
    page = browser.get("/dashboard/usage")
    assert page.status_code == 200
    assert re.search(r'(hx-get|data-part)="/dashboard/usage/figures\?environment=production"', page.text)
    said = text_of(figures(browser))
    assert "image 80 80 2560 " in said and "blog_post 40 40 2400 " in said and "credits 4960 uses 120" in said
    by_customer = text_of(figures(browser, "group=customer_id&top=5"))
    assert "customer 0" in by_customer and "all others 70 70 " in by_customer
    assert f"{datetime.now(UTC):%a} {datetime.now(UTC).day}" in said


def test_times_are_those_of_the_zone_that_was_asked_for(used) -> None:
    _, browser = used
    for zone in ("UTC", "Asia/Tokyo", "America/St_Johns"):
        said = text_of(figures(browser, f"tz={zone}&from=2026-01-01&to=2026-01-31"))
        assert "Credits by day, 1 Jan 00:00 to 31 Jan 00:00" in said and f"Times are those of {zone}." in said, said
        as_of = re.search(r"decided by (\d\d):", said)
        assert as_of is not None and int(as_of[1]) in {
            (datetime.now(ZoneInfo(zone)) - timedelta(minutes=ago)).hour for ago in (0, 5)
        }


def test_a_last_day_alone_is_the_end_of_30_days(used) -> None:
    _, browser = used
    html = browser.get("/dashboard/usage?range=7d&to=2026-01-31").text
    assert 'aria-current="true">7 d' not in html and 'name="range"' not in html
    assert "Credits by day, 1 Jan 00:00 to 31 Jan 00:00" in text_of(figures(browser, "range=7d&to=2026-01-31"))
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    assert "uses 120" in text_of(figures(browser, f"range=24h&to={tomorrow}"))


def test_two_groups_any_metadata_key_and_filters(used) -> None:
    _, browser = used
    said = text_of(figures(browser, "group=metadata.team&group2=operation"))
    assert "a image 40 " in said and "b blog_post 20 " in said
    assert "image 40 " in text_of(figures(browser, "group=operation&key=team&value=a"))
    assert "Nothing was used in this time" in text_of(figures(browser, "operation=website"))
    assert "customer 3 10 " in text_of(figures(browser, "group=customer_id&customer_id=customer+3"))


def test_each_bar_leads_to_finer_periods_and_each_row_to_its_group(used) -> None:
    _, browser = used
    html = figures(browser, "range=7d").text
    bars = [unescape(each) for each in re.findall(r'<a href="([^"]+)" class="bar"', html)]
    assert len(bars) == 7
    today = parse_qs(urlsplit(bars[-1]).query)
    assert today["granularity"] == ["hour"] and today["from"] == [f"{datetime.now(UTC):%Y-%m-%d}"]
    hours = browser.get(bars[-1])
    assert hours.status_code == 200 and f'value="{today["from"][0]}" type="date"' in hours.text
    finer = figures(browser, urlsplit(bars[-1]).query).text
    assert "granularity=15m" in finer and "image 80 " in text_of(finer)
    closer = next(unescape(each) for each in re.findall(r'class="closer" href="([^"]+)"', html) if "operation=" in each)
    assert "customer 1 10 " in text_of(figures(browser, urlsplit(closer).query)), "those of one operation"


def test_the_file_has_what_the_page_shows(operator: Operator, used) -> None:
    project, browser = used
    html = figures(browser, "group=customer_id&range=7d&top=5&compare=previous").text
    (link,) = re.findall(r'<a href="(/dashboard/usage\.csv[^"]*)" download', html)
    answer = browser.get(unescape(link))
    assert answer.headers["content-type"].startswith("text/csv") and project in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {"period", "customer_id", "uses", "credits", "previous_uses"} <= set(rows[0])
    assert sum(int(row["uses"]) for row in rows) == 120


def test_the_time_before_stands_beside(used) -> None:
    _, browser = used
    said = text_of(figures(browser, "compare=previous"))
    assert "Before Change" in said and "new" in said and "before 0" in said


def test_what_makes_no_sense_is_refused_by_name_where_it_stands(used) -> None:
    _, browser = used
    for query, word in (
        ("group=nothing", "No group 'nothing'"),
        ("tz=Mars/Olympus", "No time zone"),
        ("from=yesterday", "from"),
        ("group=operation&group2=operation", "twice"),
        ("top=x", "top"),
        ("key=team", "`value` is missing"),
        ("value=%3Cb%3E", "`key` is missing"),
    ):
        answer = figures(browser, query)
        assert 'role="alert"' in answer.text and word in text_of(answer), query
        assert browser.get(f"/dashboard/usage/figures?{query}").status_code == 422
        assert browser.get(f"/dashboard/usage.csv?{query}").status_code == 422
        assert browser.get(f"/dashboard/usage?{query}").status_code == 200, "the form is still there"


def test_too_much_says_so_with_links_that_ask_for_less(used) -> None:
    _, browser = used
    answer = figures(browser, "from=2025-01-01&to=2026-01-01&granularity=15m&group=customer_id&group2=operation")
    assert 'role="alert"' in answer.text and "400 at most" in answer.text
    ways = [unescape(each) for each in re.findall(r'<a href="([^"]+)"', answer.text)]
    assert len(ways) >= 3
    assert "At most" not in figures(browser, urlsplit(ways[1]).query).text, "a way that leads somewhere"
    fewer = [parse_qs(urlsplit(each).query) for each in ways]
    assert any(each.get("granularity") == ["hour"] for each in fewer)
    assert any("group2" not in each for each in fewer)


def test_walls(operator: Operator, used) -> None:
    project, browser = used
    preview = signed_in(operator, operator.key(project, "preview")["key"])
    assert "Nothing was used" in text_of(figures(preview, "environment=all&group=operation"))
    other, _ = operator.customer("free")
    stranger = signed_in(operator, operator.key(other)["key"])
    assert "Nothing was used" in text_of(figures(stranger, f"project={project}"))
    assert stranger.get(f"/dashboard/usage.csv?project={project}").text.count("\n") == 1, "its own, which is a header"
    blind = signed_in(operator, operator.key(project, scopes=["billing:read"])["key"])
    assert "content:read" in text_of(figures(blind))
    out = httpx.get(f"{operator.url}/dashboard/usage/figures", headers={"hx-request": "true"})
    assert out.headers["hx-redirect"].startswith("/dashboard/sign-in")
