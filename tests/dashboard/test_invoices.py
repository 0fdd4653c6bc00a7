"""Invoices on the dashboard: the months, one month with its lines, its files, and a billing account's for admins."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from api.stack import Stack
from tests.calls import Operator, eventually
from tests.dashboard.readers import DashboardReader, text_of

INVOICES = "/dashboard/invoices"


def test_the_open_month_is_shown_with_lines_and_files(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    assert client.post("/v1/admissions", json={"operation": "image", "source": "/invoices"}).status_code == 200
    month = datetime.now(UTC).strftime("%Y-%m")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    assert "Months, UTC" in reader.open(INVOICES)
    months = eventually(
        lambda: (
            (told := text_of(reader.open(f"{INVOICES}/months", is_part=True))) and "32 credits used" in told and told
        )
    )
    assert f"{month} is open: so far $119.00 and 32 credits used" in months
    page = text_of(reader.open(f"{INVOICES}/{month}"))
    assert "$119.00 so far, 32 credits used" in page and "Image production 1 1 −32" in page
    assert "Build plan, monthly fee – 1 – 0 $119.00" in page
    printed = reader.http.get(f"{INVOICES}/{month}/page")
    assert (
        printed.headers["content-type"].startswith("text/html")
        and "$119.00" in printed.text
        or "119.00" in printed.text
    )
    assert "default-src 'none'" in printed.headers["content-security-policy"]
    table = reader.http.get(f"{INVOICES}/{month}/csv")
    assert table.headers["content-type"].startswith("text/csv") and "attachment" in table.headers["content-disposition"]
    assert "has not begun" in reader.open(f"{INVOICES}/2099-01", 422)
    reader.open(f"{INVOICES}/soon", 422)
    empty = text_of(reader.open(f"{INVOICES}/2020-01"))
    assert "Nothing was booked in 2020-01" in empty
    few = DashboardReader(operator.url, operator.key(project, scopes=["content:read"])["key"])
    assert "has no scope" in few.open(f"{INVOICES}/{month}", 403)
    others = DashboardReader(operator.url, operator.key(operator.project())["key"])
    assert "Image" not in others.open(f"{INVOICES}/{month}?project={project}")


def test_a_billing_accounts_invoices_are_an_admins(stack: Stack, operator: Operator) -> None:
    project, account = operator.project("build"), f"acme-{secrets.token_hex(4)}"
    terms = {"id": account, "name": "Acme Agency", "email": "finance@acme.example"}
    assert operator.http.post("/v1/admin/billing-accounts", json=terms).status_code == 201
    body = {"billing_account": account, "from_month_start": True}
    assert operator.http.put(f"/v1/admin/projects/{project}/billing-account", json=body).status_code == 200
    month = datetime.now(UTC).strftime("%Y-%m")
    admin = DashboardReader(operator.url, stack.admin_key)
    asked = f"billing_account={account}"
    assert "one invoice a month for all of its projects" in admin.open(f"{INVOICES}?{asked}")
    eventually(lambda: "$119.00" in text_of(admin.open(f"{INVOICES}/months?{asked}", is_part=True)))
    page = text_of(admin.open(f"{INVOICES}/{month}?{asked}"))
    assert "Acme Agency finance@acme.example" in page and "$119.00 to pay" in page
    assert f"{INVOICES}/{month}/csv?{asked}" in admin.open(f"{INVOICES}/{month}?{asked}")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    assert "for admins" in reader.open(f"{INVOICES}/{month}?{asked}", 403)
    assert "a project, or a billing account" in admin.open(INVOICES, 422)
