"""The limits view: how a project stands in its limits, where they come from, and what they turned away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx

from tests.calls import Operator, eventually
from tests.dashboard.pages import signed_in, text_of


def test_it_says_how_the_project_stands_and_where_its_limits_come_from(operator: Operator) -> None:
    project, client = operator.customer("hobby", is_limited=True)
    assert client.post("/v1/admissions", json={"operation": "image", "job_id": "1"}).status_code == 200
    ends_at = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    url = f"/v1/admin/projects/{project}"
    operator.http.put(f"{url}/limits", json={"cost_ceiling": "5000", "reason": "contract"})
    raised = {"burst": 9000, "ends_at": ends_at, "reason": "launch"}
    assert operator.http.post(f"{url}/limit-raises", json=raised).status_code == 201
    browser = signed_in(operator, operator.key(project)["key"])
    page = eventually(lambda: _shown(browser, "9000"))
    limits = operator.http.get("/v1/limits", params={"project": project}).json()
    said = text_of(page)
    assert page.status_code == 200
    assert "The hobby plan" in said and "Contract – – 5000" in said and "Raise on" in said and "– 9000 –" in said
    force = limits["in_force"]
    assert f"In force now {force['requests_per_minute']} 9000 5000" in said
    assert "Retry-After" in said and "No raise is planned" not in said
    standing = eventually(lambda: _said(browser, "s32 / 5000"))
    assert "Credits, last 60 s32 / 5000" in standing
    assert f"Burst left{limits['standing']['burst_left']} / {9000 - force['requests_per_minute']}" in standing


def _shown(browser: httpx.Client, text: str) -> httpx.Response | None:
    """The page of limits, once it says so: it may be some milliseconds behind."""
    page = browser.get("/dashboard/limits")
    return page if text in text_of(page) else None


def _said(browser: httpx.Client, text: str) -> str:
    said = text_of(browser.get("/dashboard/limits/standing"))
    return said if text in said else ""


def test_what_was_turned_away_is_shown_by_the_minute(operator: Operator) -> None:
    project, client = operator.customer("free", is_limited=True)
    browser = signed_in(operator, operator.key(project)["key"])
    eventually(lambda: "Nothing was turned away" in text_of(browser.get("/dashboard/limits/refusals")))
    for number in range(4):
        client.post("/v1/admissions", json={"operation": "website", "job_id": str(number)})
    told = "3 requests were turned away"
    eventually(lambda: told in text_of(browser.get("/dashboard/limits/refusals")))
    page = browser.get("/dashboard/limits/refusals")
    assert page.text.count('class="bar"') == 60 and "1 requests" not in page.text
    assert page.text.count('<rect class="s2"') + page.text.count('<rect class="s4"') >= 1


def test_the_api_says_how_a_project_stands_to_its_own_key(operator: Operator) -> None:
    project, client = operator.customer("hobby", is_limited=True)
    first = client.get("/v1/limits").json()
    assert first["standing"]["requests_60s"] == 1, "the call itself counts"
    assert client.post("/v1/admissions", json={"operation": "image", "job_id": "1"}).status_code == 200
    second = client.get("/v1/limits").json()
    assert (second["standing"]["requests_60s"], second["standing"]["credits_60s"]) == (3, "32")
    assert second["standing"]["burst_left"] == second["in_force"]["burst"] - second["in_force"]["requests_per_minute"]
    asked = operator.http.get("/v1/limits", params={"project": project}).json()
    told = operator.http.get(f"/v1/admin/projects/{project}/limits").json()
    assert {name: asked[name] for name in told} == told
    assert operator.http.get("/v1/limits").status_code == 422, "an admin names the project"
    other, stranger = operator.customer("free")
    assert stranger.get("/v1/limits", params={"project": project}).status_code == 403
