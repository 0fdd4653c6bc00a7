"""The state of the system on the dashboard, as a page and as the part of it that moves."""

from __future__ import annotations

import re

from tests.calls import Operator
from tests.dashboard.admin_pages import AdminBrowser


def test_the_system_is_shown_and_its_part_is_asked_for_again(admin: AdminBrowser, operator: Operator) -> None:
    told = operator.http.get("/v1/admin/status").json()
    page = admin.page("/dashboard/system")
    assert 'hx-get="/dashboard/system/now" hx-trigger="every 5s" hx-swap="innerMorph"' in page
    part = admin.page("/dashboard/system/now")
    assert "<html" not in part
    for text in (page, part):
        assert ("All is well." in text) == (not told["wrong"])
        for lag in told["lags"]:
            assert f'id="lag-{lag["topic"]}"' in text
        assert all(worker["name"] in text for worker in told["workers"])
    assert told["drifting_projects"] == 0
    # Whatever changes has an id that stays, so that the reader's focus stays on it.
    ids = re.findall(r'id="([^"]+)"', part)
    assert ids == re.findall(r'id="([^"]+)"', admin.page("/dashboard/system/now")) and len(set(ids)) == len(ids)
    assert "disabled" in admin.page("/dashboard/system/endpoints")
