"""Refusals below /dashboard are told by pages, whoever refuses; those below /v1, and of files, in JSON."""

from __future__ import annotations

import html
import re

import httpx
import pytest

from api.dashboard.pages import HEADERS
from api.dashboard.static_files import PREFIX
from tests.calls import Operator
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


@pytest.mark.parametrize("page", ["ledger", "holds", "alerts", "usage", "audit", "audit/keys", "dead-letters"])
def test_a_day_or_time_of_the_address_stays_in_its_field(admin: AdminBrowser, operator: Operator, page: str) -> None:
    project = operator.project()
    usual = "datetime-local" if page in ("audit", "audit/keys", "dead-letters") else "date"
    for given in ("2026-01-02", "2026-01-02T03:04", "2026-01-02T03:04:05Z", "2026-02-30", "soon", "<b>", ""):
        answer = admin.http.get(f"/dashboard/{page}", params={"project": project, "from": given, "to": given})
        is_usual = not given or (len(given), given[-2:]) == ((10, "02") if usual == "date" else (16, "04"))
        for name in ("from", "to"):
            field = re.search(rf'<input\b[^>]*\bname="{name}"[^>]*>', answer.text)
            assert field is not None, answer.text
            assert f'value="{html.escape(given)}"' in field[0], (page, given, field[0])
            assert f'type="{usual if is_usual else "text"}"' in field[0], (page, given, field[0])


FILES = [
    ("/dashboard/usage.csv?top=x", 422, "Invalid request"),
    ("/dashboard/usage.csv?project=nobody-has-this", 404, "Unknown project"),
    ("/dashboard/usage.csv?tz=Nowhere", 422, "No time zone"),
    ("/dashboard/audit?format=csv&kind=nothing", 422, "Invalid request"),
    ("/dashboard/audit/keys?format=csv&from=1900-01-01T00:00:00Z", 422, "between 1970 and 2200"),
    ("/dashboard/invoices/2026-01/csv?project=nobody-has-this", 404, "Unknown project"),
    ("/dashboard/invoices/2026-01/page?billing_account=nobody-has-this", 404, "Unknown billing account"),
    ("/dashboard/billing/nobody-has-this/invoices/2026-01?format=csv", 404, "Unknown billing account"),
    ("/dashboard/billing/nobody-has-this/invoices/now", 422, "Invalid request"),
]


def test_a_file_is_refused_by_a_page_and_has_the_headers_of_one(admin: AdminBrowser, operator: Operator) -> None:
    project = operator.project()
    for path, status, words in FILES:
        named = path if "project=" in path or not path.startswith("/dashboard/usage") else f"{path}&project={project}"
        answer = admin.http.get(named)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), named
        assert "<h1>" in answer.text and words in answer.text, (named, answer.text)
    for path in ("/dashboard/usage.csv?", "/dashboard/audit?format=csv&", "/dashboard/audit/keys?format=csv&"):
        answer = admin.http.get(f"{path}project={project}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/csv"), path
        # Nor does a cache on the way keep it, by the end of its name, and give it to the next who asks.
        assert answer.headers.get_list("cache-control") == ["no-store"], path
        for name in ("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"):
            assert answer.headers.get_list(name) == [HEADERS[name]], (path, name)
    rows = admin.page("/dashboard/ledger/rows", project=project)
    stream = re.search(r'hx-sse:connect="([^"]+)"', rows)
    assert stream is not None, rows
    with admin.http.stream("GET", html.unescape(stream[1])) as live:
        assert live.status_code == 200 and live.headers["content-type"].startswith("text/event-stream")
        assert HEADERS.items() <= dict(live.headers).items()


def test_no_method_of_any_page_is_refused_by_anything_but_a_page(admin: AdminBrowser) -> None:
    paths = sorted(path.replace("{", "x").replace("}", "x") for path in get_routes() if not path.startswith(PREFIX))
    for path in paths:
        answer = admin.http.put(path)
        assert (answer.status_code, answer.headers["content-type"][:9]) == (405, "text/html"), path


def test_what_a_program_asks_for_is_refused_in_json(admin: AdminBrowser) -> None:
    for method, path, status in IN_JSON:
        answer = admin.http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
