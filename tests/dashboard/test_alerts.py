"""Alerts on the dashboard: thresholds are added and removed, notices are listed by type and day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.stack import Stack
from tests.calls import Operator, eventually
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
    for amount, unit in (("0", "percent"), ("101", "percent"), ("x", "credits"), ("700", "credits")):
        wrong = reader.send(reader.open(ALERTS), 'id="amount"', amount=amount, unit=unit)
        assert wrong.status_code == 422 and 'id="amount-wrong"' in wrong.text and f'value="{amount}"' in wrong.text
    page = reader.open(ALERTS)
    assert "no more than 12500 are" in text_of(page)
    assert reader.send(page, 'value="credits-700"').headers["location"] == f"{ALERTS}?done=removed"
    rules = client.get("/v1/notice-rules", params={"environment": "production"}).json()["rules"]
    assert [each["id"] for each in rules if not each["is_default"]] == ["percent-50", "credits-1500.5"]
    preview = DashboardReader(operator.url, operator.key(project, "preview")["key"])
    assert "1500.5" not in text_of(preview.open(ALERTS))


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
    assert "is a day" in reader.open(f"{ALERTS}/notices?from=soon", 422, is_part=True)
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
