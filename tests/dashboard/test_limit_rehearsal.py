"""The rehearsal of limits on the dashboard: it runs from its address, and streams its progress and its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from api.dashboard.rehearsing import _fragments
from api.dashboard.sessions import Session, Sessions
from tests.calls import Operator, eventually
from tests.dashboard.admin_pages import AdminBrowser

_RUN = "/dashboard/limit-rehearsal/run"


def test_a_rehearsal_streams_to_its_result(admin: AdminBrowser, operator: Operator) -> None:
    project, client = operator.customer("hobby")
    for _ in range(3):
        assert client.post("/v1/admissions", json={"operation": "chat.message"}).status_code == 200
    page = admin.page("/dashboard/limit-rehearsal", project=project, requests_per_minute="1", burst="1")
    assert f"{_RUN}?" in page and f"project={project}" in page
    asked = {"project": project, "requests_per_minute": "1", "burst": "1", "days": "1", "with_events": "on"}

    def result() -> str:
        answer = admin.http.get(_RUN, params=asked)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        messages = answer.text.strip().split("\n\n")
        assert all(line.startswith("data: ") for message in messages for line in message.splitlines())
        assert "Replaying the recorded requests" in messages[0]
        return messages[-1]

    # Of one request alone nothing is refused.
    last = eventually(lambda: "1<small>of 1 would have been hurt" in (told := result()) and told)
    assert f"/dashboard/projects/{project}" in last and "1<small>of 1 would have been hurt" in last


def test_a_rehearsal_is_told_no_further_once_its_reader_has_signed_out() -> None:
    sessions = Sessions("k" * 40)
    session = Session("s", None, "admin:ada", "production", 1 << 40)
    app = SimpleNamespace(state=SimpleNamespace(sessions=sessions))
    request = SimpleNamespace(app=app)
    view: Any = SimpleNamespace(request=request, session=session, rendered=lambda _, done, **rest: str(done))

    async def lines() -> AsyncIterator[Any]:
        for done in range(9):
            yield {"done": done, "all": 9}

    async def told() -> list[bytes]:
        found = list[bytes]()
        async for piece in _fragments(view, lines(), "", {}):
            found.append(piece)
            if len(found) == 3:
                sessions.sign_out(session)
        return found

    assert asyncio.run(told()) == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


def test_what_is_wrong_is_told_where_the_result_would_be(admin: AdminBrowser, operator: Operator) -> None:
    project = operator.project()
    nothing = admin.http.get(_RUN, params={"project": project, "burst": "99"})
    assert nothing.status_code == 200 and 'role="alert"' in nothing.text and "Nothing recorded" in nothing.text
    wrong = admin.http.get(_RUN, params={"project": project}, headers={"hx-request": "true"})
    assert wrong.status_code == 422 and "Say which limit is to be another" in wrong.text and "<html" not in wrong.text
    first = admin.page("/dashboard/limit-rehearsal")
    assert _RUN not in first
