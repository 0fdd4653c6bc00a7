"""Dead letters on the dashboard: those there are by code and time, and one with its text, which is shown as text."""

from __future__ import annotations

import re
import secrets

import orjson

from api.stack import Stack
from tests.api.test_dead_letters import send
from tests.calls import Operator, event, eventually
from tests.dashboard.admin_pages import AdminBrowser


def test_dead_letters_are_found_by_code_and_time_and_shown_as_text(
    admin: AdminBrowser, stack: Stack, operator: Operator
) -> None:
    mark = secrets.token_hex(6)
    sent = event("prj_nobody", f"<script>{mark}</script>")
    operator.http.post("/v1/events", json=sent, headers={"content-type": "application/cloudevents+json"})
    eventually(lambda: mark in admin.page("/dashboard/dead-letters", code="unknown_project"))
    page = admin.page("/dashboard/dead-letters", code="unknown_project")
    assert f"<script>{mark}" not in page
    row = next(each for each in page.split("<tr>") if mark in each)
    where = re.search(r'href="(/dashboard/dead-letters/[^"]+)"', row)
    assert where is not None
    one = admin.page(where[1])
    assert f"&lt;script&gt;{mark}" in one and f"<script>{mark}" not in one and "Remedy" in one
    assert mark not in admin.page("/dashboard/dead-letters", code="malformed_json")
    assert "No dead letter fits." in admin.page(
        "/dashboard/dead-letters", to="2020-01-31T00:00", **{"from": "2020-01-01T00:00"}
    )
    # Whose it is leads to what else came from there, and the address says so.
    assert 'href="/dashboard/dead-letters?code=unknown_project&amp;subject=prj_nobody"' in row
    sent = event("No Such", f"{mark}-2") | {"source": f"/producer/{mark}"}
    send(stack, orjson.dumps(sent))
    asked = {"source": sent["source"], "subject": "No Such"}
    page = eventually(lambda: (told := admin.page("/dashboard/dead-letters", **asked)) and f"{mark}-2" in told and told)
    assert f"<script&gt;{mark}" not in page and page.count("<tr>") == 2
    assert f'name="source" value="{sent["source"]}"' in page and 'name="subject" value="No Such"' in page
    assert "Show all" in page
    assert "No dead letter fits." in admin.page("/dashboard/dead-letters", **asked | {"code": "unknown_project"})
    assert "No dead letter fits." in admin.page("/dashboard/dead-letters", subject="prj_nobody", source="/elsewhere")
    wrong = admin.http.get("/dashboard/dead-letters", params={"code": "NO!"})
    assert wrong.status_code == 422 and 'role="alert"' in wrong.text
    assert admin.http.get("/dashboard/dead-letters/no:1:2:3").status_code == 404
