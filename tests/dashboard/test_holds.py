"""Holds on the dashboard: what is held, one hold with its acts, and walls between projects and environments."""

from __future__ import annotations

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
    assert "captured job image 20" in settled, settled


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
    blind = DashboardReader(operator.url, operator.key(project, scopes=["billing:read"])["key"])
    assert "has no scope" in blind.open(HOLDS, 403)
