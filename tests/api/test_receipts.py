"""GET /v1/receipts on the whole stack: any id that an answer gave can be explained."""

import asyncio
import json
import socket
import time

import httpx
import pytest

from api.answers import UNDECIDED_OF_A_CALLER_MAX
from api.cli.explain import explain_text
from api.stack import Stack
from schemas.commands import Admit
from streams.client.kafka_producer import KafkaProducer
from tests.calls import Operator, event, eventually
from tests.command_line import Meterline
from tests.core.builders import usage
from tests.intake import decide

BATCH = {"content-type": "application/cloudevents-batch+json"}


def receipt(client: httpx.Client, entry_id: str) -> dict:
    response = client.get(f"/v1/receipts/{entry_id}")
    assert response.status_code == 200, response.text
    return response.json()


def test_a_200_and_a_402_explain_themselves_right_after(operator: Operator) -> None:
    project, client = operator.customer()
    body = {"operation": "website", "source": "/shop", "id": "order-1", "metadata": {"customer_id": "acme"}}
    charged = receipt(client, client.post("/v1/admissions", json=body).json()["entry_id"])
    assert (charged["outcome"], charged["project"]) == ("charged", project)
    assert charged["summary"] == "Charged 240 credits for website (1 × 240 = 240)"
    assert charged["price"]["version"] == client.get("/v1/prices").json()["version"]
    assert charged["inputs"] | {"key_id": "", "occurred_at": "", "booked_at": ""} == {
        "operation": "website",
        "surcharge": "",
        "quantity": 1,
        "environment": "production",
        "source": "/shop",
        "event_id": "order-1",
        "job_id": "",
        "key_id": "",
        "metadata": {"customer_id": "acme"},
        "occurred_at": "",
        "booked_at": "",
    }
    assert charged["inputs"]["key_id"].startswith("key_")
    assert (charged["before"]["available"], charged["after"]["available"]) == ("250", "10")
    assert [(grant["kind"], grant["amount"]) for grant in charged["grants"]] == [("allowance", "-240")]

    refused = receipt(client, client.post("/v1/admissions", json={"operation": "image"}).json()["entry_id"])
    assert refused["summary"] == "Refused: image costs 32 credits; 10 were available"
    assert (refused["refusal"]["status"], refused["refusal"]["code"]) == (402, "out_of_credits")
    assert refused["grants"] == []

    premium = client.post("/v1/admissions", json={"operation": "video", "tier": "premium"}).json()["entry_id"]
    reason = receipt(client, premium)["refusal"]
    assert (reason["plan"], reason["needed_plan"]) == ("free", "build")


def test_only_its_own_project_sees_it(operator: Operator) -> None:
    project, client = operator.customer()
    _, stranger = operator.customer()
    entry_id = client.post("/v1/admissions", json={"operation": "image"}).json()["entry_id"]
    assert receipt(client, entry_id)["project"] == project
    hidden = stranger.get(f"/v1/receipts/{entry_id}")
    assert (hidden.status_code, hidden.json()["code"]) == (404, "unknown_receipt")
    named = stranger.get(f"/v1/receipts/{entry_id}", params={"project": project})
    assert (named.status_code, named.json()["code"]) == (403, "wrong_project")
    assert receipt(operator.http, entry_id)["project"] == project
    assert client.get("/v1/receipts/99999999-1-1").status_code == 404
    assert operator.client(None).get(f"/v1/receipts/{entry_id}").status_code == 401


def test_an_id_that_never_comes_is_given_up_in_time(operator: Operator) -> None:
    _, client = operator.customer()
    began_at = time.monotonic()
    assert client.get("/v1/receipts/0-99999999-0").json()["code"] == "unknown_receipt"
    assert time.monotonic() - began_at < 10


def test_what_an_operator_did_has_a_receipt_too(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    base = f"/v1/admin/projects/{project}"
    bundle = operator.http.post(f"{base}/top-ups", json={"bundle_usd": 20, "reference": "inv-1"}).json()
    granted = receipt(client, bundle["entry_id"])
    assert granted["summary"] == "Granted a bundle of 4000 credits to production, for $20.00"
    assert granted["inputs"]["metadata"] == {"reference": "inv-1"}
    operator.http.put(f"{base}/plan", json={"plan": "build"})
    entries = eventually(lambda: [e for e in client.get("/v1/ledger").json()["entries"] if e["amount"] == "20000"])
    upgraded = receipt(client, entries[0]["entry_id"])
    assert upgraded["outcome"] == "plan changed"
    assert "On plan build from" in upgraded["summary"] and "20000 credits granted" in upgraded["summary"]
    grant_id = client.get("/v1/balance").json()["top_ups"][0]["grant_id"]
    refund = operator.http.post(f"{base}/refunds", json={"grant_id": grant_id}).json()
    assert receipt(client, refund["entry_id"])["summary"].endswith("for $20.00 given back")


def test_a_held_job_and_what_it_kept(operator: Operator, stack: Stack) -> None:
    project, client = operator.customer()
    used = usage("job-1", project, "image", job_id="job-1", occurred_at_ms=time.time_ns() // 1_000_000)
    ((reply, _),) = decide(stack.settings, lambda asked: Admit(project=project, usage=used, hold_seconds=60, **asked))
    held = receipt(client, reply.entry_id)
    assert (held["outcome"], held["hold_id"], held["price"]["total"]) == ("held", reply.entry_id, "32")
    assert held["before"] == {"balance": "250", "held": "0", "available": "250"}
    assert held["after"] == {"balance": "250", "held": "32", "available": "218"}


def test_all_that_is_known_of_an_event_and_why_another_was_never_billed(operator: Operator) -> None:
    project, client = operator.customer()
    batch = [
        event(project, "twice", "image"),
        event(project, "twice", "image"),
        event(project, "never", "hologram"),
    ]
    assert client.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["rejected"] == 1

    def decisions(asking: httpx.Client, **parameters: str) -> dict:
        response = asking.get("/v1/receipts", params={"event_id": "twice", "source": "/tests", **parameters})
        assert response.status_code == 200, response.text
        return response.json()

    found = eventually(lambda: len((known := decisions(client))["decisions"]) == 2 and known)
    assert [each["outcome"] for each in found["decisions"]] == ["charged", "duplicate"]
    assert (found["dead_letters"], found["is_complete"]) == (None, True)
    repeat = receipt(client, found["decisions"][1]["id"])
    assert repeat["first_decision"] == found["decisions"][0]["id"]
    assert found["decisions"][0]["id"] in explain_text(repeat)
    assert decisions(client, source="/elsewhere")["decisions"] == []
    assert decisions(operator.http, project=project)["dead_letters"] == []
    _, stranger = operator.customer()
    assert decisions(stranger)["decisions"] == []


def test_a_dead_letter_is_found_by_its_events_id(operator: Operator, stack: Stack) -> None:
    """A bad event is refused at once over HTTP; on the usage topic it becomes a dead letter."""
    project = operator.project()

    async def send() -> None:
        async with KafkaProducer(stack.settings) as producer:
            for text in (json.dumps(event(project, "lost-1", "hologram")).encode(), b'{"id": "lost-1", broken'):
                await producer.send(text)
                await producer.flush()

    asyncio.run(send())

    def found() -> list:
        answer = operator.http.get("/v1/receipts", params={"event_id": "lost-1"}).json()
        return len(answer["dead_letters"]) == 2 and answer["dead_letters"]

    codes = {letter["code"] for letter in eventually(found)}
    assert codes == {"unknown_operation", "malformed_json"}


def test_a_429_explains_itself(operator: Operator) -> None:
    project, client = operator.customer("free", is_limited=True)
    # Those of a batch are decided together, so the last one is refused by the owner: the API does not know yet.
    batch = {"requests": [{"operation": "read"}] * 61}
    answers = client.post("/v1/admissions/batch", json=batch).json()["decisions"]
    (limited,) = [answer for answer in answers if answer["status"] == 429]
    assert limited["detail"].startswith("Rate limit exceeded for project")
    operator.lift_limits(project)
    # The API follows the owner by some milliseconds.
    eventually(lambda: client.get("/v1/balance").status_code == 200)
    found = receipt(client, limited["entry_id"])
    assert (found["refusal"]["code"], found["refusal"]["status"]) == ("rate_limited", 429)
    assert "30 a minute and 60 at once" in found["refusal"]["detail"]
    assert found["grants"] == []


def test_a_receipt_of_what_the_api_refused_says_how_many_and_when(operator: Operator) -> None:
    project, client = operator.customer("free", is_limited=True)
    client.post("/v1/admissions/batch", json={"requests": [{"operation": "read"}] * 60})
    assert {client.get("/v1/balance").status_code for _ in range(7)} == {429}
    sql = "SELECT concat(toString(partition), '-', toString(offset), '-', toString(position)) FROM facts"
    where = f"WHERE project = '{project}' AND reason = 'limited_at_edge' ORDER BY booked_at"
    rows = eventually(lambda: operator.rows(operator.clickhouse_url, f"{sql} {where}"))
    operator.lift_limits(project)
    eventually(lambda: client.get("/v1/balance").status_code == 200)
    found = receipt(client, rows[0][0])
    assert (found["outcome"], found["refusal"]["code"], found["refusal"]["status"]) == ("refused", "rate_limited", 429)
    many = found["inputs"]["quantity"]
    assert 1 <= many <= 7
    assert found["refusal"]["detail"].startswith(f"{many} requests between ")
    assert found["refusal"]["detail"].endswith("were above what is allowed, 30 a minute and 60 at once")


def answer_of(client: httpx.Client, request_id: str, **parameters: str) -> dict:
    response = client.get(f"/v1/receipts/{request_id}", params=parameters)
    assert response.status_code == 200, response.text
    (answer,) = response.json()["answers"]
    return answer


# What is refused, by its status; whether an owner decided on it; and how it is asked for with a project's key.
REFUSALS = [
    (402, "out_of_credits", True, ("POST", "/v1/admissions", {"operation": "website", "quantity": 2})),
    (402, "plan_required", True, ("POST", "/v1/admissions", {"operation": "video", "tier": "premium"})),
    (404, "unknown_hold", False, ("POST", "/v1/holds/0-1-0/capture", {})),
    (404, "not_found", False, ("GET", "/v1/nowhere", None)),
    (405, "method_not_allowed", False, ("DELETE", "/v1/balance", None)),
    (403, "missing_scope", False, ("GET", "/v1/admin/projects", None)),
    (403, "wrong_project", False, ("GET", "/v1/balance?project=another", None)),
    (406, "not_acceptable", False, ("GET", "/v1/usage?from=2026-01-01T00:00:00Z", None)),
    (422, "invalid_request", False, ("GET", "/v1/balance?colour=red", None)),
    (422, "unknown_operation", False, ("POST", "/v1/admissions", {"operation": "hologram"})),
]


@pytest.mark.parametrize(("status", "code", "is_decided", "asked"), REFUSALS, ids=[each[1] for each in REFUSALS])
def test_the_id_of_a_refused_request_leads_to_why(
    operator: Operator, status: int, code: str, is_decided: bool, asked: tuple[str, str, dict | None]
) -> None:
    project, client = operator.customer()
    method, url, body = asked
    refused = client.request(method, url, json=body, headers={"accept": "image/png"} if status == 406 else {})
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
    request_id = refused.headers["x-request-id"]
    for who in (client, operator.http):
        answer = answer_of(who, request_id)
        assert (answer["status"], answer["code"], answer["project"]) == (status, code, project)
        assert answer["problem"] == refused.json()
        assert bool(answer["entry_ids"]) == is_decided
        assert answer["operation"].startswith(f"{method} ")
    for entry_id in answer["entry_ids"]:
        assert receipt(client, entry_id)["refusal"]["code"] == code
    _, stranger = operator.customer()
    hidden = stranger.get(f"/v1/receipts/{request_id}")
    assert (hidden.status_code, hidden.json()["code"]) == (404, "unknown_receipt")


def test_a_conflict_and_a_full_window_lead_to_why_too(operator: Operator) -> None:
    project, client = operator.customer("free", is_limited=True)
    first, second = (
        client.post("/v1/admissions", json={"operation": name}, headers={"idempotency-key": "one"})
        for name in ("image", "website")
    )
    assert (first.status_code, second.status_code) == (200, 409)
    full = client.post("/v1/admissions/batch", json={"requests": [{"operation": "read"}] * 60})
    limited = [client.get("/v1/balance") for _ in range(UNDECIDED_OF_A_CALLER_MAX + 5)]
    assert {each.status_code for each in limited} == {429}
    operator.lift_limits(project)
    eventually(lambda: client.get("/v1/balance").status_code == 200)
    assert answer_of(client, second.headers["x-request-id"])["code"] == "idempotency_key_reused"
    assert answer_of(client, limited[0].headers["x-request-id"])["code"] == "rate_limited"
    batch = answer_of(client, full.headers["x-request-id"])
    assert batch["status"] == 200 and len(batch["entry_ids"]) >= 55
    (charged,) = answer_of(client, first.headers["x-request-id"])["entry_ids"]
    assert charged == first.json()["entry_id"]


def test_what_came_without_a_valid_key_is_found_by_the_operator_alone(operator: Operator) -> None:
    project, client = operator.customer()
    for key in (None, f"mtl_live_{project}.forged"):
        request_id = operator.client(key).get("/v1/balance").headers["x-request-id"]
        answer = answer_of(operator.http, request_id)
        assert (answer["status"], answer["project"]) == (401, None)
        assert client.get(f"/v1/receipts/{request_id}").status_code == 404


def test_a_request_whose_body_never_comes_has_an_id_that_leads_to_why(operator: Operator) -> None:
    _, client = operator.customer()
    head = (
        f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {client.headers['authorization']}\r\n"
        "content-length: 5000000000\r\n\r\n"
    )
    host, _, port = operator.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode())
        told = connection.recv(65536).decode()
    request_id = next(line.split(": ")[1] for line in told.splitlines() if line.startswith("x-request-id"))
    assert answer_of(client, request_id)["code"] == "body_too_large"


def test_answers_reach_the_history_with_their_decisions(operator: Operator) -> None:
    project, client = operator.customer()
    refused = client.post("/v1/admissions", json={"operation": "website", "quantity": 2})
    request_id = refused.headers["x-request-id"]
    columns = "status, code, project, entry_ids[1], kept_until > now() + 90000"
    sql = f"SELECT {columns} FROM answers WHERE request_id = '{request_id}'"
    rows = eventually(lambda: operator.rows(operator.clickhouse_url, sql))
    assert rows == [["402", "out_of_credits", project, refused.json()["entry_id"], "1"]]
    assert answer_of(client, request_id)["problem"] == refused.json()


@pytest.mark.parametrize("chosen", ["0-17-0", "recharge-1-2-3", "top_up-3-0", "allowance-3-0"])
def test_a_callers_own_request_id_is_never_taken_for_the_id_of_a_decision(operator: Operator, chosen: str) -> None:
    _, client = operator.customer()
    given = client.get("/v1/balance", headers={"x-request-id": chosen}).headers["x-request-id"]
    assert given != chosen and given.startswith("req_")


def test_a_callers_own_request_id_leads_to_its_own_answers_alone(operator: Operator) -> None:
    (project, client), (_, stranger) = operator.customer(), operator.customer()
    mine = {"x-request-id": f"trace-{project}"}
    for who in (client, stranger, client):
        assert who.get("/v1/nowhere", headers=mine).headers["x-request-id"] == mine["x-request-id"]
    found = client.get(f"/v1/receipts/{mine['x-request-id']}").json()["answers"]
    assert [each["project"] for each in found] == [project, project]
    assert len(operator.http.get(f"/v1/receipts/{mine['x-request-id']}").json()["answers"]) == 3


def test_the_command_says_what_a_refused_caller_was_told(
    operator: Operator, stack: Stack, meterline: Meterline
) -> None:
    project, client = operator.customer()
    refused = client.post("/v1/admissions", json={"operation": "website", "quantity": 2})
    request_id, entry_id = refused.headers["x-request-id"], refused.json()["entry_id"]
    done = meterline("explain", request_id, METERLINE_DATA_DIR=str(stack.settings.data_dir))
    assert done.returncode == 0, done.stderr
    assert f"{request_id}  402  out_of_credits  POST /v1/admissions" in done.stdout
    assert f"{entry_id}  refused  {project}" in done.stdout
    unknown = meterline("explain", "req_0123456789abcdef", METERLINE_DATA_DIR=str(stack.settings.data_dir))
    assert unknown.returncode == 1 and "Answers are kept for 24 hours" in unknown.stderr
