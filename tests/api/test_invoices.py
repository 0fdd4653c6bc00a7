"""Billing accounts and invoices by HTTP, on the whole stack."""

import csv
import io
import secrets
from datetime import UTC, datetime

import httpx
import pytest

from tests.calls import Operator, eventually


def this_month() -> str:
    return datetime.now(UTC).strftime("%Y-%m")


def open_account(operator: Operator, name: str = "Acme", **headers: str) -> str:
    account = f"acct-{secrets.token_hex(4)}"
    answer = post(operator, account, name, **headers)
    assert answer.status_code == 201, answer.text
    return account


def post(operator: Operator, account: str, name: str, **headers: str) -> httpx.Response:
    body = {"id": account, "name": name, "email": "finance@example.com"}
    return operator.http.post("/v1/admin/billing-accounts", json=body, headers=headers)


def put_on(operator: Operator, project: str, account: str | None) -> httpx.Response:
    return operator.http.put(f"/v1/admin/projects/{project}/billing-account", json={"billing_account": account})


def top_up(operator: Operator, project: str, usd: int, **body: str) -> None:
    answer = operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": usd, **body})
    assert answer.status_code == 201, answer.text


def use(client: httpx.Client, operation: str = "image", **body: object) -> None:
    assert client.post("/v1/admissions", json={"operation": operation, **body}).status_code == 200


def in_history(client: httpx.Client, entries: int) -> None:
    eventually(lambda: len(client.get("/v1/ledger", params={"limit": 1000}).json()["entries"]) == entries)


def invoice(operator: Operator, account: str, **params: str) -> dict:
    answer = operator.http.get(f"/v1/admin/billing-accounts/{account}/invoices/{this_month()}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def agency(operator: Operator):
    """Two billing accounts and two projects: one stays on the first account; the other moves from it to the second, and
    then to an invoice of its own."""
    first, second = open_account(operator, "Acme"), open_account(operator, "Umbrella")
    stays, stays_client = named_customer(operator, "<script>alert(1)</script>")
    moves, moves_client = named_customer(operator, "=HYPERLINK(1)")
    assert put_on(operator, stays, first).json()["billing_account"] == first
    top_up(operator, stays, 100)
    use(stays_client, "website")
    # The plan's price and allowance are on the project's own invoice: they were booked before it moved.
    assert put_on(operator, moves, first).status_code == 200
    top_up(operator, moves, 20)
    use(moves_client, "image", quantity=2)
    assert put_on(operator, moves, second).status_code == 200
    use(moves_client, "chat.message", quantity=3)
    upgrade = operator.http.put(f"/v1/admin/projects/{moves}/plan", json={"plan": "build"})
    assert upgrade.status_code == 200
    assert put_on(operator, moves, None).json()["billing_account"] is None
    use(moves_client, "page.edit")
    in_history(stays_client, 3)
    in_history(moves_client, 6)
    return first, second, stays, moves, stays_client, moves_client


def named_customer(operator: Operator, name: str) -> tuple[str, httpx.Client]:
    project = operator.project("hobby", name=name)
    return project, operator.client(operator.key(project)["key"])


def test_one_invoice_for_two_projects_and_a_move_splits_exactly(operator: Operator, agency) -> None:
    first, second, stays, moves, _, moves_client = agency
    on_first, on_second = invoice(operator, first), invoice(operator, second)
    assert (on_first["number"], on_first["status"], on_first["currency"]) == (
        f"INV-{first}-{this_month()}",
        "open",
        "USD",
    )
    assert on_first["bill_to"] == {"name": "Acme", "email": "finance@example.com"}
    parts = {part["project"]: part for part in on_first["projects"]}
    assert {name: (part["total"], part["credits_used"]) for name, part in parts.items()} == {
        stays: ("USD 100.00", "240"),
        moves: ("USD 20.00", "64"),
    }
    assert (on_first["total_cents"], on_first["total"], on_first["credits_used"]) == (120_00, "USD 120.00", "304")
    (part,) = on_second["projects"]
    assert (part["project"], part["total_cents"], part["credits_used"]) == (moves, 94_00, "3")
    statement = moves_client.get(f"/v1/invoices/{this_month()}").json()
    assert (statement["kind"], statement["bill_to"]) == ("statement", None)
    by_invoice = {part["invoice"]: part for part in statement["projects"]}
    own = f"INV-P-{moves}-{this_month()}"
    assert by_invoice.keys() == {own, on_first["number"], on_second["number"]}
    assert by_invoice[on_first["number"]] == parts[moves]
    assert by_invoice[on_second["number"]] == part
    # Its own invoice has the hobby plan, booked before it joined, and one use after it left.
    assert (by_invoice[own]["total_cents"], by_invoice[own]["credits_used"]) == (25_00, "2")
    assert statement["total_cents"] == 25_00 + 20_00 + 94_00
    balance = moves_client.get("/v1/balance").json()["available"]
    assert sum(float(part["credits_change"]) for part in statement["projects"]) == float(balance)


def test_the_wall_between_projects(operator: Operator, agency) -> None:
    first, _, stays, moves, stays_client, moves_client = agency
    answer = stays_client.get(f"/v1/invoices/{this_month()}")
    assert {part["project"] for part in answer.json()["projects"]} == {stays}
    assert moves not in answer.text and "finance@example.com" not in answer.text
    for suffix in ("csv", "html"):
        assert moves not in stays_client.get(f"/v1/invoices/{this_month()}", params={"format": suffix}).text
    for path in ("/v1/invoices", f"/v1/invoices/{this_month()}"):
        other = stays_client.get(path, params={"project": moves})
        assert (other.status_code, other.json()["code"]) == (403, "wrong_project")
        preview = operator.client(operator.key(stays, "preview")["key"]).get(path)
        assert (preview.status_code, preview.json()["code"]) == (403, "missing_scope")
        reader = operator.client(operator.key(stays, scopes=["content:read"])["key"]).get(path)
        assert (reader.status_code, reader.json()["code"]) == (403, "missing_scope")
        biller = operator.client(operator.key(stays, scopes=["billing:read"])["key"]).get(path)
        assert biller.status_code == 200
        assert operator.client(None).get(path).status_code == 401
        assert operator.http.get(path, params={"project": stays}).status_code == 200
        assert operator.http.get(path).json()["field"] == "project"
    for method, path in (
        ("GET", "/v1/admin/billing-accounts"),
        ("POST", "/v1/admin/billing-accounts"),
        ("GET", f"/v1/admin/billing-accounts/{first}"),
        ("PUT", f"/v1/admin/billing-accounts/{first}"),
        ("GET", f"/v1/admin/billing-accounts/{first}/invoices"),
        ("GET", f"/v1/admin/billing-accounts/{first}/invoices/{this_month()}"),
        ("PUT", f"/v1/admin/projects/{stays}/billing-account"),
    ):
        refused = stays_client.request(method, path, json={} if method != "GET" else None)
        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope"), path


def test_months_are_listed(operator: Operator, agency) -> None:
    first, _, stays, moves, stays_client, moves_client = agency
    (listed,) = operator.http.get(f"/v1/admin/billing-accounts/{first}/invoices").json()["invoices"]
    full = invoice(operator, first)
    assert listed == {
        "month": this_month(),
        "number": full["number"],
        "status": "open",
        "projects": 2,
        "total_cents": 120_00,
        "total": "USD 120.00",
        "credits_used": "304",
        "facts": full["facts"],
    }
    (own,) = moves_client.get("/v1/invoices").json()["invoices"]
    assert (own["number"], own["projects"], own["total_cents"]) == (f"STM-{moves}-{this_month()}", 1, 139_00)
    none = operator.http.get(f"/v1/admin/billing-accounts/{open_account(operator)}/invoices").json()
    assert none == {"invoices": [], "next_cursor": None}


def test_a_past_month_is_final_once_everything_is_decided(operator: Operator, agency) -> None:
    first, *_ = agency
    url = f"/v1/admin/billing-accounts/{first}/invoices/2024-01"
    past = eventually(lambda: (found := operator.http.get(url).json())["status"] == "final" and found)
    assert (past["projects"], past["total"], past["period_from"]) == ([], "USD 0.00", "2024-01-01T00:00:00Z")
    assert "Nothing was booked" in operator.http.get(url, params={"format": "html"}).text


def test_csv(operator: Operator, agency) -> None:
    first, *_ = agency
    path = f"/v1/admin/billing-accounts/{first}/invoices/{this_month()}"
    answer = operator.http.get(path, headers={"accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    assert f'filename="INV-{first}-{this_month()}.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert sum(int(row["cents"]) for row in rows) == 120_00
    assert {row["project_name"] for row in rows} == {"'=HYPERLINK(1)", "<script>alert(1)</script>"}
    # The parameter decides, and not the header.
    assert (
        operator.http.get(path, params={"format": "json"}, headers={"accept": "text/csv"}).json()["currency"] == "USD"
    )


def test_html(operator: Operator, agency) -> None:
    first, *_ = agency
    path = f"/v1/admin/billing-accounts/{first}/invoices/{this_month()}"
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    answer = operator.http.get(path, headers=browser)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "<script" not in answer.text
    assert "USD 120.00" in answer.text and "@page" in answer.text


def test_a_billing_account_is_opened_once_looked_up_listed_and_changed(operator: Operator) -> None:
    account = open_account(operator, "First", **{"idempotency-key": "open-it"})
    assert post(operator, account, "First", **{"idempotency-key": "open-it"}).status_code == 201
    again = post(operator, account, "Second")
    assert (again.status_code, again.json()["code"]) == (409, "billing_account_exists")
    url = f"/v1/admin/billing-accounts/{account}"
    changed = operator.http.put(url, json={"name": "Second", "email": "other@example.com"})
    assert (changed.status_code, changed.json()["name"]) == (200, "Second")
    project = operator.project("free", name="Shop")
    assert operator.http.get(url).json()["projects"] == []
    assert put_on(operator, project, account).status_code == 200
    found = operator.http.get(url).json()
    assert (found["name"], found["email"]) == ("Second", "other@example.com")
    assert found["projects"] == [{"project": project, "name": "Shop"}]
    seen, cursor = [], ""
    while cursor is not None:
        page = operator.http.get("/v1/admin/billing-accounts", params={"limit": 1, "cursor": cursor}).json()
        seen += [each["id"] for each in page["billing_accounts"]]
        cursor = page["next_cursor"]
    assert account in seen and seen == sorted(set(seen))


def test_what_is_wrong_is_named(operator: Operator) -> None:
    account, project = open_account(operator), operator.project()
    for answer in (
        put_on(operator, project, "nobody"),
        operator.http.get("/v1/admin/billing-accounts/nobody"),
        operator.http.put("/v1/admin/billing-accounts/nobody", json={"name": "N", "email": "n@example.com"}),
        operator.http.get("/v1/admin/billing-accounts/nobody/invoices"),
        operator.http.get(f"/v1/admin/billing-accounts/nobody/invoices/{this_month()}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_billing_account")
    ghost = put_on(operator, "prj_ghost", account)
    assert (ghost.status_code, ghost.json()["code"]) == (404, "unknown_project")
    invoices = f"/v1/admin/billing-accounts/{account}/invoices"
    for month in ("2026-13", "2026-1", "26-01", "nonsense", "2099-01"):
        answer = operator.http.get(f"{invoices}/{month}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), month
        assert answer.json()["field"] in ("month", "path.month")
    assert operator.http.get(f"{invoices}/{this_month()}", params={"format": "xml"}).status_code == 422
    for body in (
        {"id": "Upper", "name": "n", "email": "a@b"},
        {"id": "a:b", "name": "n", "email": "a@b"},
        {"id": "ok", "name": "", "email": "a@b"},
        {"id": "ok", "name": "n", "email": "nobody"},
        {"id": "ok", "name": "n", "email": "a@b", "more": 1},
        {"id": "ok", "name": "n"},
    ):
        assert operator.http.post("/v1/admin/billing-accounts", json=body).status_code == 422, body
    assert operator.http.put(f"/v1/admin/projects/{project}/billing-account", json={}).status_code == 422
    assert put_on(operator, project, "billing:x").status_code == 422


def test_what_stays_behind_is_said_before_and_moves_from_the_months_start(operator: Operator) -> None:
    account, (project, client) = open_account(operator), named_customer(operator, "Shop")
    top_up(operator, project, 20)
    own, theirs = f"INV-P-{project}-{this_month()}", f"INV-{account}-{this_month()}"
    url = f"/v1/admin/projects/{project}/billing-account"

    def assign(**body: object) -> tuple[object, ...]:
        answer = operator.http.put(url, json={"billing_account": account, **body})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        here, stays = said["on_invoice"], [(each["invoice"], each["amount"]) for each in said["stays_behind"]]
        return said["dry_run"], said["billing_account"], here["invoice"], here["amount"], stays

    def on_it() -> str | None:
        return client.get("/v1/projects/me").json()["billing_account"]

    assert assign(dry_run=True) == (True, account, theirs, "USD 0.00", [(own, "USD 45.00")])
    assert assign(dry_run=True, from_month_start=True) == (True, account, theirs, "USD 45.00", [])
    assert on_it() is None
    assert assign() == (False, account, theirs, "USD 0.00", [(own, "USD 45.00")])
    assert on_it() == account
    assert assign(from_month_start=True) == (False, account, theirs, "USD 45.00", [])
    assert assign(from_month_start=True) == (False, account, theirs, "USD 45.00", [])
    eventually(lambda: invoice(operator, account)["total_cents"] == 45_00)
    statement = client.get(f"/v1/invoices/{this_month()}").json()
    assert {part["invoice"]: part["total_cents"] for part in statement["projects"]} == {own: 0, theirs: 45_00}
    audit = operator.http.get("/v1/audit", params={"project": project, "kind": "billing"}).json()["entries"]
    assert [each["action"] for each in audit if "transfer" in each["action"]] == [
        "transfer.moved_in",
        "transfer.moved_out",
    ]
    for body in ({"from_month_start": "yes!"}, {"dry_run": 7}, {"since": "2026-01"}):
        assert operator.http.put(url, json={"billing_account": account, **body}).status_code == 422
    unknown = operator.http.put(url, json={"billing_account": "nobody", "dry_run": True})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_billing_account")


def test_a_project_that_nobody_used_is_on_its_accounts_page(operator: Operator) -> None:
    account, project = open_account(operator), operator.project("free", name="Idle")
    assert put_on(operator, project, account).status_code == 200
    parts = eventually(lambda: invoice(operator, account)["projects"])
    assert [(part["project"], part["name"], part["total"], part["lines"]) for part in parts] == [
        (project, "Idle", "USD 0.00", [])
    ]
    path = f"/v1/admin/billing-accounts/{account}/invoices/{this_month()}"
    assert "Idle" in operator.http.get(path, params={"format": "html"}).text
