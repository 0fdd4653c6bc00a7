"""Promotional grants by HTTP and by command, followed into the ledger, the audit log, a receipt and an invoice."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from tests.calls import Operator, eventually


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


def give(operator: Operator, project: str, key: str = "", **changes: Any) -> httpx.Response:
    body = {"amount": "100.5", "reason": "sorry for the outage", "expires_at": in_days(30)} | changes
    headers = {"idempotency-key": key} if key else {}
    return operator.http.post(f"/v1/admin/projects/{project}/grants", json=body, headers=headers)


def test_it_is_given_once_under_its_key_and_told_everywhere(operator: Operator) -> None:
    project, client = operator.customer("free")
    ends_at = in_days(30)
    answer = give(operator, project, "gift-1", expires_at=ends_at)
    assert answer.status_code == 201, answer.text
    given = answer.json()
    assert (given["granted"], given["available"], given["environment"]) == ("100.5", "350.5", "production")
    assert give(operator, project, "gift-1", expires_at=ends_at).json() == given
    other = give(operator, project, "gift-1", expires_at=ends_at, amount="1")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    balance = client.get("/v1/balance").json()
    (listed,) = balance["promotional"]
    assert (balance["available"], listed["grant_id"], listed["remaining"]) == ("350.5", given["grant_id"], "100.5")
    assert listed["expires_at"] == given["expires_at"]
    assert client.post("/v1/admissions", json={"operation": "website", "id": "e1", "source": "/t"}).status_code == 200
    assert client.post("/v1/admissions", json={"operation": "content_plan"}).status_code == 200
    assert client.post("/v1/admissions", json={"operation": "blog_post"}).status_code == 200

    def entries() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get("/v1/ledger").json().get("entries", [])
        return found

    eventually(lambda: len(entries()) == 5)
    drawn = [(each["kind"], each["amount"]) for each in entries() if each["grant_id"] == given["grant_id"]]
    assert drawn == [("charge", "-60"), ("grant", "100.5")]
    (entry,) = [each for each in entries() if each["entry_id"] == given["entry_id"]]
    assert (entry["kind"], entry["reason"], entry["grant_id"]) == ("grant", "promotional", given["grant_id"])
    assert entry["metadata"]["reason"] == "sorry for the outage"
    page = operator.http.get("/v1/audit", params={"project": project, "kind": "grants"}).json()
    (audited,) = page["entries"]
    assert audited["action"] == "promotional.granted"
    assert audited["actor"]
    assert "100.5 credits" in audited["detail"] and "(sorry for the outage)" in audited["detail"]
    for named in (given["entry_id"], given["grant_id"]):
        receipt = operator.http.get(f"/v1/receipts/{named}", params={"project": project}).json()
        assert receipt["outcome"] == "granted"
        assert receipt["summary"].startswith("Gave 100.5 credits to production until ")
        assert (receipt["before"]["available"], receipt["after"]["available"]) == ("250", "350.5")
    invoice = operator.http.get(f"/v1/invoices/{datetime.now(UTC):%Y-%m}", params={"project": project}).json()
    (line,) = [line for line in invoice["projects"][0]["lines"] if line["item"] == "promotional"]
    assert (line["kind"], line["credits"], line["cents"]) == ("grant", "100.5", 0)
    assert invoice["total_cents"] == 0


def test_it_ends_by_itself_and_history_says_when(operator: Operator) -> None:
    project, client = operator.customer("free", "preview")
    ends_at = datetime.now(UTC) + timedelta(seconds=3)
    given = give(operator, project, environment="preview", expires_at=ends_at.isoformat()).json()
    assert client.get("/v1/balance").json()["available"] == "100.5"
    eventually(lambda: client.get("/v1/balance").json()["available"] == "0")
    refused = client.post("/v1/admissions", json={"operation": "chat.message"})
    assert (refused.status_code, refused.json()["code"]) == (402, "out_of_credits")

    def expiry() -> list[dict[str, Any]]:
        found = client.get("/v1/ledger").json()["entries"]
        return [each for each in found if each["kind"] == "expiry" and each["grant_id"] == given["grant_id"]]

    (entry,) = eventually(expiry)
    assert (entry["amount"], entry["occurred_at"]) == ("-100.5", given["expires_at"])
    past = {"project": project, "environment": "preview"}
    for at, available in ((ends_at - timedelta(seconds=1), "100.5"), (ends_at + timedelta(milliseconds=1), "0")):
        balance = operator.http.get("/v1/balance", params=past | {"at": at.isoformat()}).json()
        assert (balance["available"], balance["promotional_count"]) == (available, int(available != "0"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": "0"}, "amount"),
        ({"amount": "-5"}, "amount"),
        ({"amount": "1e3"}, "amount"),
        ({"amount": "0.0000001"}, "amount"),
        ({"amount": "10000000.000001"}, "amount"),
        ({"reason": ""}, "reason"),
        ({"reason": "  "}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"reason": None}, "reason"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2150-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2027-06-01T00:00:00"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"environment": "staging"}, "environment"),
        ({"cents": 5}, "cents"),
    ],
)
def test_what_is_wrong_is_refused_by_name(operator: Operator, changes: dict[str, Any], field: str) -> None:
    project = operator.project()
    answer = give(operator, project, **changes)
    assert (answer.status_code, answer.json()["field"].rpartition(".")[2]) == (422, field), answer.text
    assert operator.http.get("/v1/balance", params={"project": project}).json()["available"] == "250"


def test_a_closed_project_and_one_that_is_none_are_given_nothing(operator: Operator) -> None:
    project = operator.project()
    operator.http.put(f"/v1/admin/projects/{project}/state", json={"closed": True})
    assert give(operator, project).json()["code"] == "project_closed"
    assert give(operator, "prj_nobody").json()["code"] == "unknown_project"


def test_only_the_operator_gives(operator: Operator) -> None:
    project, client = operator.customer()
    body = {"amount": "1", "reason": "mine", "expires_at": in_days(1)}
    answer = client.post(f"/v1/admin/projects/{project}/grants", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


def test_the_command_gives_as_the_route_does(operator: Operator, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    project = operator.project()
    ends_at = in_days(2)
    argv = ["credits", "grant", project, "5", "--reason", "launch", "--expires-at", ends_at, "--environment", "preview"]
    argv += ["--idempotency-key", "gift", "--json"]
    first, again = (json.loads(CliRunner().invoke(app, argv, catch_exceptions=False).stdout) for _ in range(2))
    assert first == again
    assert (first["granted"], first["environment"], first["reason"]) == ("5", "preview", "launch")
    params = {"project": project, "environment": "preview"}
    balance = operator.http.get("/v1/balance", params=params).json()
    assert [each["grant_id"] for each in balance["promotional"]] == [first["grant_id"]]
    for without in ("--reason", "--expires-at"):
        place = argv.index(without)
        done = CliRunner().invoke(app, [*argv[:place], *argv[place + 2 :]])
        assert done.exit_code == 2 and without in done.output
