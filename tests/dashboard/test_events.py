"""The event explorer: what became of an event of any name."""

from __future__ import annotations

import re
import secrets
from html import unescape

from tests.calls import Operator, event, eventually
from tests.dashboard.admin_pages import AdminBrowser

_HEADERS = {"content-type": "application/cloudevents+json"}


def test_an_event_of_any_name_is_found_with_its_receipt(admin: AdminBrowser, operator: Operator) -> None:
    project, client = operator.customer("hobby")
    id, source = f"{secrets.token_hex(4)}/..?<script>&é%2F", "/shop//<b>?x=1"
    assert "Not seen" in admin.page("/dashboard/events", source=source, id=id)
    sent = event(project, id) | {"source": source}
    for _ in range(2):
        assert client.post("/v1/events", json=sent, headers=_HEADERS).status_code == 202

    def came_again() -> str:
        page = admin.page("/dashboard/events", source=source, id=id)
        return page if "Decided" in page and "Came again" in page else ""

    page = eventually(came_again)
    assert "&lt;script&gt;" in page and "<script>&" not in page and "<b>?x" not in page
    link = re.search(rf'href="(/dashboard/projects/{project}/acts/correction[^"]+)"', page)
    assert "Its receipt" in page and link is not None
    form = admin.form(admin.page(unescape(link[1])))
    assert (form["source"], form["id"]) == (source, id)
    elsewhere = admin.page("/dashboard/events", source=source, id=id, project=operator.project())
    assert "Not seen" in elsewhere


def test_a_dead_letter_of_an_event_is_told_with_its_text(admin: AdminBrowser, operator: Operator) -> None:
    id, source = secrets.token_hex(6), "/spoiled"
    operator.http.post("/v1/events", json=event("prj_nobody", id) | {"source": source}, headers=_HEADERS)
    eventually(lambda: "unknown_project" in admin.page("/dashboard/events", source=source, id=id))
    page = admin.page("/dashboard/events", source=source, id=id)
    assert "Dead letter" in page and "prj_nobody" in page
    assert "Which event?" in admin.page("/dashboard/events")
    long = admin.http.get("/dashboard/events", params={"source": "s", "id": "x" * 300})
    assert long.status_code == 422 and "has 1 to 256 characters" in long.text
