"""Billing accounts on the dashboard: opened, changed, given projects, and their invoices."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from tests.calls import Operator, eventually
from tests.dashboard.admin_pages import AdminBrowser


def test_a_billing_account_is_opened_changed_given_a_project_and_invoiced(
    admin: AdminBrowser, operator: Operator
) -> None:
    account, project = f"acme-{secrets.token_hex(4)}", operator.project("hobby")
    wrong = admin.act("/dashboard/new-billing-account", id=account, name="Acme", email="nobody")
    assert wrong.status_code == 422 and 'id="field-email-wrong"' in wrong.text
    opened = admin.act("/dashboard/new-billing-account", id=account, name="Acme <b>", email="pay@example.com")
    assert (opened.status_code, opened.headers["location"]) == (303, f"/dashboard/billing/{account}?done=opened")
    page = admin.page(f"/dashboard/billing/{account}")
    assert "Acme &lt;b&gt;" in page and "No project is on it." in page
    terms = f"/dashboard/billing/{account}/terms"
    assert admin.form(admin.page(terms))["email"] == "pay@example.com"
    assert admin.act(terms, name="Acme Ltd").status_code == 303
    path = f"/dashboard/projects/{project}/acts/billing-account"
    shown = admin.send(path, admin.form(admin.page(path)), step="try", billing_account=account)
    assert shown.status_code == 200 and "What would change" in shown.text
    assert admin.send(path, admin.form(shown.text), step="do").status_code == 303
    assert project in admin.page(f"/dashboard/billing/{account}")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20})
    month = datetime.now(UTC).strftime("%Y-%m")
    eventually(lambda: month in admin.page(f"/dashboard/billing/{account}/parts/invoices"))
    invoice = admin.http.get(f"/dashboard/billing/{account}/invoices/{month}")
    assert invoice.headers["content-type"].startswith("text/html") and "Acme Ltd" in invoice.text
    csv = admin.http.get(f"/dashboard/billing/{account}/invoices/{month}", params={"format": "csv"})
    assert csv.headers["content-type"].startswith("text/csv")
    # With nothing named, the project has an invoice of its own again.
    back = admin.send(path, admin.form(admin.page(path)), step="do", billing_account="")
    assert back.status_code == 303
    assert operator.http.get(f"/v1/admin/projects/{project}").json()["billing_account"] is None
    assert admin.http.get("/dashboard/billing/nobody-has-this").status_code == 404
    assert account in admin.page("/dashboard/billing", cursor=account[:-1])
