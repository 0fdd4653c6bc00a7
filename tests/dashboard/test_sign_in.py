"""Signing in to the dashboard, and out."""

from __future__ import annotations

import time
from itertools import takewhile
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from api.callers.keys import admin_of, admin_with_id, new_admin_key
from api.dashboard.sessions import COOKIE, Session, Sessions, find_session
from api.dashboard.static_files import SHEET, static_path
from api.stack import Stack
from streams.settings import Admin, Role
from tests.calls import Operator, eventually
from tests.dashboard.portal_calls import csrf_of


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


def test_whoever_signs_in_is_led_back_to_the_page_that_was_looked_at(stack: Stack, browser: httpx.Client) -> None:
    def led_to(method: str, path: str, **headers: str) -> str:
        asked = browser.request(method, path, headers=headers)
        assert asked.status_code == 303, asked.text
        assert browser.get(asked.headers["location"]).status_code == 200
        return parse_qs(urlsplit(asked.headers["location"]).query).get("next", [""])[0]

    page, here = "/dashboard/alerts?environment=preview", str(browser.base_url).rstrip("/")
    # What a form is sent to need not have a page: it leads back to the one that has the form.
    for path in ("/dashboard/alerts/rules", "/dashboard/sign-out", "/dashboard/holds/0-1-0"):
        assert led_to("POST", path, referer=f"{here}{page}") == page
        for other in ("https://elsewhere.example/dashboard", "http://[", ""):
            assert led_to("POST", path, referer=other) == ""
    # A long address, as names in other scripts make it, leads to its page.
    assert led_to("GET", f"/dashboard/ledger?customer_id={'顧' * 500}") == "/dashboard/ledger"
    odd = "/dashboard/receipts/%C5%BC%3F%0D%0Ax?project=p&note=%C5%BC"
    assert led_to("GET", odd) == odd
    for next, led in ((odd, odd), ("/dashboard/ż", "/dashboard"), ("/dashboard\r\nset-cookie: a=b", "/dashboard")):
        signed = browser.post("/dashboard/sign-in", data={"key": stack.admin_key, "next": next})
        assert (signed.status_code, signed.headers["location"]) == (303, led)
        assert [name for name, _ in signed.headers.multi_items()].count("set-cookie") == 1


def test_who_has_signed_out_has_no_copy_of_the_session_and_others_have_theirs(
    stack: Stack, operator: Operator, browser: httpx.Client
) -> None:
    project, client = operator.customer("build")
    entry = eventually(lambda: client.get("/v1/ledger").json()["entries"])[0]["entry_id"]
    key = operator.key(project)["key"]
    copy, other = (httpx.Client(base_url=operator.url, timeout=30.0) for _ in range(2))
    for each in (browser, other):
        assert each.post("/dashboard/sign-in", data={"key": key}).status_code == 303
    copy.cookies.update(browser.cookies)
    page = copy.get("/dashboard").text
    stream = {"url": "/dashboard/ledger/stream", "params": {"after": entry}}
    with copy.stream("GET", **stream) as open_stream, other.stream("GET", **stream) as kept:
        lines, kept_lines = open_stream.iter_lines(), kept.iter_lines()
        # They are open, and have told of their first heartbeat.
        assert ": nothing new" in lines and ": nothing new" in kept_lines
        assert browser.post("/dashboard/sign-out", data={"csrf": csrf_of(page)}).status_code == 303
        # The cookie is out of the browser, and of no use where it was copied to.
        assert not browser.cookies and copy.cookies
        for answer in (
            copy.get("/dashboard"),
            copy.get("/dashboard/ledger/rows", params={"limit": 5}),
            copy.get(**stream),
            copy.post("/dashboard/alerts/rules", data={"csrf": csrf_of(page), "amount": "5", "unit": "credits"}),
            copy.post("/dashboard/sign-out", data={"csrf": csrf_of(page)}),
        ):
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/dashboard/sign-in")
        # One that did not end would go on with heartbeats.
        rest = "\n".join(takewhile(lambda line: line != ": nothing new", lines))
        assert "event: end" in rest and "You have signed out" in rest
        # The key is as good as before, and so is the other session of it.
        assert other.get("/dashboard").status_code == 200
        used = client.post("/v1/admissions", json={"operation": "image", "source": "/s"}).json()["entry_id"]
        assert any(used in line for line in kept_lines)
    assert browser.post("/dashboard/sign-in", data={"key": key}).status_code == 303
    assert browser.get("/dashboard").status_code == 200


def test_of_too_many_sessions_that_were_signed_out_those_that_end_first_are_forgotten() -> None:
    sessions = Sessions("k" * 40, signed_out_max=3)
    now = int(time.time())
    ends = {"soon": 100, "last": 400, "over": -1, "next": 200, "later": 300}
    made = {name: Session(name, "p", "key_1", "production", now + seconds) for name, seconds in ends.items()}
    for session in made.values():
        assert sessions.opened(sessions.sealed(session)) == (session if session.expires_at > now else None)
        for _ in range(2):
            sessions.sign_out(session)
        assert not sessions.opened(sessions.sealed(session))
    assert [name for name, session in made.items() if sessions.is_signed_out(session)] == ["last", "next", "later"]
    # One of another process, or of this one begun anew, knows nothing of it.
    assert Sessions("k" * 40).opened(sessions.sealed(made["last"])) == made["last"]


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


@pytest.mark.parametrize(
    "theirs", ['prefs={"theme": "dark"}', "list[0]=1", "said=two words", 'open="half', "thème=1", "bare", "=", ""]
)
def test_a_cookie_that_another_program_set_hides_no_session(theirs: str) -> None:
    """All programs of a host share its cookies, whatever they write into them, and whatever their ports."""
    sessions = Sessions("k" * 40)
    session = Session("s", "p", "key_1", "production", int(time.time()) + 60)
    for cookies in ((theirs, f"{COOKIE}={sessions.sealed(session)}", theirs), (theirs, f"{COOKIE}=made up")):
        headers = {b"host": b"localhost", b"cookie": "; ".join(cookies).encode("latin-1")}
        assert find_session({}, sessions, headers) == (session if len(cookies) == 3 else None)


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
