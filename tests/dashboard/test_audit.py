"""The audit log on the dashboard: filters, pages, use of keys, and the same as CSV."""

from __future__ import annotations

from tests.calls import Operator, eventually
from tests.dashboard.admin_pages import AdminBrowser


def test_what_was_done_is_found_by_project_and_kind_and_given_as_csv(admin: AdminBrowser, operator: Operator) -> None:
    project, client = operator.customer("hobby")
    operator.http.put(f"/v1/admin/projects/{project}/standing", json={"good_standing": False, "reason": "<i>late</i>"})
    assert client.post("/v1/admissions", json={"operation": "nothing.known"}).status_code == 422

    def page(**asked: str) -> str:
        return admin.page("/dashboard/audit", project=project, **asked)

    eventually(lambda: "&lt;i&gt;late" in page())
    assert "<i>late" not in page()
    assert "&lt;i&gt;late" in page(kind="projects") and "&lt;i&gt;late" not in page(kind="grants")
    assert "Nothing was done that fits." in page(kind="recharge")
    csv = admin.http.get("/dashboard/audit", params={"project": project, "format": "csv"})
    assert csv.headers["content-type"].startswith("text/csv") and "standing" in csv.text
    eventually(lambda: "POST /v1/admissions" in admin.page("/dashboard/audit/keys", project=project))
    wrong = admin.http.get("/dashboard/audit", params={"kind": "nothing"})
    assert wrong.status_code == 422 and 'role="alert"' in wrong.text
    assert admin.http.get("/dashboard/audit", params={"project": "prj_nobody"}).status_code == 404
