"""Holds by HTTP, followed as far as ClickHouse: jobs are queued, captured, released, extended, and expire."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from tests.calls import Operator, event, eventually


def hold(client: httpx.Client, job: str, operation: str = "image", **more: object) -> httpx.Response:
    return client.post("/v1/admissions", json={"operation": operation, "hold": True, "job_id": job, **more})


def balance(client: httpx.Client) -> tuple[str, str]:
    answer = client.get("/v1/balance").json()
    return answer["available"], answer["held"]


def entries(client: httpx.Client) -> list[tuple[str, str, str, str]]:
    return [
        (entry["kind"], entry["operation"], entry["amount"], entry["job_id"])
        for entry in client.get("/v1/ledger").json()["entries"]
    ]


def test_a_job_holds_its_credits_and_is_charged_once(operator: Operator) -> None:
    _, client = operator.customer("free")
    first = hold(client, "job-1", "blog_post")
    assert (first.status_code, first.json()["credits"], first.json()["available"]) == (200, "60", "190")
    hold_id = first.json()["hold_id"]
    assert balance(client) == ("190", "60")
    # A server-side retry queues it again: it is the same job.
    again = hold(client, "job-1", "blog_post").json()
    assert (again["already_decided"], again["hold_id"], again["credits"]) == (True, hold_id, "0")
    assert client.get("/v1/holds").json()["holds"][0]["job_id"] == "job-1"
    captured = [client.post(f"/v1/holds/{hold_id}/capture").json() for _ in range(3)]
    assert captured == [captured[0]] * 3
    assert (captured[0]["credits"], captured[0]["available"]) == ("60", "190")
    assert balance(client) == ("190", "0")
    later = hold(client, "job-1", "blog_post").json()
    assert (later["already_decided"], "hold_id" in later) == (True, False)
    eventually(lambda: entries(client)[:1] == [("charge", "blog_post", "-60", "job-1")])
    assert [entry[0] for entry in entries(client)] == ["charge", "grant"]


def test_too_little_is_refused_at_once_and_nothing_starts(operator: Operator) -> None:
    _, client = operator.customer("free")
    assert hold(client, "a", "website").status_code == 200
    refused = hold(client, "b", "image")
    assert (refused.status_code, refused.json()["code"]) == (402, "out_of_credits")
    assert client.post("/v1/admissions", json={"operation": "image"}).status_code == 402, "held is not available"
    assert len(client.get("/v1/holds").json()["holds"]) == 1


def test_a_social_posts_media_is_a_second_entry_on_the_same_job(operator: Operator) -> None:
    _, client = operator.customer("free")
    answer = hold(client, "post", "social_post", media_type="image").json()
    assert answer["credits"] == "37"
    client.post(f"/v1/holds/{answer['hold_id']}/capture")
    eventually(lambda: len(entries(client)) == 3)
    assert entries(client)[:2] == [
        ("charge", "social_post.image", "-32", "post"),
        ("charge", "social_post.text", "-5", "post"),
    ]


def test_a_part_is_captured_and_the_rest_is_given_back(operator: Operator) -> None:
    _, client = operator.customer("free")
    hold_id = hold(client, "post", "social_post", media_type="image").json()["hold_id"]
    url = f"/v1/holds/{hold_id}/capture"
    too_much = client.post(url, json={"credits": "37.000001"})
    assert (too_much.status_code, too_much.json()["code"]) == (422, "invalid_request")
    answer = client.post(url, json={"credits": "5"})
    assert (answer.json()["credits"], answer.json()["available"]) == ("5", "245")
    assert balance(client) == ("245", "0")


def test_a_job_that_failed_is_released(operator: Operator) -> None:
    _, client = operator.customer("free")
    hold_id = hold(client, "job").json()["hold_id"]
    answer = client.post(f"/v1/holds/{hold_id}/release", json={"reason": "upstream timeout"})
    assert (answer.status_code, answer.json()["credits"], answer.json()["available"]) == (200, "32", "250")
    gone = client.post(f"/v1/holds/{hold_id}/capture")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_hold")
    assert balance(client) == ("250", "0")


def test_a_hold_that_nobody_resolves_expires_by_itself(operator: Operator) -> None:
    _, client = operator.customer("free")
    soon, later = (hold(client, job, hold_seconds=1).json()["hold_id"] for job in ("soon", "later"))
    answer = client.post(f"/v1/holds/{later}/extend", json={"seconds": 600})
    assert (answer.status_code, answer.json()["outcome"]) == (200, "extended")
    # Nobody touches the project: the worker's tick books the expiry, and history has it.
    account = "SELECT count() FROM facts WHERE kind = 'release' AND reason = 'expired' AND job_id = 'soon'"
    project = client.get("/v1/projects/me").json()["project"]
    eventually(lambda: operator.rows(operator.clickhouse_url, f"{account} AND project = '{project}'") == [["1"]])
    assert [each["hold_id"] for each in client.get("/v1/holds").json()["holds"]] == [later]
    assert client.post(f"/v1/holds/{soon}/capture").json()["code"] == "unknown_hold"
    assert balance(client) == ("218", "32")


def test_the_event_of_a_held_job_is_not_billed_again(operator: Operator) -> None:
    project, client = operator.customer("free")
    hold_id = hold(client, "job", source="/tests", id="e1").json()["hold_id"]
    client.post(f"/v1/holds/{hold_id}/capture")
    sent = client.post(
        "/v1/events",
        json=event(project, "e1", "image", job_id="job"),
        headers={"content-type": "application/cloudevents+json"},
    )
    assert sent.status_code == 202
    sql = f"SELECT kind, count() FROM facts WHERE project = '{project}' AND event_id = 'e1' GROUP BY kind ORDER BY kind"
    eventually(
        lambda: operator.rows(operator.clickhouse_url, sql) == [["charge", "1"], ["duplicate", "1"], ["hold", "1"]]
    )
    assert balance(client) == ("218", "0")


def test_a_preview_key_resolves_no_production_hold(operator: Operator) -> None:
    project, client = operator.customer("free")
    hold_id = hold(client, "job").json()["hold_id"]
    preview = operator.client(operator.key(project, "preview")["key"])
    assert preview.get("/v1/holds").json()["holds"] == []
    assert preview.post(f"/v1/holds/{hold_id}/capture").json()["code"] == "unknown_hold"
    _, stranger = operator.customer("free")
    assert stranger.post(f"/v1/holds/{hold_id}/capture").json()["code"] == "unknown_hold"
    assert client.post(f"/v1/holds/{hold_id}/capture").status_code == 200


def test_settled_holds_are_listed_by_state_customer_and_page(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, client = operator.customer("hobby")
    preview = operator.client(operator.key(project, "preview")["key"])
    whose = {job: {"metadata": {"customer_id": f"c-{job}"}} for job in ("whole", "part", "failed", "late")}
    ids = {job: hold(client, job, **more).json()["hold_id"] for job, more in whose.items() if job != "late"}
    ids["late"] = hold(client, "late", hold_seconds=1, **whose["late"]).json()["hold_id"]
    client.post(f"/v1/holds/{ids['whole']}/capture")
    client.post(f"/v1/holds/{ids['part']}/capture", json={"credits": "12.5"})
    client.post(f"/v1/holds/{ids['failed']}/release", json={"reason": "upstream timeout"})

    def settled(**asked: object) -> list[dict]:
        answer = client.get("/v1/holds/settled", params=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["holds"]

    every = eventually(lambda: len(found := settled()) == 4 and found)
    told = {each["job_id"]: (each["hold_id"], each["state"], each["captured"], each["given_back"]) for each in every}
    assert told == {
        "whole": (ids["whole"], "captured", "32", "0"),
        "part": (ids["part"], "captured", "12.5", "19.5"),
        "failed": (ids["failed"], "released", "0", "32"),
        "late": (ids["late"], "expired", "0", "32"),
    }
    assert [each["settled_at"] for each in every] == sorted((each["settled_at"] for each in every), reverse=True)
    assert {(each["credits"], each["operation"], each["environment"]) for each in every} == {
        ("32", "image", "production")
    }
    assert all(each["customer_id"] == f"c-{each['job_id']}" and each["held_at"] < each["settled_at"] for each in every)
    for state in ("captured", "released", "expired"):
        assert settled(state=state) == [each for each in every if each["state"] == state]
    for each in every:
        assert settled(customer_id=each["customer_id"]) == [each]
    assert settled(to=every[0]["settled_at"]) == [each for each in every if each["settled_at"] < every[0]["settled_at"]]
    # From page to page, also by the command.
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    paged, cursor = [], None
    while not paged or cursor:
        more = ["--cursor", cursor] if cursor else []
        done = CliRunner().invoke(app, ["holds", "settled", project, "--limit", "3", "--json", *more])
        page = json.loads(done.stdout)
        paged, cursor = paged + page["holds"], page["next_cursor"]
    assert paged == every
    shown = CliRunner().invoke(app, ["holds", "settled", project, "--state", "released", "--customer", "c-failed"])
    assert ids["failed"] in shown.stdout and ids["whole"] not in shown.stdout, shown.output
    # A key sees its own environment; and what is wrong is named.
    assert preview.get("/v1/holds/settled").json()["holds"] == []
    assert client.get("/v1/holds/settled", params={"environment": "preview"}).json()["code"] == "wrong_environment"
    for asked, field in (
        ({"cursor": "bm9uc2Vuc2U"}, "cursor"),
        ({"state": "open"}, "query.state"),
        ({"from": "2026-03-01T00:00"}, "from"),
    ):
        refused = client.get("/v1/holds/settled", params=asked)
        assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"operation": "image", "hold": True}, "job_id"),
        ({"operation": "image", "hold_seconds": 5}, "hold_seconds"),
        ({"operation": "image", "hold": True, "job_id": "j", "hold_seconds": 0}, "hold_seconds"),
    ],
)
def test_what_makes_no_hold_names_its_field(operator: Operator, body: dict, field: str) -> None:
    _, client = operator.customer("free")
    answer = client.post("/v1/admissions", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
