"""Refunds and plan changes by HTTP, followed as far as ClickHouse."""

import json
from pathlib import Path

import pytest

from tests.calls import Operator, eventually

CASES = json.loads((Path(__file__).parent.parent / "conformance" / "refund.json").read_text())["cases"]


# The clock of the real broker can't be moved: cases of more days are tried in the core's tests.
@pytest.mark.parametrize("case", [case for case in CASES if case["days"] <= 30], ids=lambda case: case["name"])
def test_conformance_refunds(operator: Operator, case: dict) -> None:
    project, _ = operator.customer("free")
    admin = operator.http
    admin.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "environment": "preview"})
    if int(case["used"]):
        body = {
            "project": project, "operation": "chat.message", "quantity": int(case["used"]), "environment": "preview",
        }  # fmt: skip
        assert admin.post("/v1/admissions", json=body).status_code == 200
    if not case.get("good_standing", True):
        standing = {"good_standing": False, "reason": "unpaid"}
        answer = admin.put(f"/v1/admin/projects/{project}/standing", json=standing)
        assert (answer.status_code, answer.json()["good_standing"]) == (200, False)
    preview = {"project": project, "environment": "preview"}
    (bundle,) = admin.get("/v1/balance", params=preview).json()["top_ups"]
    answer = admin.post(
        f"/v1/admin/projects/{project}/refunds", json={"grant_id": bundle["grant_id"], "reason": "asked for"}
    )
    if not case["refundable"]:
        assert (answer.status_code, answer.json()["code"]) == (409, "not_refundable")
        return
    assert answer.status_code == 201, answer.text
    assert (answer.json()["taken_back"], answer.json()["refund_cents"]) == ("3000", 1_500)
    assert admin.get("/v1/balance", params=preview).json()["available"] == "0"
    entry_id = answer.json()["entry_id"]

    def entries() -> list[dict]:
        found: list[dict] = admin.get("/v1/ledger", params=preview).json()["entries"]
        return found

    eventually(lambda: [entry["entry_id"] for entry in entries()][:1] == [entry_id])
    entry = entries()[0]
    assert (entry["kind"], entry["amount"], entry["balance"]) == ("refund", "-3000", "0")
    assert entry["metadata"] == {"refund_cents": 1_500, "reason": "asked for"}


def test_an_upgrade_counts_at_once_and_a_downgrade_waits(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    url = f"/v1/admin/projects/{project}/plan"
    premium = {"operation": "video", "tier": "premium"}
    assert client.post("/v1/admissions", json=premium).json()["code"] == "plan_required"
    answer = operator.http.put(url, json={"plan": "build"}, headers={"idempotency-key": "upgrade"})
    assert (answer.status_code, answer.json()["plan"], answer.json()["next_plan"]) == (200, "build", None)
    again = operator.http.put(url, json={"plan": "build"}, headers={"idempotency-key": "upgrade"})
    assert again.json()["plan"] == "build"
    assert client.post("/v1/admissions", json=premium).status_code == 200
    balance = client.get("/v1/balance").json()
    assert (balance["available"], balance["allowance"]["granted"]) == ("24700", "25000")
    answer = operator.http.put(url, json={"plan": "free"})
    assert (answer.json()["plan"], answer.json()["next_plan"]) == ("build", "free")
    assert client.get("/v1/projects/me").json()["next_plan"] == "free"
    assert operator.http.put(url, json={"plan": "gold"}).status_code == 422


def test_a_closed_project_can_be_read_and_reopened(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    url = f"/v1/admin/projects/{project}/state"
    answer = operator.http.put(url, json={"closed": True, "reason": "asked for"})
    assert answer.status_code == 200
    assert answer.json()["closed_at"] is not None
    refused = client.post("/v1/admissions", json={"operation": "image"})
    assert (refused.status_code, refused.json()["code"]) == (403, "project_closed")
    assert client.get("/v1/balance").json()["available"] == "5000"
    assert operator.http.put(url, json={"closed": True}).json()["code"] == "project_closed"
    assert operator.http.put(url, json={"closed": False}).json()["closed_at"] is None
    assert client.post("/v1/admissions", json={"operation": "image"}).status_code == 200
    assert operator.http.put(url, json={"closed": False}).json()["code"] == "project_open"


def test_only_an_admin_may(operator: Operator) -> None:
    project, client = operator.customer("hobby")
    for method, path, body in (
        ("PUT", "plan", {"plan": "scale"}),
        ("PUT", "standing", {"good_standing": True}),
        ("PUT", "state", {"closed": True}),
        ("POST", "refunds", {"grant_id": "x"}),
    ):
        answer = client.request(method, f"/v1/admin/projects/{project}/{path}", json=body)
        assert answer.status_code in (401, 403)
