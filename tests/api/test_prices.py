"""Price books by HTTP: one is announced to every partition, is in force from its time on, and is named by entries."""

import secrets
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.calls import Operator, event, eventually


def book(**changes: object) -> dict:
    return {
        "version": f"v{secrets.token_hex(4)}",
        "effective_at": (datetime.now(UTC) + timedelta(seconds=1)).isoformat(),
        **changes,
    }


def announce(operator: Operator, asked: dict) -> httpx.Response:
    return operator.http.post("/v1/admin/price-books", json=asked)


def versions(operator: Operator) -> list[str]:
    return [each["version"] for each in operator.http.get("/v1/prices/changelog").json()["books"]]


def test_a_new_price_holds_from_its_time_on_in_every_partition(operator: Operator) -> None:
    name = f"op.{secrets.token_hex(3)}"
    customers = [operator.customer("free") for _ in range(8)]
    asked = book(rates={name: "3.5"}, note="a new operation")
    answer = announce(operator, asked)
    assert answer.status_code == 201, answer.text
    ungated = {"plan_before": None, "plan_after": None}
    assert answer.json()["changes"] == [{"operation": name, "before": None, "after": "3.5"} | ungated]
    assert versions(operator)[0] == asked["version"]

    def in_force() -> bool:
        return operator.http.get("/v1/prices").json()["version"] == asked["version"]

    eventually(in_force)
    for project, client in customers:
        admitted = client.post("/v1/admissions", json={"operation": name}).json()
        assert admitted["credits"] == "3.5", project
    project, client = customers[0]
    # A usage event may name the new operation too: accept knows it.
    sent = client.post(
        "/v1/events", json=event(project, "e1", name), headers={"content-type": "application/cloudevents+json"}
    )
    assert sent.status_code == 202
    eventually(lambda: client.get("/v1/balance").json()["available"] == "243")
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 3)
    found = client.get("/v1/ledger").json()["entries"]
    assert {entry["price_version"] for entry in found if entry["kind"] == "charge"} == {asked["version"]}


def test_an_event_costs_what_held_when_it_happened(operator: Operator) -> None:
    name = f"op.{secrets.token_hex(3)}"
    project, client = operator.customer("free")
    before = datetime.now(UTC)
    first = announce(operator, book(rates={name: "9"})).json()
    eventually(lambda: operator.http.get("/v1/prices").json()["version"] == first["version"])
    between = datetime.now(UTC)
    second = announce(operator, book(rates={name: "4"})).json()
    (change,) = second["changes"]
    assert (change["operation"], change["before"], change["after"]) == (name, "9", "4")
    eventually(lambda: operator.http.get("/v1/prices").json()["version"] == second["version"])
    headers = {"content-type": "application/cloudevents+json"}
    for number, at in enumerate((before, between, datetime.now(UTC))):
        sent = event(project, f"e{number}", name) | {"time": at.isoformat()}
        assert client.post("/v1/events", json=sent, headers=headers).status_code == 202
    # The first event happened before there was a price, and is refused.
    eventually(lambda: client.get("/v1/balance").json()["available"] == "237")


def test_a_plan_that_an_operation_needs_is_in_the_changelog(operator: Operator) -> None:
    name = f"op.{secrets.token_hex(3)}"
    first = announce(operator, book(rates={name: "2"}, plan_required={name: "build"})).json()
    second = announce(operator, book(plan_required={name: None})).json()
    changes = [each for found in (first, second) for each in found["changes"] if each["operation"] == name]
    assert changes == [
        {"operation": name, "before": None, "after": "2", "plan_before": None, "plan_after": "build"},
        {"operation": name, "before": "2", "after": "2", "plan_before": "build", "plan_after": None},
    ]


def test_an_increase_needs_thirty_days(operator: Operator) -> None:
    soon = announce(operator, book(rates={"image": "33"}))
    assert (soon.status_code, soon.json()["code"]) == (409, "price_notice_too_short")
    assert "image" in soon.json()["detail"]
    taken_away = announce(operator, book(rates={"image": None}))
    assert taken_away.json()["code"] == "price_notice_too_short"
    gated = announce(operator, book(plan_required={"image": "scale"}))
    assert gated.json()["code"] == "price_notice_too_short"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rates": {"x": "1.0000001"}}, "rates.x"),
        ({"rates": {"x": "-1"}}, "rates.x"),
        ({"rates": {"Bad Name": "1"}}, "rates.Bad Name"),
        ({"effective_at": "2020-01-01T00:00:00Z"}, "effective_at"),
        ({"effective_at": "2099-01-01T00:00:00"}, "effective_at"),
        ({"plan_required": {"nothing": "build"}}, "plan_required.nothing"),
    ],
)
def test_what_is_no_price_book_names_its_field(operator: Operator, changes: dict, field: str) -> None:
    count = len(versions(operator))
    answer = announce(operator, book(**changes))
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert len(versions(operator)) == count


def test_a_version_is_announced_once(operator: Operator) -> None:
    asked = book(rates={"op.once": "1"})
    assert announce(operator, asked).status_code == 201
    again = announce(operator, asked | {"effective_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()})
    assert (again.status_code, again.json()["code"]) == (409, "price_version_exists")


def test_an_announcement_is_repeated_safely_under_an_idempotency_key(operator: Operator) -> None:
    asked, headers = book(rates={"op.repeated": "1"}), {"idempotency-key": secrets.token_hex(4)}
    first = operator.http.post("/v1/admin/price-books", json=asked, headers=headers)
    assert first.status_code == 201, first.text
    count = len(versions(operator))
    again = operator.http.post("/v1/admin/price-books", json=asked, headers=headers)
    assert again.status_code == 201
    assert again.json() | {"in_force": None} == first.json() | {"in_force": None}
    other = operator.http.post("/v1/admin/price-books", json=asked | {"rates": {}}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "price_version_exists")
    assert len(versions(operator)) == count


def test_items_are_metered_and_listed(operator: Operator) -> None:
    name = f"domain_{secrets.token_hex(3)}"
    announced = announce(operator, book(hourly={name: "0.05"}))
    assert announced.status_code == 201, announced.text
    eventually(lambda: operator.http.get("/v1/prices").json()["version"] == announced.json()["version"])
    project, client = operator.customer("hobby")
    url = f"/v1/admin/projects/{project}/items"
    answer = operator.http.put(f"{url}/{name}", json={"quantity": 3})
    assert answer.status_code == 200, answer.text
    (item,) = client.get("/v1/items").json()["items"]
    assert (item["item"], item["quantity"], item["credits_an_hour"], item["unpaid"]) == (name, 3, "0.05", "0")
    assert operator.http.put(f"{url}/nothing", json={"quantity": 1}).json()["code"] == "unknown_operation"
    assert operator.http.put(f"{url}/{name}", json={"quantity": -1}).status_code == 422
    assert operator.http.put(f"{url}/{name}", json={"quantity": 0}).json()["items"] == []
    assert client.post("/v1/admissions", json={"operation": name}).json()["code"] == "unknown_operation"


def test_auto_recharge_is_off_unless_asked_for(operator: Operator) -> None:
    project, _ = operator.customer("free")
    url = f"/v1/admin/projects/{project}/auto-recharge"
    assert operator.http.get(url).json()["on"] is False
    terms = {"on": True, "threshold": "100", "bundle_usd": 20, "cap_usd": 40, "payment_method": "pm_1"}
    answer = operator.http.put(url, json=terms)
    assert (answer.status_code, answer.json()["spent_usd"], answer.json()["pending"]) == (200, 0, None)
    for wrong, field in (
        ({"cap_usd": 19}, "cap_usd"),
        ({"threshold": "0"}, "threshold"),
        ({"payment_method": ""}, "payment_method"),
    ):
        refused = operator.http.put(url, json=terms | wrong)
        assert (refused.status_code, field in refused.text) == (422, True)
    assert operator.http.put(url, json={"on": False}).json()["on"] is False


def test_only_an_admin_announces(operator: Operator) -> None:
    _, client = operator.customer("free")
    assert client.post("/v1/admin/price-books", json=book()).status_code == 403


def test_a_free_project_keeps_its_badge(operator: Operator) -> None:
    free, _ = operator.customer("free")
    paid, _ = operator.customer("hobby")
    answer = operator.http.put(f"/v1/admin/projects/{free}/badge", json={"shown": False})
    assert (answer.status_code, answer.json()["code"]) == (402, "plan_required")
    answer = operator.http.put(f"/v1/admin/projects/{paid}/badge", json={"shown": False})
    assert (answer.json()["badge_required"], answer.json()["badge_shown"]) == (False, False)


def test_a_withdrawn_book_is_in_the_changelog_and_the_audit_and_prices_nothing(operator: Operator) -> None:
    name = f"op.{secrets.token_hex(3)}"
    far = (datetime.now(UTC) + timedelta(days=365)).isoformat()
    asked = book(rates={name: "3.5"}, effective_at=far)
    path = f"/v1/admin/price-books/{asked['version']}"
    assert operator.http.post("/v1/admin/price-books", params={"dry_run": True}, json=asked).status_code == 200
    assert operator.http.delete(path).json()["code"] == "unknown_price_book", "a dry run announces nothing"
    assert announce(operator, asked).json()["withdrawn_at"] is None
    dry = operator.http.delete(path, params={"dry_run": True}).json()
    assert (dry["version"], dry["withdrawn_at"]) == (asked["version"], None)
    gone = [operator.http.delete(path) for _ in range(2)]
    assert gone[0].status_code == 200 and gone[0].json()["withdrawn_at"] is not None, gone[0].text
    assert gone[1].json() == gone[0].json(), "sent again it does nothing more"
    assert operator.http.get("/v1/prices/changelog").json()["books"][0] == gone[0].json()
    prices = operator.http.get("/v1/prices", params={"at": (datetime.now(UTC) + timedelta(days=400)).isoformat()})
    assert name not in [each["operation"] for each in prices.json()["prices"]]
    assert announce(operator, asked).json()["code"] == "price_version_exists"
    follower = announce(operator, book(rates={name: "4"}))
    assert [each["before"] for each in follower.json()["changes"] if each["operation"] == name] == [None]

    def actions() -> list[str]:
        page = operator.http.get("/v1/audit", params={"kind": "prices", "limit": 100}).json()
        return [each["action"] for each in page["entries"] if asked["version"] in each["detail"]]

    eventually(lambda: actions() == ["price_book.withdrawn", "price_book.announced"])


def test_a_book_that_is_in_force_is_not_withdrawn(operator: Operator) -> None:
    soon = announce(operator, book(rates={f"op.{secrets.token_hex(3)}": "1"})).json()["version"]
    assert operator.http.delete(f"/v1/admin/price-books/{soon}").json()["code"] == "price_book_in_force"
    assert operator.http.delete("/v1/admin/price-books/2026-01").json()["code"] == "unknown_price_book"
