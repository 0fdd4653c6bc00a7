"""One identity, one decision, through every way in: HTTP, a batch's items, usage by HTTP and by Kafka, the CLI."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from api.stack import Stack
from streams.client.http_admissions import HttpAdmissions
from streams.client.kafka_admissions import KafkaAdmissions
from streams.client.kafka_producer import KafkaProducer
from streams.client.producer import usage_event
from tests.calls import Operator, event, eventually
from tests.command_line import Meterline

EVENTS = {"content-type": "application/cloudevents+json"}
NAMED = {"source": "/tests", "id": "e1"}
OTHERS = (
    {"operation": "video", "tier": "premium", "quantity": 100},
    {"operation": "image", "quantity": 2},
    {"operation": "social_post", "media_type": "image"},
)


def ask(client: httpx.Client, way: str, body: dict[str, Any], key: str = "") -> dict[str, Any]:
    """Ask for one admission, by itself or as the item of a batch; the answer has its status."""
    headers = {"idempotency-key": key} if key else {}
    if way == "batch":
        answer = client.post("/v1/admissions/batch", json={"requests": [body]}, headers=headers)
        return answer.json()["decisions"][0]
    answer = client.post("/v1/admissions", json=body, headers=headers)
    return answer.json() | {"status": answer.status_code}


def report(stack: Stack, client: httpx.Client, way: str, project: str, operation: str, quantity: int = 1) -> None:
    """Report the use /tests e1, by HTTP or by Kafka."""
    if way == "http":
        body = event(project, "e1", operation, quantity=quantity)
        assert client.post("/v1/events", json=body, headers=EVENTS).status_code == 202
        return

    async def send() -> None:
        async with KafkaProducer(stack.settings) as producer:
            await (await producer.send(usage_event(project, operation, quantity=quantity, **NAMED)))

    asyncio.run(send())


def balance(client: httpx.Client) -> tuple[str, str]:
    answer = client.get("/v1/balance").json()
    return answer["available"], answer["held"]


def facts(operator: Operator, project: str) -> list[list[str]]:
    sql = f"SELECT kind, reason, -sum(amount) / 1000000 FROM facts WHERE project = '{project}' AND event_id = 'e1' "
    return operator.rows(operator.clickhouse_url, sql + "GROUP BY kind, reason ORDER BY kind, reason")


@pytest.mark.parametrize("way", ["http", "kafka"])
def test_the_event_of_an_open_hold_captures_it(stack: Stack, operator: Operator, way: str) -> None:
    project, client = operator.customer()
    body = {"operation": "image", "hold": True, "job_id": "j1", **NAMED}
    hold_id = client.post("/v1/admissions", json=body).json()["hold_id"]
    report(stack, client, way, project, "image")
    eventually(lambda: balance(client) == ("218", "0"))
    for path in (f"/v1/holds/{hold_id}/capture", f"/v1/holds/{hold_id}/capture?project={project}"):
        captured = client.post(path, json={"credits": "32"})
        assert captured.status_code == 200, captured.text
        told = captured.json()
        assert (told["outcome"], told["credits"], told["already_decided"]) == ("captured", "32", True)
    again = client.post("/v1/admissions", json=body).json()
    assert (again["allowed"], again["already_decided"], again["credits"], "hold_id" in again) == (
        True,
        True,
        "0",
        False,
    )
    report(stack, client, way, project, "image")
    assert balance(client) == ("218", "0")
    late = {"source": "/tests", "id": "e1", "action": "late", "reason": "r", "data": {"operation": "image"}}
    refused = operator.http.post(f"/v1/admin/projects/{project}/corrections", json=late)
    assert refused.json()["code"] == "already_corrected"
    eventually(lambda: ["charge", "captured", "32"] in facts(operator, project))


@pytest.mark.parametrize("connect", ["kafka", "http"])
def test_a_capture_by_a_client_finds_what_the_event_charged(stack: Stack, operator: Operator, connect: str) -> None:
    project = operator.project()

    def balance_told() -> tuple[str, str]:
        told = operator.http.get("/v1/balance", params={"project": project}).json()
        return told["available"], told["held"]

    async def scenario() -> None:
        made = (
            KafkaAdmissions(stack.settings, api_url=stack.url)
            if connect == "kafka"
            else HttpAdmissions(stack.url, stack.admin_key)
        )
        async with made as admissions:
            held = await admissions.admit(project, "image", **NAMED, hold=True)
            body = event(project, "e1", "image")
            await asyncio.to_thread(operator.http.post, "/v1/events", json=body, headers=EVENTS)
            # Nothing is held before the hold is there, either.
            await asyncio.to_thread(eventually, lambda: balance_told() == ("218", "0"))
            captured = await admissions.capture(project, held.hold_id)
            assert (captured.allowed, captured.credits, captured.already_decided) == (True, 32, True)
            reused = await admissions.admit(project, "blog_post", **NAMED)
            assert (reused.allowed, reused.status, reused.code, reused.field) == (False, 409, "event_id_reused", "id")

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["one", "batch"])
@pytest.mark.parametrize("first", ["charged", "held", "event"])
def test_an_id_that_is_used_for_something_else_is_a_409(stack: Stack, operator: Operator, way: str, first: str) -> None:
    project, client = operator.customer()
    asked = {"operation": "image", **NAMED}
    held = {"hold": True, "job_id": "j1"}
    if first == "event":
        report(stack, client, "http", project, "image")
        eventually(lambda: balance(client) == ("218", "0"))
    else:
        assert ask(client, way, asked | (held if first == "held" else {}))["status"] == 200
    spent = balance(client)
    if first == "charged":
        operator.http.post(f"/v1/admin/projects/{project}/close", json={"reason": "r"})
    for other in OTHERS:
        for more in ({}, {"hold": True, "job_id": "j2"}):
            told = ask(client, way, NAMED | other | more)
            assert (told["status"], told["code"], told["field"]) == (409, "event_id_reused", "id"), told
            assert "own" in told["detail"] and "hold_id" not in told
    same = ask(client, way, asked)
    assert (same["status"], same["allowed"], same["already_decided"], same["credits"]) == (200, True, True, "0")
    assert balance(client) == spent
    if first == "held":
        told = ask(client, way, {"operation": "blog_post", "hold": True, "job_id": "j1"})
        assert (told["status"], told["code"], told["field"]) == (409, "job_id_reused", "job_id")


def test_an_event_under_a_used_id_says_so_in_the_history_and_is_not_charged(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer()
    client.post("/v1/admissions", json={"operation": "image", **NAMED})
    report(stack, client, "kafka", project, "blog_post")
    report(stack, client, "http", project, "image")
    eventually(lambda: len(facts(operator, project)) == 3)
    assert [each[:2] for each in facts(operator, project)] == [
        ["charge", ""],
        ["duplicate", ""],
        ["duplicate", "event_id_reused"],
    ]
    assert balance(client) == ("218", "0")
    receipts = client.get("/v1/receipts", params={"event_id": "e1", "source": "/tests"}).json()
    assert "something else" in str(receipts), receipts


@pytest.mark.parametrize("way", ["one", "batch"])
def test_a_refusal_that_is_kept_says_that_a_new_key_is_needed(operator: Operator, way: str) -> None:
    project, client = operator.customer()
    body = {"operation": "website", "quantity": 2}
    key = {"one": "k", "batch": "b"}[way]
    refused = ask(client, way, body, key)
    assert (refused["status"], refused["code"]) == (402, "out_of_credits")
    assert refused["detail"].endswith("then ask under a new Idempotency-Key.")
    gated = ask(client, way, {"operation": "video", "tier": "premium"}, f"{key}2")
    assert gated["detail"].endswith("then ask under a new Idempotency-Key.")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20})
    assert ask(client, way, body, key)["status"] == 402
    assert ask(client, way, body, f"{key}3")["status"] == 200
    assert ask(client, way, {"operation": "image"}, f"{key}3")["code"] == "idempotency_key_reused"


def test_the_cli_captures_what_its_event_has_captured(operator: Operator, stack: Stack, meterline: Meterline) -> None:
    project, client = operator.customer()
    hold_id = client.post("/v1/admissions", json={"operation": "image", "hold": True, "job_id": "j1", **NAMED}).json()[
        "hold_id"
    ]
    report(stack, client, "http", project, "image")
    eventually(lambda: balance(client) == ("218", "0"))
    where = {"METERLINE_DATA_DIR": str(stack.settings.data_dir)}
    done = meterline("holds", "capture", project, hold_id, "--json", **where)
    assert done.returncode == 0, done.stderr
    assert '"already_decided": true' in done.stdout and '"credits": "32"' in done.stdout
    other = meterline("holds", "place", project, "blog_post", "j1", "--json", **where)
    assert other.returncode != 0
    assert "job_id" in other.stdout + other.stderr
