"""Closed is closed through every way in, and a use has one answer through every way in: that of when it occurred."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.routes import admissions
from api.stack import Stack
from streams.client.kafka_producer import KafkaProducer
from streams.core.acceptance import read_event
from tests.calls import Operator, event, eventually
from tests.core.builders import START_MS, usage
from tests.core.test_ledger import Bench

JSON_EVENT = {"content-type": "application/cloudevents+json"}
TERMS = {"on": True, "threshold": "100", "bundle_usd": 20, "cap_usd": 20, "payment_method": "pm_1"}
PREMIUM = {"operation": "video", "tier": "premium"}


def utc_now() -> str:
    time.sleep(0.01)  # so that no two changes share a millisecond with it
    now = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    return now


def put(operator: Operator, project: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return operator.http.put(f"/v1/admin/projects/{project}/{path}", json=body)


def late(operator: Operator, project: str, at: str, **data: Any) -> httpx.Response:
    asked = {"source": "/shop", "id": secrets.token_hex(6), "action": "late", "reason": "late", "time": at}
    return operator.http.post(
        f"/v1/admin/projects/{project}/corrections", json=asked | {"data": {"operation": "image"} | data}
    )


def outcome(client: httpx.Client, event_id: str) -> str:
    """The outcome of an event that was sent: "charged", or the code that it was refused with."""
    (found,) = eventually(lambda: client.get("/v1/receipts", params={"event_id": event_id}).json()["decisions"])
    receipt = client.get(f"/v1/receipts/{found['id']}").json()
    return receipt["refusal"]["code"] if receipt["refusal"] else receipt["outcome"]


def by_http(client: httpx.Client, stack: Stack, project: str, at: str, **data: Any) -> str:
    sent = event(project, secrets.token_hex(6), **{"operation": "image"} | data) | {"time": at}
    answer = client.post("/v1/events", json=sent, headers=JSON_EVENT)
    assert answer.status_code == 202, answer.text
    return outcome(client, sent["id"])


def by_kafka(client: httpx.Client, stack: Stack, project: str, at: str, **data: Any) -> str:
    sent = event(project, secrets.token_hex(6), **{"operation": "image"} | data) | {"time": at}

    async def send() -> None:
        async with KafkaProducer(stack.settings) as producer:
            await producer.send(read_event(json.dumps(sent).encode()))

    asyncio.run(send())
    return outcome(client, sent["id"])


WAYS = pytest.mark.parametrize("report", [by_http, by_kafka])


def test_nothing_that_can_charge_is_taken_by_a_closed_project(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    opened = utc_now()
    job = client.post("/v1/admissions", json={"operation": "image", "job_id": "j1", "hold": True}).json()
    assert put(operator, project, "state", {"closed": True, "reason": "asked for"}).status_code == 200
    closed = utc_now()
    one = {"operation": "image"}
    batch = client.post("/v1/admissions/batch", json={"requests": [one, one | {"hold": True, "job_id": "j2"}]})
    assert [each["code"] for each in batch.json()["decisions"]] == ["project_closed"] * 2
    refused = [
        put(operator, project, "items/custom_domain", {"quantity": 1}),
        put(operator, project, "auto-recharge", TERMS),
        put(operator, project, "plan", {"plan": "scale"}),
        put(operator, project, "state", {"closed": True}),
        operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20}),
        late(operator, project, closed),
        client.post("/v1/admissions", json=one),
        client.post("/v1/admissions", json=one | {"job_id": "j3", "hold": True}),
    ]
    assert [(each.status_code, each.json()["code"]) for each in refused] == [(403, "project_closed")] * len(refused)
    assert client.get("/v1/balance").json()["available"] == "4968"
    # What ends something is taken, and so is what was used, or queued, before.
    assert put(operator, project, "auto-recharge", {"on": False}).status_code == 200
    assert late(operator, project, opened).json()["change"] == "-32"
    assert client.post(f"/v1/holds/{job['hold_id']}/capture", json={}).status_code == 200
    balance = client.get("/v1/balance").json()
    assert (balance["available"], balance["held"]) == ("4936", "0")


def test_the_command_line_says_that_a_project_is_closed(
    operator: Operator, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    project = operator.project("hobby")

    def refusal(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code != 0
        return f"{done.output} {done.exception}"

    assert CliRunner().invoke(app, ["projects", "close", project, "--reason", "asked for", "--yes"]).exit_code == 0
    for arguments in (
        ("projects", "item", project, "custom_domain", "1"),
        ("credits", "top-up", project, "20"),
        ("credits", "auto-recharge", project, "--on", "--threshold", "10", "--cap", "40", "--payment-method", "pm_1"),
        ("credits", "bill-late", project, "/shop", "a", "--operation", "image", "--occurred-at", utc_now())
        + ("--reason", "late", "--yes"),
    ):
        assert "closed" in refusal(*arguments), arguments
    assert CliRunner().invoke(app, ["projects", "reopen", project]).exit_code == 0
    said = refusal(
        "credits", "auto-recharge", project, "--on", "--threshold", "4001", "--cap", "40", "--payment-method", "p"
    )
    assert "4000 credits that a bundle of $20 brings; lower it, or take a larger bundle" in said


@WAYS
def test_what_was_used_while_a_project_was_closed_is_refused_after_its_reopening_too(
    operator: Operator, stack: Stack, report: Callable[..., str]
) -> None:
    project, client = operator.customer("hobby")
    before = utc_now()
    put(operator, project, "state", {"closed": True})
    while_closed = utc_now()
    assert report(client, stack, project, before) == "charged"
    assert report(client, stack, project, while_closed) == "project_closed"
    put(operator, project, "state", {"closed": False})
    assert report(client, stack, project, while_closed) == "project_closed"
    assert report(client, stack, project, before) == "charged"
    assert report(client, stack, project, utc_now()) == "charged"
    refused = late(operator, project, while_closed)
    assert (refused.status_code, refused.json()["code"]) == (403, "project_closed")
    assert late(operator, project, before).status_code == 201


@WAYS
def test_what_was_used_before_a_project_was_opened_is_refused(
    operator: Operator, stack: Stack, report: Callable[..., str]
) -> None:
    just_before = utc_now()
    project, client = operator.customer("hobby")
    for at in (just_before, (datetime.now(UTC) - timedelta(days=20)).isoformat()):
        assert report(client, stack, project, at) == "time_out_of_range"
        refused = late(operator, project, at)
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
            422,
            "time_out_of_range",
            "time",
        )
    assert client.get("/v1/balance").json()["available"] == "5000"


@WAYS
def test_a_clip_is_gated_by_the_plan_of_when_it_was_made(
    operator: Operator, stack: Stack, report: Callable[..., str]
) -> None:
    project, client = operator.customer("hobby")
    before = utc_now()
    put(operator, project, "plan", {"plan": "build"})
    after = utc_now()
    assert report(client, stack, project, before, **PREMIUM) == "plan_required"
    assert report(client, stack, project, after, **PREMIUM) == "charged"
    refused = late(operator, project, before, **PREMIUM)
    assert (refused.status_code, refused.json()["code"]) == (402, "plan_required")
    assert late(operator, project, after, **PREMIUM).status_code == 201


def test_terms_of_auto_recharge_are_refused_where_their_bundle_cannot_reach_them_and_else_taken_once(
    operator: Operator,
) -> None:
    project = operator.project("hobby")
    refused = put(operator, project, "auto-recharge", TERMS | {"threshold": "50000"})
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["field"]) == (422, "invalid_request", "threshold")
    assert "at most the 4000 credits that a bundle of $20 brings" in problem["detail"]
    assert put(operator, project, "auto-recharge", TERMS).status_code == 200
    first = operator.http.get(f"/v1/admin/projects/{project}/auto-recharge").json()
    assert put(operator, project, "auto-recharge", TERMS).json() == first

    # The fact behind it is there, and so would another one be.
    assert put(operator, project, "badge", {"shown": False}).status_code == 200
    counts = "toString(countIf(kind = 'recharge')), toString(countIf(reason = 'badge_off'))"
    of_project = f"SELECT {counts} FROM facts WHERE project = '{project}'"
    eventually(lambda: operator.rows(operator.clickhouse_url, of_project)[0][1] == "1")
    assert operator.rows(operator.clickhouse_url, of_project) == [["1", "1"]]


def test_an_admission_occurs_no_earlier_than_what_its_api_knows_to_have_been_done() -> None:
    """The API's clock may be behind the log's: a plan that was changed a moment ago counts all the same."""
    account = Bench("build", at_ms=START_MS).account
    for stamped_ms, expected_ms in ((START_MS - 1, START_MS), (START_MS, START_MS), (START_MS + 1, START_MS + 1)):
        used = usage(occurred_at_ms=stamped_ms)
        assert admissions._not_before(used, account) == usage(occurred_at_ms=expected_ms)
        assert admissions._not_before(used, None) == used
