"""Signing in to the dashboard, and out."""

from __future__ import annotations

import httpx
import pytest

from api.stack import Stack
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
    page = browser.get("/dashboard")
    assert page.status_code == 200 and "Sign out" in page.text and stack.admin_key not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert browser.post("/dashboard/sign-out", data={"csrf": "x"}).status_code == 403
    assert browser.get("/dashboard/nope").status_code == 404
