"""Signing in to the dashboard, and out."""

from __future__ import annotations

import httpx
import pytest

from api.callers.keys import admin_of, admin_with_id, new_admin_key
from api.dashboard.sessions import Sessions
from api.dashboard.static_files import SHEET, static_path
from api.stack import Stack
from streams.settings import Admin, Role
from tests.calls import Operator


@pytest.fixture
def browser(operator: Operator) -> httpx.Client:
    """A client without a key, which keeps cookies as a browser does."""
    return httpx.Client(base_url=operator.http.base_url, follow_redirects=False)


def test_a_key_signs_in_and_a_wrong_one_does_not(stack: Stack, browser: httpx.Client) -> None:
    asked = browser.get("/dashboard?project=p")
    assert asked.status_code == 303
    assert asked.headers["location"] == "/dashboard/sign-in?next=%2Fdashboard%3Fproject%3Dp"
    wrong = browser.post("/dashboard/sign-in", data={"key": "mtl_admin_wrong"})
    assert wrong.status_code == 401 and "not known" in wrong.text and not browser.cookies
    signed = browser.post("/dashboard/sign-in", data={"key": stack.admin_key, "next": "//elsewhere.example"})
    assert (signed.status_code, signed.headers["location"]) == (303, "/dashboard")
    cookie = signed.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and stack.admin_key.lower() not in cookie
    assert browser.get("/dashboard").headers["location"] == "/dashboard/projects"
    page = browser.get("/dashboard/projects")
    assert page.status_code == 200 and "Sign out" in page.text and stack.admin_key not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert browser.post("/dashboard/sign-out", data={"csrf": "x"}).status_code == 403
    assert browser.get("/dashboard/nope").status_code == 404


@pytest.mark.parametrize("role", ["owner", "finance"])
def test_an_admin_who_has_another_key_has_no_session_of_the_old_one(role: Role) -> None:
    (old, old_hash), (_, new_hash) = new_admin_key(), new_admin_key()
    before = Admin(name="ada", role=role, key_hash=old_hash)
    caller = admin_of(old, [before], [])
    assert caller is not None
    session = Sessions("k" * 40).begin(caller, "UTC")
    assert admin_with_id(session.key_id, [before], [], session.mark) == caller
    after = Admin(name="ada", role=role, key_hash=new_hash)
    assert admin_with_id(session.key_id, [after], [], session.mark) is None
    assert admin_with_id(session.key_id, [], [], session.mark) is None
    # A session that says no key is nobody's: not of the admin who has none, nor of any.
    assert admin_with_id(session.key_id, [before], [old_hash], "") is None
    # One without a name, by its hash alone: another hash that begins the same is another admin.
    owner = admin_of(old, [], [old_hash])
    assert owner is not None
    unnamed = Sessions("k" * 40).begin(owner, "UTC")
    assert admin_with_id(unnamed.key_id, [], [old_hash], unnamed.mark) == owner
    assert admin_with_id(unnamed.key_id, [], [old_hash[:8] + new_hash[8:]], unnamed.mark) is None


def test_whoever_is_refused_before_any_page_is_told_by_a_page_and_has_its_files(stack: Stack) -> None:
    headers = {"x-forwarded-for": "198.51.100.77"}
    with httpx.Client(base_url=stack.url, headers=headers) as visitor:
        large = visitor.post("/dashboard/sign-in", content=b"x" * (stack.settings.request_body_bytes_max + 1))
        for _ in range(stack.settings.public_burst):
            visitor.get("/v1/nothing")
        limited = visitor.get("/dashboard/sign-in")
        for answer, status, words in ((large, 413, "At most"), (limited, 429, "Retry after")):
            assert answer.status_code == status and "<h1>" in answer.text and words in answer.text, answer.text
            assert answer.headers["content-type"].startswith("text/html")
            assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert int(limited.headers["retry-after"]) >= 1
        assert visitor.get("/v1/usage").headers["content-type"] == "application/problem+json"
        assert visitor.get(static_path(SHEET)).status_code == 200
