"""Waits through HTTP: `Retry-After` is the second in which the same request passes, and each repeat is a request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.calls import Operator

IMAGE = {"operation": "image"}


def set_limits(operator: Operator, project: str, **limits: object) -> None:
    answer = operator.http.put(f"/v1/admin/projects/{project}/limits", json=limits)
    assert answer.status_code == 200, answer.text


def raise_from(operator: Operator, project: str, starts_at: float) -> None:
    """Raise a project's limits from a time on, for an hour."""
    times = {"starts_at": starts_at, "ends_at": starts_at + 3_600}
    body = {name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in times.items()}
    answer = operator.http.post(
        f"/v1/admin/projects/{project}/limit-raises", json={"requests_per_minute": 900, "reason": "launch", **body}
    )
    assert answer.status_code == 201, answer.text


def retry_after(answer: httpx.Response) -> int:
    assert answer.status_code == 429, answer.text
    return int(answer.headers["retry-after"])


def test_a_request_that_costs_something_waits_for_the_ceiling_and_a_free_one_does_not(operator: Operator) -> None:
    project, client = operator.customer(is_limited=True)
    set_limits(operator, project, requests_per_minute=2, burst=2, cost_ceiling="40")
    assert client.post("/v1/admissions", json={"operation": "read"}).status_code == 200
    time.sleep(3)
    kept = {"idempotency-key": "kept"}
    assert client.post("/v1/admissions", json=IMAGE, headers=kept).status_code == 200
    # The first of them is refused by the project's owner, or by the API itself; the others are by the API.
    for _ in range(3):
        paid = retry_after(client.post("/v1/admissions", json=IMAGE))
        free = retry_after(client.post("/v1/admissions", json={"operation": "read"}))
        assert 55 <= paid <= 60 and paid - free in (2, 3, 4)
        job = {**IMAGE, "hold": True, "job_id": "j"}
        assert paid - retry_after(client.post("/v1/admissions", json=job)) in (0, 1)
        dear = retry_after(client.post("/v1/admissions", json={**IMAGE, "quantity": 2}))
        assert free - dear in (0, 1), "no wait helps what is above the ceiling"
        assert free - retry_after(client.get("/v1/balance")) in (0, 1)
        assert free - retry_after(client.post("/v1/admissions", json=IMAGE, headers=kept)) in (0, 1)
        items = client.post("/v1/admissions/batch", json={"requests": [IMAGE, {"operation": "read"}]}).json()
        waits = [each["rate"]["retry_after_seconds"] for each in items["decisions"]]
        assert (paid - waits[0] in (0, 1), free - waits[1] in (0, 1)) == (True, True)


def _status_in_batch(client: httpx.Client) -> tuple[int, int]:
    answer = client.post("/v1/admissions/batch", json={"requests": [IMAGE]}).json()["decisions"][0]
    return answer["status"], answer["rate"].get("retry_after_seconds", 0)


def _status(method: str, path: str, **options: Any) -> Callable[[httpx.Client], tuple[int, int]]:
    def ask(client: httpx.Client) -> tuple[int, int]:
        answer = client.request(method, path, **options)
        return answer.status_code, int(answer.headers.get("retry-after", 0))

    return ask


@pytest.mark.parametrize(
    "ask",
    [
        _status("POST", "/v1/admissions", json=IMAGE),
        _status("POST", "/v1/admissions", json=IMAGE, headers={"idempotency-key": "again"}),
        _status("GET", "/v1/balance"),
        _status_in_batch,
    ],
    ids=["admission", "under a key", "reading", "of a batch"],
)
def test_who_waits_as_long_as_it_is_told_passes_and_not_earlier(
    operator: Operator, ask: Callable[[httpx.Client], tuple[int, int]]
) -> None:
    project, client = operator.customer(is_limited=True)
    set_limits(operator, project, requests_per_minute=1, burst=1)
    starts_at = round(time.time() + 5, 3)
    raise_from(operator, project, starts_at)
    assert client.get("/v1/balance").status_code == 200
    for _ in range(3):
        sent_at = time.time()
        status, seconds = ask(client)
        told_at = time.time()
        assert status == 429
        assert math.ceil(starts_at - told_at) <= seconds <= math.ceil(starts_at - sent_at)
        time.sleep(0.4)
    time.sleep(max(0.0, starts_at - 0.4 - time.time()))
    assert ask(client)[0] == 429
    time.sleep(max(0.0, told_at + seconds - time.time()))
    assert ask(client)[0] == 200


def test_150_repeats_under_one_key_on_the_free_plan_meet_429_as_other_requests_do(operator: Operator) -> None:
    project, client = operator.customer(is_limited=True)
    headers = {"idempotency-key": "once"}
    answers = [client.post("/v1/admissions", json=IMAGE, headers=headers) for _ in range(150)]
    assert [each.status_code for each in answers] == [200] * 60 + [429] * 90
    assert len({each.text for each in answers[:60]}) == 1
    left = [int(each.headers["x-ratelimit-remaining"]) for each in answers]
    assert left == [max(0, 29 - number) for number in range(150)]
    assert all(0 < retry_after(each) <= 60 for each in answers[60:])
    raise_from(operator, project, time.time())
    late = client.post("/v1/admissions", json=IMAGE, headers=headers)
    assert (late.status_code, late.text) == (200, answers[0].text)
    reused = client.post("/v1/admissions", json={"operation": "read"}, headers=headers)
    assert reused.status_code == 409
    assert int(late.headers["x-ratelimit-remaining"]) - int(reused.headers["x-ratelimit-remaining"]) == 1
    assert client.get("/v1/balance").json()["available"] == "218"


def test_repeats_in_batches_are_requests_too(operator: Operator) -> None:
    _, client = operator.customer(is_limited=True)
    body = {"requests": [{**IMAGE, "idempotency_key": "same"}] * 40}
    first, second = (client.post("/v1/admissions/batch", json=body).json()["decisions"] for _ in range(2))
    assert [each["status"] for each in first] == [200] * 40
    assert sorted(each["status"] for each in second) == [200] * 20 + [429] * 20
    assert len({each["entry_id"] for each in first + second if each["status"] == 200}) == 1
    assert sorted(each["rate"]["remaining"] for each in first) == [0] * 11 + list(range(1, 30))
    assert {each["rate"]["remaining"] for each in second} == {0}
