"""Webhook endpoints over HTTP and on the command line: made, changed, rotated, told of; secrets are shown once."""

from __future__ import annotations

import asyncio
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from schemas.notices import DeliveryAttempt
from streams.core.endpoints import PLATFORM_ID
from streams.courier.signatures import secret_of
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_attempt
from streams.kafka.publisher import Publisher
from streams.kafka.topics import partition_of, topics_of
from tests.calls import Operator, eventually

URL = "/v1/webhook-endpoints"
HOOK = {"target": "https://acme.invalid/hook?token=hidden"}


def answered(response: httpx.Response, status: int, code: str = "", field: str | None = None) -> Any:
    """The answer, which has this status, and, where it is a refusal, this code and field."""
    assert response.status_code == status, response.text
    answer = response.json() if response.content else None
    if code:
        assert (answer["code"], answer.get("field")) == (code, field), answer
    return answer


def secret(stack: Stack, endpoint_id: str, version: int) -> str:
    assert stack.settings.webhook_key is not None
    return secret_of(stack.settings.webhook_key.get_secret_value(), endpoint_id, version)


def test_an_endpoint_lives_over_http_and_its_secrets_are_shown_once(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer()
    key = {"idempotency-key": "hook-1"}
    made = answered(client.post(URL, json=HOOK, headers=key), 201)
    one = f"{URL}/{made['id']}"
    assert made["secret"] == secret(stack, made["id"], 1)
    # Who did not hear the answer asks again, and makes no second one; another one needs another key.
    again = client.post(URL, json=HOOK, headers=key)
    assert answered(again, 201) == made
    answered(client.post(URL, json=HOOK | {"ordered": True}, headers=key), 409, "idempotency_key_reused")
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert answered(client.get(one), 200) == shown
    assert answered(client.get(URL), 200) == {"project": project, "endpoints": [shown]}
    assert (shown["event_types"], shown["environments"], shown["state"], shown["kind"]) == (
        ["*"],
        [],
        "active",
        "webhook",
    )

    changed = answered(client.patch(one, json={"event_types": ["project.*"], "environments": ["production"]}), 200)
    assert changed == shown | {"event_types": ["project.*"], "environments": ["production"]}
    assert answered(client.patch(one, json={"state": "paused"}), 200) == changed | {"state": "paused"}
    answered(client.post(f"{one}/test"), 409, "endpoint_inactive")
    assert answered(client.patch(one, json={"state": "active", "ordered": True}), 200)["ordered"] is True
    assert answered(client.post(f"{one}/test"), 202)["id"] == made["id"]
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    for asked in ({"since": since}, {"since": since, "only_failed": True}, {"notice_id": "ntc-0-1-0"}):
        answered(client.post(f"{one}/replay", json=asked), 202)
    rotated = answered(client.post(f"{one}/rotate"), 200)
    assert rotated["secret"] == secret(stack, made["id"], 2) != made["secret"]
    at = answered(client.get(one), 200)["rotated_at"]
    assert datetime.fromisoformat(rotated["previous_until"]) - datetime.fromisoformat(at) == timedelta(days=1)

    while len(answered(client.get(URL), 200)["endpoints"]) < 8:
        answered(client.post(URL, json=HOOK), 201)
    answered(client.post(URL, json=HOOK), 409, "too_many_endpoints")
    assert client.delete(one).status_code == 204
    for call in (client.get(one), client.delete(one), client.get(f"{one}/deliveries"), client.post(f"{one}/rotate")):
        answered(call, 404, "unknown_endpoint")

    audit = {"kind": "endpoints", "project": project, "limit": 1000}
    actions = eventually(
        lambda: (
            (found := [each["action"] for each in operator.http.get("/v1/audit", params=audit).json()["entries"]])
            and found[0] == "endpoint.deleted"
            and found
        )
    )
    assert {"endpoint.created", "endpoint.changed", "endpoint.paused", "endpoint.resumed"} < set(actions)
    assert {"endpoint.rotated", "endpoint.tested", "endpoint.replayed"} < set(actions)
    told = operator.http.get("/v1/audit", params=audit).text
    assert made["id"] in told and "invalid/" not in told and "hidden" not in told and "s3cret" not in told


def test_what_can_not_be_delivered_to_is_refused_at_the_door(stack: Stack, operator: Operator) -> None:
    _, client = operator.customer()
    one = f"{URL}/{answered(client.post(URL, json=HOOK), 201)['id']}"
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    slack = answered(client.post(URL, json={"kind": "slack", "target": "https://hooks.slack.invalid/T0/s3cret"}), 201)
    assert (slack["target"], slack["secret"]) == ("https://hooks.slack.invalid/…", None)
    answered(client.post(f"{URL}/{slack['id']}/rotate"), 422, "invalid_request", "endpoint_id")
    assert "s3cret" not in client.get(URL).text
    for body, field in (
        ({"target": "http://acme.invalid/hook"}, "target"),
        ({"target": "https://user@acme.invalid"}, "target"),
        ({"target": "https://"}, "target"),
        ({"target": "https://10.0.0.1/hook"}, "target"),
        ({"target": "https://[::ffff:10.0.0.1]/"}, "target"),
        ({"target": "https://0x0a000001/"}, "target"),
        ({"target": "http://10.0.0.1/"}, "target"),
        (HOOK | {"event_types": ["project.nothing"]}, "event_types"),
        (HOOK | {"environments": ["staging"]}, "environments.0"),
        (HOOK | {"kind": "fax"}, "kind"),
        (HOOK | {"secret": "mine"}, "secret"),
    ):
        answered(client.post(URL, json=body), 422, "invalid_request", field)
    answered(client.patch(one, json={"target": "ftp://acme.invalid"}), 422, "invalid_request", "target")
    for asked in ({}, {"since": since, "notice_id": "ntc-0-1-0"}, {"since": "2020-01-01T00:00:00Z"}):
        answered(client.post(f"{one}/replay", json=asked), 422, "invalid_request", "since")
    if stack.settings.smtp_url is None:
        email = {"kind": "email", "target": "ops@acme.invalid"}
        answered(client.post(URL, json=email), 409, "kind_not_set_up", "kind")


def attempt(account: str, endpoint_id: str, number: int, sent_at_ms: int, **changes: Any) -> DeliveryAttempt:
    named = (
        f"{endpoint_id}.ntc-0-1-0.{number}",
        account,
        "production",
        endpoint_id,
        "ntc-0-1-0",
        "project.credits_low",
    )
    fields = {"status": 500, "ms": 7, "answer": b"no", "error": "", "next_at_ms": sent_at_ms + 10_000}
    return DeliveryAttempt(
        *named,
        number=number,
        sent_at_ms=sent_at_ms,
        **fields | {"is_delivered": False, "is_billed": number > 1} | changes,
    )


def report(stack: Stack, *attempts: DeliveryAttempt) -> None:
    """Put attempts on their topic, as the courier does."""

    async def publish() -> None:
        publisher = Publisher(stack.settings)
        await publisher.start()
        for each in attempts:
            partition = partition_of(each.project, stack.settings.partitions)
            records = [(each.project.encode(), encode_attempt(each))]
            await publisher.send_all(topics_of(stack.settings).deliveries, partition, records)
        await publisher.stop()

    asyncio.run(publish())


def test_attempts_are_listed_by_pages_each_once_and_to_nobody_else(stack: Stack, operator: Operator) -> None:
    _, other = operator.customer()
    project, client = operator.customer()
    # Of a kind that nothing is sent to: what is listed is what is reported here.
    made = answered(client.post(URL, json=HOOK | {"event_types": ["plan.changed"]}), 201)
    answered(client.patch(f"{URL}/{made['id']}", json={"state": "paused"}), 200)
    path, began_ms = f"{URL}/{made['id']}/deliveries", now_ms() - 60_000
    taken = {"status": 204, "is_delivered": True, "next_at_ms": 0, "answer": b""}
    tries = [attempt(project, made["id"], number, began_ms + number) for number in (11, 12, 13)]
    report(stack, *tries, tries[1], attempt(project, made["id"], 13, began_ms + 40, **taken))
    eventually(lambda: client.get(path, params={"outcome": "delivered"}).json()["deliveries"])
    seen, cursor = [], None
    while True:
        query = {"limit": 1, "notice_id": "ntc-0-1-0"} | ({"cursor": cursor} if cursor else {})
        page = answered(client.get(path, params=query), 200)
        seen += page["deliveries"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [(each["number"], each["status"], each["delivered"]) for each in seen] == [
        (13, 204, True),
        (12, 500, False),
        (11, 500, False),
    ]
    assert (seen[2]["answer"], seen[2]["billed"], seen[0]["next_at"]) == ("no", True, None)
    answered(client.get(path, params={"cursor": "x"}), 422, "invalid_request", "cursor")
    answered(other.get(path), 404, "unknown_endpoint")
    answered(other.get(path, params={"project": project}), 403, "wrong_project", "project")


def test_health_counts_each_attempt_once_and_knows_what_waits(stack: Stack, operator: Operator) -> None:
    _, other = operator.customer()
    project, client = operator.customer()
    made = answered(client.post(URL, json=HOOK | {"event_types": ["plan.changed"]}), 201)
    answered(client.patch(f"{URL}/{made['id']}", json={"state": "paused"}), 200)
    path, began_ms = f"{URL}/{made['id']}/health", now_ms() - 60_000
    taken = {"status": 204, "is_delivered": True, "next_at_ms": 0, "answer": b""}
    due_ms = now_ms() + 900_000
    tries = [
        attempt(project, made["id"], 21, began_ms + 21),
        attempt(project, made["id"], 22, began_ms + 22, **taken),
        attempt(project, made["id"], 23, now_ms() + 1_000, status=0, error="no route", next_at_ms=due_ms),
    ]
    report(stack, *tries, tries[2])
    health = eventually(lambda: (found := client.get(path).json()).get("last_error") == "no route" and found)
    assert (health["id"], health["state"], health["last_status"]) == (made["id"], "paused", None)
    # The test notice of the first moment may have been tried before the pause.
    assert health["attempts"] - 3 in (0, 1) and health["failures_in_a_row"] - 1 in (0, 1)
    assert health["waiting"] - 1 in (0, 1) and health["next_at"] <= due_at(due_ms)
    assert (health["disabled_at"], health["disabled_reason"]) == (None, "")
    answered(other.get(path), 404, "unknown_endpoint")
    answered(other.get(path, params={"project": project}), 403, "wrong_project", "project")


def due_at(at_ms: int) -> str:
    """A time as answers have it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_the_platforms_endpoints_and_the_command_line(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = operator.project()
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, ["webhooks", *words, "--json"])
        assert done.exit_code == 0, (words, done.output, done.exception)
        return json.loads(done.stdout)

    for whose, account in ((["--project", project], project), ([], PLATFORM_ID)):
        before = run("list", *whose)["endpoints"]
        named = f"https://{secrets.token_hex(4)}.invalid/hook"
        made = run("add", named, *whose, "--event-type", "plan.*", "--event-type", "hold.*", "--environment", "preview")
        assert made["secret"] == secret(stack, made["id"], 1) and made["event_types"] == ["plan.*", "hold.*"]
        one = made["id"]
        assert [each["id"] for each in run("list", *whose)["endpoints"]] == [*(each["id"] for each in before), one]
        assert run("test", one, *whose)["id"] == run("replay", one, *whose, "--notice", "ntc-0-1-0")["id"] == one
        assert run("rotate", one, *whose)["secret"] == secret(stack, one, 2)
        assert run("pause", one, *whose)["state"] == "paused"
        changed = run("change", one, *whose, "--ordered", "--description", "ops")
        assert (changed["ordered"], changed["description"], changed["environments"]) == (True, "ops", ["preview"])
        assert run("resume", one, *whose)["state"] == "active"
        report(stack, attempt(account, one, 14, now_ms()))

        def numbers(one: str = one, whose: list[str] = whose) -> list[int]:
            listed = run("deliveries", one, *whose, "--notice", "ntc-0-1-0")["deliveries"]
            return [each["number"] for each in listed]

        # Beside what is reported here, before it or after, the courier may have begun with the replay.
        found = eventually(lambda numbers=numbers: 14 in (found := numbers()) and found)
        assert sorted(found[:2]) in ([14], [1, 14])
        assert run("show", one, *whose)["state"] == run("health", one, *whose)["state"] == "active"
        assert run("remove", one, *whose) == {"id": one, "removed": True}
    for whose in (["--project", project], []):
        shown = CliRunner().invoke(app, ["webhooks", "show", "whe_none", *whose])
        assert shown.exit_code != 0
    _, client = operator.customer()
    assert client.get("/v1/admin/webhook-endpoints").json()["code"] == "missing_scope"
