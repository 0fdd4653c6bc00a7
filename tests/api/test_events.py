"""POST /v1/events takes one event or a batch; each kind of bad event is refused, and its neighbours are not."""

import gzip
import json

import pytest

from tests.calls import Operator, event, eventually

BATCH = {"content-type": "application/cloudevents-batch+json"}


def test_single_and_batch_are_charged(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    single = client.post(
        "/v1/events", content=json.dumps(event(project, "1")), headers={"content-type": "application/cloudevents+json"}
    )
    assert (single.status_code, single.json()) == (202, {"accepted": 1, "rejected": 0, "errors": []})
    batch = [event(project, str(n), "translation", target_languages=4) for n in range(2, 12)]
    assert client.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["accepted"] == 10
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - 1 - 280))


def test_the_same_batch_sent_twice_bills_once(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    batch = json.dumps([event(project, str(n), "image") for n in range(20)])
    for _ in range(2):
        assert client.post("/v1/events", content=batch, headers=BATCH).status_code == 202
    marker = event(project, "last")
    client.post("/v1/events", json=marker)
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - 20 * 32 - 1))


def test_bad_events_are_named_and_their_neighbours_charged(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    bad = {
        "unknown_operation": event(project, "b1", "hologram"),
        "invalid_quantity": event(project, "b2", quantity=-5),
        "missing_id": {k: v for k, v in event(project, "b3").items() if k != "id"},
        "time_out_of_range": event(project, "b4") | {"time": "1999-01-01T00:00:00Z"},
        "metadata_too_large": event(project, "b5", metadata={"blob": "x" * 1_000_000}),
        "wrong_project": event("prj_of_somebody_else", "b6"),
        "invalid_event": event(project, "b7", quantty=1),
    }
    batch = []
    for number, document in enumerate(bad.values()):
        batch += [event(project, f"good-{number}"), document]
    response = client.post("/v1/events", content=json.dumps(batch), headers=BATCH)
    assert response.status_code == 202
    answer = response.json()
    assert (answer["accepted"], answer["rejected"]) == (len(bad), len(bad))
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (2 * number + 1, code) for number, code in enumerate(bad)
    ]
    assert answer["errors"][0]["id"] == "b1"
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - len(bad)))


def test_a_batch_of_bad_events_alone_is_a_422_that_names_them(operator: Operator) -> None:
    project, client = operator.customer()
    response = client.post("/v1/events", content=json.dumps([event(project, "1", "hologram")]), headers=BATCH)
    problem = response.json()
    assert (response.status_code, problem["code"], problem["errors"][0]["index"]) == (422, "unknown_operation", 0)


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b'[{"id": ', "application/cloudevents-batch+json", 400, "malformed_json"),
        (b"", "application/json", 400, "malformed_json"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"x" * (4 * 1024 * 1024 + 1), "application/json", 413, "body_too_large"),
        (b"[" + b",".join([b"{}"] * 1001) + b"]", "application/json", 413, "too_many_events"),
    ],
)
def test_bad_requests(operator: Operator, content: bytes, content_type: str, status: int, code: str) -> None:
    _, client = operator.customer()
    response = client.post("/v1/events", content=content, headers={"content-type": content_type})
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_body_that_does_not_say_its_length_is_bounded_too(operator: Operator) -> None:
    _, client = operator.customer()
    chunks = (b"[" + b" " * 65_536 for _ in range(100))
    response = client.post("/v1/events", content=chunks, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_an_admin_key_may_send_for_any_project_and_an_unknown_one_is_dead_lettered(operator: Operator, stack) -> None:
    one, one_client = operator.customer()
    two, two_client = operator.customer()
    ghost = f"ghost_{one}"
    batch = [event(one, "1"), event(ghost, "2"), event(two, "3")]
    assert operator.http.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["accepted"] == 3
    eventually(lambda: one_client.get("/v1/balance").json()["available"] == "249")
    eventually(lambda: two_client.get("/v1/balance").json()["available"] == "249")
    sql = f"SELECT code FROM dead_letters WHERE event LIKE '%{ghost}%'"
    assert eventually(lambda: operator.rows(stack.clickhouse_url, sql)) == [["unknown_project"]]


def test_one_event_in_binary_mode_is_charged(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "caf%C3%A9",
        "ce-source": "/sdk",
        "ce-type": "usage",
        "ce-subject": project,
        "content-type": "application/json",
    }
    for _ in range(2):
        assert client.post("/v1/events", content=b'{"operation":"image"}', headers=headers).status_code == 202
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - 32))
    for wrong, status, code in (
        ({"ce-subject": "prj_of_somebody_else"}, 403, "wrong_project"),
        ({"ce-id": "%ff"}, 422, "invalid_event"),
        ({"ce-time": "2026-W01"}, 422, "time_out_of_range"),
        ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
    ):
        answer = client.post("/v1/events", content=b'{"operation":"image"}', headers=headers | wrong)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_packed_body_is_unpacked_within_bounds(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    whole = json.dumps([event(project, f"z{number}", "image") for number in range(5)]).encode()
    packed = {**BATCH, "content-encoding": "gzip"}
    for body in (gzip.compress(whole), gzip.compress(whole[:100]) + gzip.compress(whole[100:])):
        assert client.post("/v1/events", content=body, headers=packed).json()["accepted"] == 5
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - 5 * 32))
    admitted = client.post(
        "/v1/admissions", content=gzip.compress(b'{"operation": "image"}'), headers={"content-encoding": "GZIP"}
    )
    assert admitted.status_code == 200
    for body, status, code in (
        (gzip.compress(whole)[:-9], 400, "unreadable_body"),
        (whole, 400, "unreadable_body"),
        (b"", 400, "unreadable_body"),
        (gzip.compress(whole) + b"more", 400, "unreadable_body"),
        (gzip.compress(b" " * 100_000_000), 413, "body_too_large"),
    ):
        answer = client.post("/v1/events", content=body, headers=packed)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    for coding in ("br", "zstd", "deflate", "gzip, gzip", "gzip, br"):
        answer = client.post("/v1/events", content=whole, headers={**BATCH, "content-encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
        assert answer.headers["accept-encoding"] == "gzip, identity"
    plain = client.post("/v1/events", content=whole, headers={**BATCH, "content-encoding": "identity"})
    assert plain.status_code == 202
