"""Holds on the dashboard: what is held, one hold with its acts, and walls between projects and environments."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

from api.dashboard.forms import PAGE_ROWS
from api.stack import Stack
from tests.calls import Operator, eventually
from tests.dashboard.readers import DashboardReader, text_of

HOLDS = "/dashboard/holds"


def placed(client: object, job: str, operation: str = "image") -> str:
    """The id of a new hold."""
    body = {"operation": operation, "hold": True, "job_id": job, "metadata": {"customer_id": "cus_9"}}
    answer = client.post("/v1/admissions", json=body)  # type: ignore[attr-defined]
    assert answer.status_code == 200, answer.text
    hold_id: str = answer.json()["hold_id"]
    return hold_id


def test_what_is_held_is_no_charge_and_is_found_by_its_job(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    key = operator.key(project, scopes=["content:*"])["key"]
    reader = DashboardReader(operator.url, key)
    assert "No credits are held in production" in reader.open(HOLDS)
    ids = [placed(client, f"job-{number}") for number in range(3)]
    page = eventually(lambda: (told := text_of(reader.open(HOLDS))) and "3 open holds" in told and told)
    assert "96 credits for 3 open holds" in page and "Nothing of this has been charged" in page
    assert page.count("cus_9") == 3
    found = reader.open(f"{HOLDS}?job=job-1")
    assert ids[1] in found and ids[0] not in found and "96" in text_of(found)
    missing = reader.open(f"{HOLDS}?job={ids[0][:-1]}9")
    assert "No open hold has this job" in missing and "What happened to hold" in missing
    # An admin sees the same of the project that is named, and of its other environment nothing.
    admin = DashboardReader(operator.url, stack.admin_key)
    assert "96 credits for 3 open holds" in text_of(admin.open(f"{HOLDS}?project={project}"))
    assert "No credits are held" in admin.open(f"{HOLDS}?project={project}&environment=preview")


def test_a_hold_is_captured_in_part_once_however_often_its_form_is_sent(operator: Operator) -> None:
    project, client = operator.customer("build")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    hold_id = placed(client, "job")
    page = eventually(lambda: (told := reader.open(f"{HOLDS}/{hold_id}")) and "Held now" in told and told)
    assert "32 credits, not spent" in text_of(page)
    # What is refused is told beside its field, in a form with a key of its own.
    for wrong in ("2,5", "0,02", "1,00", "1,5000"):
        # A comma that sets no thousands apart may be a decimal one: no hold is captured for ten times as much.
        refused = reader.send(page, 'value="capture"', credits=wrong)
        assert refused.status_code == 422 and f'value="{wrong}"' in refused.text, refused.text
    refused = reader.send(page, 'value="capture"', credits="32.5")
    assert refused.status_code == 422 and "capture as much or less" in refused.text and 'value="32.5"' in refused.text
    page = refused.text
    assert reader.send(page, 'value="capture"', credits="1", csrf="forged").status_code == 403
    for _ in range(2):
        done = reader.send(page, 'value="capture"', credits="20")
        assert (done.status_code, done.headers["location"]) == (303, f"{HOLDS}/{hold_id}?done=captured")
    assert client.get("/v1/balance").json()["held"] == "0"
    assert "The hold was captured" in reader.open(done.headers["location"])
    story = eventually(
        lambda: (told := reader.http.get(f"{HOLDS}/{hold_id}/story").text) and "20 credits" in text_of(told) and told
    )
    assert "captured" in text_of(story)
    settled = text_of(reader.open(f"{HOLDS}/settled", is_part=True))
    assert "captured job image cus_9 32 20 12" in settled, settled


def test_a_hold_is_extended_and_released_and_then_has_no_acts(operator: Operator) -> None:
    project, client = operator.customer("build")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    one = f"{HOLDS}/{placed(client, 'job')}"
    page = eventually(lambda: (told := reader.open(one)) and "Held now" in told and told)
    assert reader.send(page, 'value="extend"', seconds="604800").headers["location"] == f"{one}?done=extended"
    assert "in about 7 days" in reader.open(one)
    assert reader.send(page, 'value="extend"', act="sell").status_code == 422
    released = reader.send(page, 'value="release"', reason="upstream timeout")
    assert released.headers["location"] == f"{one}?done=released"
    after = reader.open(one)
    assert "Not open" in after and 'name="act"' not in after


def test_settled_holds_are_found_by_what_the_address_says(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    assert "No hold was settled yet" in reader.open(f"{HOLDS}/settled", is_part=True)
    ids = [placed(client, f"job-{number}") for number in range(PAGE_ROWS + 2)]
    for each in ids[1:]:
        assert client.post(f"/v1/holds/{each}/release", json={"reason": "upstream timeout"}).status_code == 200
    assert client.post(f"/v1/holds/{ids[0]}/capture").status_code == 200
    # What was settled last is the newest row, and comes to the history last.
    first = eventually(lambda: (told := reader.open(f"{HOLDS}/settled", is_part=True)) and "job-0<" in told and told)
    assert "upstream timeout" in first and "job-1<" not in first and first.count("<tr>") == PAGE_ROWS + 1
    # The way on is a page, which asks for the part that comes after, of what was asked for.
    captured = reader.open(f"{HOLDS}/settled?state=captured", is_part=True)
    assert "job-0<" in captured and "job-1<" not in captured and 'rel="next"' not in captured
    page = reader.open(f"{HOLDS}?state=released&customer_id=cus_9&job=job-0")
    for told in ("<option selected>released</option>", 'value="cus_9"', 'name="job" value="job-0"', "Show all"):
        assert told in page
    part = part_of(page)
    on = re.search(r'href="([^"]+)" rel="next"', reader.open(part, is_part=True))
    assert on is not None and "state=released&customer_id=cus_9" in html.unescape(on[1])
    after = reader.open(part_of(reader.open(html.unescape(on[1]))), is_part=True)
    assert "job-1<" in after and "job-2<" not in after and "The newest" in after
    for asked in ("state=expired", "customer_id=nobody", "to=2020-01-31"):
        assert "No settled hold is like this" in reader.open(f"{HOLDS}/settled?{asked}", is_part=True)
    today = datetime.now(UTC).date()
    both = f"from={today - timedelta(days=2)}&to={today + timedelta(days=1)}&state=captured"
    assert "job-0<" in reader.open(f"{HOLDS}/settled?{both}", is_part=True)
    reader.open(f"{HOLDS}/settled?state=open", 422, is_part=True)
    admin = DashboardReader(operator.url, stack.admin_key)
    assert "job-0<" in admin.open(f"{HOLDS}/settled?project={project}&state=captured", is_part=True)
    preview = f"{HOLDS}/settled?project={project}&environment=preview"
    assert "No hold was settled yet" in admin.open(preview, is_part=True)


def part_of(page: str) -> str:
    """The address of the settled holds that a page loads."""
    found = re.search(r'id="settled-holds" (?:hx-get|data-part)="([^"]+)"', page)
    assert found is not None
    return html.unescape(found[1])


def test_others_holds_are_behind_walls(operator: Operator) -> None:
    project, client = operator.customer("build")
    one = f"{HOLDS}/{placed(client, 'job')}"
    elsewhere = DashboardReader(operator.url, operator.key(operator.project("build"))["key"])
    assert "Not open" in elsewhere.open(one)
    eventually(lambda: "There is no decision" in elsewhere.http.get(f"{one}/story").text)
    preview = DashboardReader(operator.url, operator.key(project, "preview")["key"])
    assert "No credits are held in preview" in preview.open(HOLDS) and "Not open" in preview.open(one)
    production = DashboardReader(operator.url, operator.key(project)["key"])
    assert "This key sees the holds of production" in production.open(f"{HOLDS}?environment=preview", 403)
    assert "This key sees the holds of production" in production.open(f"{HOLDS}/settled?environment=preview", 403)
    blind = DashboardReader(operator.url, operator.key(project, scopes=["billing:read"])["key"])
    assert "has no scope" in blind.open(HOLDS, 403)
