"""Alerts on the dashboard: thresholds are added and removed, notices are listed by type and day."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from api.stack import Stack
from tests.admins import ADMIN_KEYS
from tests.calls import Operator, eventually
from tests.dashboard.admin_pages import AdminBrowser
from tests.dashboard.readers import DashboardReader, text_of, token_of

ALERTS = "/dashboard/alerts"


def test_thresholds_are_added_and_removed_and_the_others_stay(operator: Operator) -> None:
    project, client = operator.customer("build")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    page = reader.open(ALERTS)
    assert "The next notice comes when no more than 5000 are." in text_of(page)
    for amount, unit in (("1,500.5", "credits"), ("50", "percent"), ("700", "credits")):
        done = reader.send(reader.open(ALERTS), 'id="amount"', amount=amount, unit=unit)
        assert done.headers["location"] == f"{ALERTS}?done=added", done.text
    refused = (("0", "percent"), ("101", "percent"), ("x", "credits"), ("700", "credits"))
    for amount, unit in (*refused, ("1,5", "percent"), ("1,5", "credits"), ("0,02", "credits")):
        wrong = reader.send(reader.open(ALERTS), 'id="amount"', amount=amount, unit=unit)
        assert wrong.status_code == 422 and 'id="amount-wrong"' in wrong.text and f'value="{amount}"' in wrong.text
    page = reader.open(ALERTS)
    assert "no more than 12500 are" in text_of(page)
    assert reader.send(page, 'value="credits-700"').headers["location"] == f"{ALERTS}?done=removed"
    rules = client.get("/v1/notice-rules", params={"environment": "production"}).json()["rules"]
    assert [each["id"] for each in rules if not each["is_default"]] == ["percent-50", "credits-1500.5"]
    preview = DashboardReader(operator.url, operator.key(project, "preview")["key"])
    assert "1500.5" not in text_of(preview.open(ALERTS))


# What is typed and in which unit, the rule's id, and how its row on the page says it.
THRESHOLDS = {
    ("1", "percent"): ("percent-1", "1% of the month's allowance"),
    ("50 %", "percent"): ("percent-50", "50% of the month's allowance"),
    ("100", "percent"): ("percent-100", "100% of the month's allowance"),
    ("0.000001", "credits"): ("credits-0.000001", "0.000001 credits"),
    ("1,500.5", "credits"): ("credits-1500.5", "1500.5 credits"),
    ("1000000000", "credits"): ("credits-1000000000", "1000000000 credits"),
}
_ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)


@pytest.mark.parametrize("plan", ["build", "enterprise"])
@pytest.mark.parametrize("environment", ["production", "preview"])
def test_each_rule_that_can_be_saved_is_shown_again_as_it_was_saved(
    admin: AdminBrowser, operator: Operator, environment: str, plan: str
) -> None:
    """Preview has no allowance, nor has an enterprise project whose contract says none."""
    project = operator.project(plan)
    here = f"{ALERTS}?project={project}&environment={environment}"
    reader = DashboardReader(operator.url, ADMIN_KEYS["owner"])
    saved: dict[str, str] = {}

    def check() -> None:
        page = reader.open(here)
        rows = [text_of(row) for row in _ROW.findall(page.partition('id="rules-table"')[2].partition("</table>")[0])]
        assert len(rows) - 1 == len(saved) + (2 if has_allowance else 1), rows
        for rule, says in saved.items():
            (row,) = [row for row in rows if f" {says} its own " in f" {row} "]
            is_percent = rule.startswith("percent")
            assert ("no allowance here" in row) == (is_percent and not has_allowance), row
            assert f'name="remove" value="{rule}"' in page
        # What the API says, and the forms of the two acts, are of the same rules.
        listed = operator.http.get("/v1/notice-rules", params={"project": project}).json()["rules"]
        own = {each["id"] for each in listed if not each["is_default"] and each["environment"] == environment}
        assert own == set(saved)
        act = {"production": "notice-rules", "preview": "preview-notice-rules"}
        for each, name in act.items():
            form = admin.form(admin.page(f"/dashboard/projects/{project}/acts/{name}"))
            told = {text.removesuffix("%") for text in form["rules"].split()}
            expected = {rule.partition("-")[2] for rule in saved} if each == environment else set()
            assert told == expected, name

    has_allowance = environment == "production" and plan == "build"
    for (amount, unit), (rule, says) in THRESHOLDS.items():
        done = reader.send(reader.open(here), 'id="amount"', amount=amount, unit=unit)
        assert done.status_code == 303 and "done=added" in done.headers["location"], done.text
        saved[rule] = says
        check()
    # A form that is sent as it is shown changes nothing.
    act = f"/dashboard/projects/{project}/acts/{'preview-' if environment == 'preview' else ''}notice-rules"
    assert admin.act(act).status_code == 303
    check()
    for rule in list(saved):
        assert reader.send(reader.open(here), f'value="{rule}"').status_code == 303
        del saved[rule]
        check()


def test_notices_are_listed_by_type_and_day(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("free")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    assert "No notices yet" in reader.open(f"{ALERTS}/notices", is_part=True)
    assert client.post("/v1/admissions", json={"operation": "website", "source": "/alerts"}).status_code == 200
    body = {"bundle_usd": 20, "environment": "production"}
    assert operator.http.post(f"/v1/admin/projects/{project}/top-ups", json=body).status_code == 201
    part = eventually(
        lambda: (told := reader.open(f"{ALERTS}/notices", is_part=True)) and "purchase.succeeded" in told and told
    )
    assert "paid $20.00" in text_of(part) and "project.credits_low" in part and "available 10" in text_of(part)
    low = reader.open(f"{ALERTS}/notices?type=project.credits_low", is_part=True)
    assert "project.credits_low" in low and "purchase.succeeded" not in low
    today = datetime.now(UTC).date()
    assert "purchase.succeeded" in reader.open(f"{ALERTS}/notices?from={today}&to={today}", is_part=True)
    before = reader.open(f"{ALERTS}/notices?to={today - timedelta(days=2)}", is_part=True)
    assert "No notices like that" in before
    for odd in ("from=soon", "from=2026-02-30", "to=9999-12-31", "to=2026-03"):
        assert "is a day" in reader.open(f"{ALERTS}/notices?{odd}", 422, is_part=True), odd
    for beyond in ("from=0001-01-01", "to=2300-01-01"):
        assert "between 1970 and 2200" in reader.open(f"{ALERTS}/notices?{beyond}", 422, is_part=True), beyond
    assert "no notice of the project" in reader.open(f"{ALERTS}/notices?type=webhook.test", 422, is_part=True)
    others = DashboardReader(operator.url, operator.key(operator.project())["key"])
    assert "No notices yet" in others.open(f"{ALERTS}/notices?project={project}", is_part=True)


def test_a_test_notice_is_sent_from_here_and_who_may_not_sees_no_button(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    hook = {"target": "https://acme.invalid/hook", "description": "Shop"}
    made = client.post("/v1/webhook-endpoints", json=hook).json()
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    page = reader.open(ALERTS)
    assert "hears of crossings here" in page
    assert reader.send(page, made["id"]).headers["location"] == f"{ALERTS}?done=tested"
    audit = {"kind": "endpoints", "project": project}
    eventually(lambda: "endpoint.tested" in operator.http.get("/v1/audit", params=audit).text)
    few = DashboardReader(operator.url, operator.key(project, scopes=["content:read"])["key"])
    shown = few.open(ALERTS)
    assert "has no scope" in shown and "At or below" in shown
    assert 'id="amount"' not in shown and 'name="remove"' not in shown
    fields = {"csrf": token_of(shown), "amount": "5", "unit": "credits"}
    assert few.http.post(f"{ALERTS}/rules", data=fields).status_code == 403
