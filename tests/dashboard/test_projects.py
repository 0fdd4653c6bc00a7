"""Projects on the dashboard: finding one, opening one, and the page of one."""

from __future__ import annotations

import re
import secrets

from tests.calls import Operator, eventually
from tests.dashboard.admin_pages import AdminBrowser


def test_an_admin_who_names_no_project_is_led_to_the_projects(admin: AdminBrowser) -> None:
    answer = admin.http.get("/dashboard")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/projects")


def test_projects_are_found_by_id_name_plan_and_state_and_paged(admin: AdminBrowser, operator: Operator) -> None:
    mark = secrets.token_hex(4)
    projects = [operator.project("hobby", name=f"<i>{mark}</i> {number}") for number in range(3)]
    page = admin.page("/dashboard/projects", search=mark.upper())
    assert all(f'href="/dashboard/projects/{each}"' in page for each in projects)
    assert f"&lt;i&gt;{mark}" in page and f"<i>{mark}" not in page
    assert "5<i></i>000" in page
    assert all(each not in admin.page("/dashboard/projects", search=mark, plan="free") for each in projects)
    operator.http.put(f"/v1/admin/projects/{projects[1]}/state", json={"closed": True})
    closed = admin.page("/dashboard/projects", search=mark, state="closed")
    assert projects[1] in closed and projects[0] not in closed
    nothing = admin.page("/dashboard/projects", search=f"{mark}-none")
    assert "No project fits." in nothing
    wrong = admin.http.get("/dashboard/projects", params={"balance_below": "much"})
    assert wrong.status_code == 422 and 'role="alert"' in wrong.text and 'value="much"' in wrong.text


def test_a_page_ends_with_the_way_to_the_next_one(admin: AdminBrowser, operator: Operator) -> None:
    mark = secrets.token_hex(4)
    projects = sorted(operator.project(name=mark) for _ in range(52))
    page = admin.page("/dashboard/projects", search=mark)
    following = re.search(r'href="([^"]+)" rel="next"', page)
    assert projects[0] in page and projects[51] not in page and following is not None
    second = admin.page(following[1].replace("&amp;", "&"))
    assert projects[51] in second and projects[0] not in second and "First page" in second


def test_a_project_is_opened_once_with_a_key_that_is_shown_once(admin: AdminBrowser, operator: Operator) -> None:
    project = f"prj_{secrets.token_hex(5)}"
    form = admin.form(admin.page("/dashboard/new-project"))
    opened = admin.send("/dashboard/new-project", form, step="do", project=project, plan="build", name="Shop")
    key = re.search(r"mtl_live_[A-Za-z0-9_.-]+", opened.text)
    assert opened.status_code == 200 and key is not None
    assert operator.client(key[0]).get("/v1/projects/me").json()["plan"] == "build"
    again = admin.send("/dashboard/new-project", form, step="do", project=project, plan="build", name="Shop")
    assert key[0] not in again.text and "was made under this Idempotency-Key" in again.text
    assert len(operator.http.get(f"/v1/admin/projects/{project}/keys").json()["keys"]) == 1
    taken = admin.act("/dashboard/new-project", project=project)
    assert taken.status_code == 409
    wrong = admin.act("/dashboard/new-project", project="no spaces")
    assert wrong.status_code == 422 and 'id="field-project-wrong"' in wrong.text


def test_the_page_of_a_project_shows_what_it_has_and_what_was_done(admin: AdminBrowser, operator: Operator) -> None:
    project = operator.project("hobby", name="Shop")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20})
    page = admin.page(f"/dashboard/projects/{project}")
    for text in (
        "9<i></i>000",
        "Bundles, 1 with credits left",
        "hobby",
        "in good standing",
        f"/dashboard?project={project}",
    ):
        assert text in page, text

    def past() -> bool:
        return "top_up.granted" in admin.page(f"/dashboard/projects/{project}/parts/past")

    eventually(past)
    missing = admin.http.get("/dashboard/projects/prj_nobody_has_this")
    assert missing.status_code == 404 and "There is no project" in missing.text
    assert admin.http.get("/dashboard/projects/no%20such").status_code == 404


def test_an_erasure_leads_to_its_progress(admin: AdminBrowser, operator: Operator) -> None:
    project, client = operator.customer("hobby")
    sent = {"operation": "chat.message", "metadata": {"customer_id": "c-1"}}
    assert client.post("/v1/admissions", json=sent).status_code == 200
    path = f"/dashboard/projects/{project}/acts/erasure"
    shown = admin.send(path, admin.form(admin.page(path)), step="try", customer_id="c-1")
    assert shown.status_code == 200 and "Facts left" in shown.text
    done = admin.send(path, admin.form(shown.text), step="do", typed=project)
    assert done.status_code == 303
    where = done.headers["location"]
    assert where.startswith(f"/dashboard/projects/{project}/erasures/")
    eventually(lambda: "No row that came before has it any more" in admin.page(where))
