"""GET /v1/receipts on the whole stack: any id that an answer gave can be explained."""

import asyncio
import json
import time

import httpx

from api.cli.explain import explain_text
from api.stack import Stack
from schemas.commands import Admit
from streams.client.producer import KafkaProducer
from tests.calls import Operator, event, eventually
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
