"""A payment's reference counts once for each project: by HTTP and by command, asked for at once, and long ago."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from schemas.commands import TopUp
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.history.payments import booked_before
from tests.calls import Operator, eventually
from tests.core.builders import addressed
from tests.history.lives import Life, insert_facts


def test_of_many_purchases_at_once_with_one_reference_one_is_made_and_the_others_name_it(operator: Operator) -> None:
    project = operator.project()
    url = f"/v1/admin/projects/{project}/top-ups"
    body = {"bundle_usd": 20, "reference": "inv-9"}
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: operator.http.post(url, json=body), range(16)))
    (made,) = [each.json() for each in answers if each.status_code == 201]
    refused = [each.json() for each in answers if each.status_code != 201]
    assert {(each["status"], each["code"], each["field"]) for each in refused} == {(409, "reference_used", "reference")}
    assert all(f"entry {made['entry_id']}" in each["detail"] for each in refused) and len(refused) == 15
    assert operator.http.get("/v1/balance", params={"project": project}).json()["available"] == "4250"

    def references() -> list[tuple[str, str]]:
        entries = operator.http.get("/v1/audit", params={"project": project, "kind": "grants"}).json()["entries"]
        return [(each["metadata"]["reference"], each["detail"].rpartition(", ")[2]) for each in entries]

    eventually(lambda: references() == [("inv-9", "payment inv-9")])
    other = operator.project()
    assert operator.http.post(f"/v1/admin/projects/{other}/top-ups", json=body).status_code == 201


def test_the_command_sent_again_buys_once_and_for_something_else_names_the_first(
    operator: Operator, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    project = operator.project()
    argv = ["credits", "top-up", project, "20", "--reference", "Überweisung vom 3. ", "--json"]
    first, again = (json.loads(CliRunner().invoke(app, argv, catch_exceptions=False).stdout) for _ in range(2))
    assert first == again and first["available"] == "4250"
    argv[3] = "100"
    other = CliRunner().invoke(app, argv)
    assert other.exit_code == 1 and f"entry {first['entry_id']}" in str(other.exception)
    assert operator.http.get("/v1/balance", params={"project": project}).json()["available"] == "4250"


def test_the_history_knows_payments_that_the_worker_has_forgotten(embedded: ClickHouse) -> None:
    life = Life(3, recurring=False)
    migrate(embedded)
    for number, reference in enumerate(("inv-9", "", "inv-10")):
        fields = addressed(f"top up {number}")
        life.apply(TopUp(project=life.project, environment="preview", bundle_usd=20, reference=reference, **fields))
    insert_facts(embedded, life.facts)
    booked = [fact for fact in life.facts if fact.reason == "top_up"]
    first = f"0-{booked[0].offset}-{booked[0].index}"
    assert booked_before(embedded, life.project, "inv-9", 32) == first
    # What is newer than this window is the worker's to find.
    assert booked_before(embedded, life.project, "inv-9", 400 * 10) == ""
    assert booked_before(embedded, life.project, "INV-9", 32) == ""
    assert booked_before(embedded, "another", "inv-9", 32) == ""
    assert booked_before(embedded, life.project, "inv-9' OR '1' = '1", 32) == ""


def test_credits_by_contract_are_booked_once_at_their_price_and_the_invoice_says_so(
    operator: Operator, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    project = operator.project()
    argv = ["credits", "top-up", project, "--amount", "250000.5", "--price", "900.10", "--reference", "po-7", "--json"]
    first, again = (json.loads(CliRunner().invoke(app, argv, catch_exceptions=False).stdout) for _ in range(2))
    assert first == again and (first["granted"], first["cents"], first["available"]) == ("250000.5", 90_010, "250250.5")
    url = f"/v1/admin/projects/{project}/top-ups"
    known = operator.http.post(url, json={"bundle_usd": 20, "reference": "po-7"}).json()
    assert (known["code"], first["entry_id"] in known["detail"]) == ("reference_used", True)
    (bought,) = operator.http.get("/v1/balance", params={"project": project}).json()["top_ups"]
    back = operator.http.post(f"/v1/admin/projects/{project}/refunds", json={"grant_id": bought["grant_id"]}).json()
    assert (back["taken_back"], back["refund_cents"]) == ("250000.5", 90_010)
    month = datetime.now(UTC).strftime("%Y-%m")

    def lines() -> list[tuple[str, str]]:
        answer = operator.http.get(f"/v1/invoices/{month}", params={"project": project}).json()
        return [(each["description"], each["amount"]) for part in answer["projects"] for each in part["lines"]]

    sold = [("Credits by contract", "USD 900.10"), ("Refund of credits by contract", "USD -900.10")]
    eventually(lambda: set(sold) <= set(lines()))
    receipt = operator.http.get(f"/v1/receipts/{first['entry_id']}", params={"project": project}).json()
    assert receipt["summary"] == "Granted 250000.5 credits by contract to production, for $900.10"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "bundle_usd"),
        ({"bundle_usd": 20, "credits": "1", "price_cents": 1}, "bundle_usd"),
        ({"bundle_usd": 20, "price_cents": 1}, "bundle_usd"),
        ({"credits": "1"}, "price_cents"),
        ({"price_cents": 1}, "credits"),
        ({"credits": "0", "price_cents": 1}, "credits"),
        ({"credits": "1e3", "price_cents": 1}, "credits"),
        ({"credits": "1", "price_cents": 0}, "price_cents"),
        ({"credits": "1", "price_cents": 1.5}, "price_cents"),
        ({"bundle_usd": 21}, "bundle_usd"),
    ],
)
def test_a_purchase_is_a_bundle_or_an_amount_with_its_price(
    operator: Operator, asked: dict[str, object], field: str
) -> None:
    project = operator.project()
    answer = operator.http.post(f"/v1/admin/projects/{project}/top-ups", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert field in answer.json().get("field", ""), answer.json()
    assert operator.http.get("/v1/balance", params={"project": project}).json()["top_ups"] == []
