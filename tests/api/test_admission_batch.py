"""POST /v1/admissions/batch: each request is decided by itself, at once, and answered in its place."""

import time
from datetime import datetime

import httpx
import pytest

from tests.calls import Operator
from tests.core.test_foreign import FAULTY

IMAGE = {"operation": "image"}


def batch(client: httpx.Client, *requests: object, **headers: str) -> list[dict]:
    answer = client.post("/v1/admissions/batch", json={"requests": requests}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"decisions"}
    return answer.json()["decisions"]


def test_each_is_decided_by_itself_and_a_bad_one_harms_nobody(operator: Operator) -> None:
    project, client = operator.customer()
    decisions = batch(
        client,
        {"operation": "website", "metadata": {"customer_id": "globex"}},
        IMAGE,
        {"operation": "hologram"},
        {"operation": "chat.message", "quantty": 2},
        "nonsense",
        {"operation": "chat.message", "project": "prj_other"},
        {"operation": "chat.message", "hold": True},
        {"operation": "chat.message", "idempotency_key": 7},
        {"operation": "chat.message"},
        {"operation": "social_post", "hold": True, "job_id": "job-1"},
    )
    assert [each["status"] for each in decisions] == [200, 402, 422, 422, 422, 403, 422, 422, 200, 200]
    assert [each.get("code") for each in decisions] == [
        None,
        "out_of_credits",
        "unknown_operation",
        "invalid_event",
        "invalid_event",
        "wrong_project",
        "missing_field",
        "invalid_event",
        None,
        None,
    ]
    admitted, refused, held = decisions[0], decisions[1], decisions[-1]
    assert (admitted["allowed"], admitted["project"], admitted["credits"]) == (True, project, "240")
    assert (refused["project"], refused["entry_id"].count("-")) == (project, 2)
    assert (held["credits"], held["hold_id"]) == ("5", held["entry_id"])
    assert decisions[3]["field"] == "quantty"
    assert client.get("/v1/balance").json()["available"] == "4"


def test_each_counts_as_one_request_and_the_call_as_none(operator: Operator) -> None:
    _, client = operator.customer(is_limited=True)
    began_at = time.time()
    answer = client.post("/v1/admissions/batch", json={"requests": [{"operation": "chat.message"}] * 4 + [{}]})
    rates = [each["rate"] for each in answer.json()["decisions"]]
    assert sorted(rate["remaining"] for rate in rates) == [25, 26, 27, 28, 29]
    assert all(rate["limit"] == 30 and "retry_after_seconds" not in rate for rate in rates)
    assert all(began_at + 59 < datetime.fromisoformat(rate["reset_at"]).timestamp() < began_at + 90 for rate in rates)
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("30", "25")
    assert client.get("/v1/balance").headers["x-ratelimit-remaining"] == "24"
    refused = client.post("/v1/admissions/batch", content=b'{"requests": 1}')
    assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (422, "23")

    decisions = batch(client, *[{"operation": "chat.message"}] * 60)
    assert [each["status"] for each in decisions].count(200) == 60 - 7
    limited = [each for each in decisions if each["status"] == 429]
    assert len(limited) == 7
    assert {each["code"] for each in limited} == {"rate_limited"}
    assert all(0 < each["rate"]["retry_after_seconds"] <= 60 and each["rate"]["remaining"] == 0 for each in limited)
    # A full window stops even a request that is not valid.
    assert [each["code"] for each in batch(client, {"operation": "hologram"})] == ["rate_limited"]


def test_keys_make_a_batch_safe_to_repeat(operator: Operator) -> None:
    _, client = operator.customer()
    requests = [IMAGE | {"idempotency_key": "mine"}, IMAGE, IMAGE]
    first = batch(client, *requests, **{"idempotency-key": "batch-1"})
    assert [each["status"] for each in first] == [200, 200, 200]
    again = batch(client, *requests, **{"idempotency-key": "batch-1"})
    assert [each["entry_id"] for each in again] == [each["entry_id"] for each in first]
    other = batch(client, {"operation": "content_plan", "idempotency_key": "mine"}, IMAGE)
    assert [each["status"] for each in other] == [409, 200]
    single = client.post("/v1/admissions", json=IMAGE, headers={"idempotency-key": "mine"})
    assert single.json()["entry_id"] == first[0]["entry_id"]
    assert client.get("/v1/balance").json()["available"] == str(250 - 4 * 32)


def test_a_hundred_can_spend_all_of_it_and_no_more(operator: Operator) -> None:
    _, client = operator.customer()
    decisions = batch(client, *[{"operation": "content_plan"}] * 100)
    statuses = [each["status"] for each in decisions]
    assert (statuses.count(200), statuses.count(402)) == (25, 75)
    assert client.get("/v1/balance").json()["available"] == "0"


@pytest.mark.parametrize("name", FAULTY)
def test_a_request_that_is_no_json_is_refused_by_itself(operator: Operator, name: str) -> None:
    _, client = operator.customer()
    body = b'{"requests": [{"operation": "image"},' + FAULTY[name] + b',{"operation": "chat.message"}]}'
    decisions = client.post("/v1/admissions/batch", content=body).json()["decisions"]
    assert [each["status"] for each in decisions] in ([200, 400, 200], [200, 422, 200])
    assert client.get("/v1/balance").json()["available"] == str(250 - 33)


def test_an_admin_key_may_name_several_projects(operator: Operator) -> None:
    one, one_client = operator.customer(is_limited=True)
    two, _ = operator.customer("build")
    premium = {"operation": "video", "tier": "premium"}
    decisions = batch(
        operator.http,
        premium | {"project": one},
        premium | {"project": two},
        {"operation": "image", "project": "prj_ghost"},
        IMAGE,
    )
    assert [each["status"] for each in decisions] == [402, 200, 404, 422]
    assert [each.get("project") for each in decisions] == [one, two, None, None]
    assert decisions[0]["rate"]["limit"] == 30
    assert one_client.get("/v1/balance").headers["x-ratelimit-remaining"] == "28"


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "malformed_json", None),
        (b"{}", 422, "missing_field", "requests"),
        (b'{"requests": []}', 422, "invalid_request", "requests"),
        (b'{"requests": [' + b"{}," * 100 + b"{}]}", 422, "invalid_request", "requests"),
        (b'{"requests": [{}], "more": 1}', 422, "invalid_event", "more"),
        (b'{"requests": [{}]', 400, "malformed_json", None),
        (b'{"requests": [{}]}}', 400, "malformed_json", None),
        (b'{"requests": ' + b"[" * 10_000, 400, "malformed_json", None),
        (b'{"requests": ' + b"[{}," * 10_000, 400, "malformed_json", None),
        (b'{"requests": {}}', 422, "invalid_request", "requests"),
        (b'{"re\\u0071uests": [' + b"{}," * 100 + b"{}]}", 422, "invalid_request", "requests"),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(
    operator: Operator, body: bytes, status: int, code: str, field: str
) -> None:
    answer = operator.http.post("/v1/admissions/batch", content=body)
    assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (status, code, field)


def test_a_key_without_the_scope_is_refused_as_a_whole(operator: Operator) -> None:
    project, _ = operator.customer()
    reader = operator.client(operator.key(project, scopes=["content:read"])["key"])
    answer = reader.post("/v1/admissions/batch", json={"requests": [IMAGE]})
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
