"""Refusals below /dashboard are told by pages, whoever refuses; those below /v1, and of files, in JSON."""

from __future__ import annotations

import httpx
import pytest

from api.dashboard.static_files import PREFIX
from tests.dashboard.admin_pages import AdminBrowser
from tests.dashboard.walked import get_routes

METHODS = ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")
FORM = {"content-type": "application/x-www-form-urlencoded"}
# What is asked, and the status and the words of the page that tells why it is refused.
REFUSED = [
    *((method, "/dashboard/projects", {}, 405, "Method not allowed") for method in METHODS),
    *((method, "/dashboard/no-such-page", {}, 405, "Method not allowed") for method in METHODS),
    *((method, "/dashboard", {}, 405, "Method not allowed") for method in ("POST", "PUT", "DELETE")),
    ("POST", "/dashboard/", {}, 405, "Method not allowed"),
    ("POST", "/dashboard/alerts/rules/", {}, 405, "Method not allowed"),
    ("PUT", "/dashboard/sign-in", {}, 405, "Method not allowed"),
    ("DELETE", "/dashboard/portal", {}, 405, "Method not allowed"),
    ("PUT", "/dashboard/price-books/announce", {}, 405, "Method not allowed"),
    ("GET", f"/dashboard/portal?why={'x' * 301}", {}, 422, "Invalid request"),
    ("GET", f"/dashboard/sign-in?next={'x' * 2001}", {}, 422, "Invalid request"),
    ("GET", "/dashboard/brand/0000", {}, 404, "Not found"),
    ("POST", "/dashboard/sign-in", {"content-encoding": "br"}, 415, "br is not taken here"),
    ("POST", "/dashboard/sign-in", FORM | {"content-encoding": "gzip"}, 400, "The packed body is not whole"),
    ("POST", "/dashboard/sign-in", {"content-type": "application/json"}, 415, "A form is sent as"),
]
# The same by JSON: files have no readers of pages, and programs ask the API.
IN_JSON = [
    ("POST", f"{PREFIX}/x/meterline.css", 405),
    ("GET", f"{PREFIX}/x/no-such-file", 404),
    ("POST", "/dashboards", 404),
    ("DELETE", "/v1/balance", 405),
]


@pytest.mark.parametrize("is_part", [False, True], ids=["page", "part"])
@pytest.mark.parametrize("is_signed_in", [False, True], ids=["nobody", "admin"])
def test_what_is_refused_is_told_by_a_page(admin: AdminBrowser, is_signed_in: bool, is_part: bool) -> None:
    wrong = list[str]()
    with httpx.Client(base_url=admin.http.base_url) as nobody:
        reader = admin.http if is_signed_in else nobody
        for method, path, headers, status, words in REFUSED:
            asked = headers | ({"hx-request": "true"} if is_part else {})
            answer = reader.request(method, path, headers=asked, content=b"x" if headers else None)
            is_page = answer.headers["content-type"].startswith("text/html") and "content-security-policy" in (
                answer.headers
            )
            # An answer to HEAD has no body.
            is_page &= (status == 405) == ("allow" in answer.headers)
            is_told = method == "HEAD" or (words in answer.text and ("<h1>" in answer.text) != is_part)
            if (answer.status_code, is_page, is_told) != (status, True, True):
                wrong.append(f"{method} {path[:60]}: {answer.status_code} {answer.headers} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)


def test_no_method_of_any_page_is_refused_by_anything_but_a_page(admin: AdminBrowser) -> None:
    paths = sorted(path.replace("{", "x").replace("}", "x") for path in get_routes() if not path.startswith(PREFIX))
    for path in paths:
        answer = admin.http.put(path)
        assert (answer.status_code, answer.headers["content-type"][:9]) == (405, "text/html"), path


def test_what_a_program_asks_for_is_refused_in_json(admin: AdminBrowser) -> None:
    for method, path, status in IN_JSON:
        answer = admin.http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
