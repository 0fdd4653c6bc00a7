"""Price books on the dashboard: a book is announced once its rehearsal was shown, and withdrawn."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta

from api.stack import Stack
from tests.admins import ADMIN_KEYS
from tests.calls import Operator
from tests.dashboard.admin_pages import AdminBrowser, fragment_of

_ANNOUNCE, _REHEARSE = "/dashboard/price-books/announce", "/dashboard/price-books/rehearsal"


def _book(**changes: object) -> tuple[str, str]:
    version = f"d{secrets.token_hex(4)}"
    effective_at = (datetime.now(UTC) + timedelta(days=40)).isoformat()
    operation = f"op.{secrets.token_hex(3)}"
    book = {"version": version, "effective_at": effective_at, "rates": {operation: "7.5"}, "note": "<b>new</b>"}
    return version, json.dumps(book | changes)


def test_a_book_is_rehearsed_announced_once_and_withdrawn(admin: AdminBrowser, operator: Operator) -> None:
    project, client = operator.customer("hobby")
    assert client.post("/v1/admissions", json={"operation": "chat.message"}).status_code == 200
    version, book = _book()
    form = admin.form(admin.page(_ANNOUNCE))
    checked = admin.send(_ANNOUNCE, form, book=book, days="2")
    assert checked.status_code == 200 and f'hx-post="{_REHEARSE}"' in checked.text and "7.5" in checked.text
    assert f"Announce {version}" not in checked.text
    result = admin.send(_REHEARSE, {"csrf": form["csrf"], "book": book, "days": "2"})
    assert result.status_code == 200 and "would have been hurt" in result.text and f"Announce {version}" in result.text
    assert result.headers["content-type"].startswith("text/event-stream")
    announcing = admin.form(fragment_of(result)) | {"step": "announce"}
    for _ in range(2):
        announced = admin.send(_ANNOUNCE, announcing)
        assert (announced.status_code, announced.headers.get("location")) == (
            303,
            "/dashboard/price-books?done=announced",
        )
    page = admin.page("/dashboard/price-books?done=announced")
    assert page.count(f"/dashboard/price-books/{version}/withdrawal") == 1
    assert "&lt;b&gt;new" in page and "<b>new" not in page
    path = f"/dashboard/price-books/{version}/withdrawal"
    shown = admin.send(path, admin.form(admin.page(path)), step="try")
    assert "What would change" in shown.text and "Withdraw the price book" in shown.text
    assert admin.send(path, admin.form(shown.text), step="do").status_code == 303
    books = operator.http.get("/v1/prices/changelog").json()["books"]
    assert next(each for each in books if each["version"] == version)["withdrawn_at"] is not None
    assert path not in admin.page("/dashboard/price-books")


def test_a_book_is_announced_from_here_only_by_the_session_that_was_shown_its_rehearsal(
    admin: AdminBrowser, stack: Stack, operator: Operator
) -> None:
    client = operator.customer("hobby")[1]
    assert client.post("/v1/admissions", json={"operation": "chat.message"}).status_code == 200
    version, book = _book()
    other_version, other_book = _book()
    first = admin.form(admin.page(_ANNOUNCE))
    checked = admin.send(_ANNOUNCE, first, book=book, days="2").text
    assert 'name="rehearsed"' not in checked
    streamed = admin.send(_REHEARSE, {"csrf": first["csrf"], "book": book, "days": "2"})
    *progress, result = streamed.text.strip().split("\n\n")
    assert progress and not [each for each in progress if 'name="rehearsed"' in each]
    announcing = admin.form(fragment_of(streamed)) | {"step": "announce"}
    too_long = admin.send(_REHEARSE, {"csrf": first["csrf"], "book": other_book, "days": "400"}).text
    assert 'role="alert"' in too_long and 'name="rehearsed"' not in too_long
    other = AdminBrowser(stack.url, ADMIN_KEYS["owner"])
    elsewhere = {"csrf": other.form(other.page(_ANNOUNCE))["csrf"]}
    anew = json.dumps(json.loads(book) | {"rates": {"chat.message": "0.01"}})
    without = {name: value for name, value in announcing.items() if name != "rehearsed"}
    for what, browser, form in (
        ("no rehearsal", admin, without),
        ("an empty proof", admin, announcing | {"rehearsed": ""}),
        ("a made up proof", admin, announcing | {"rehearsed": "é" * 99}),
        ("the form's token", admin, announcing | {"rehearsed": announcing["csrf"]}),
        ("another book of this version", admin, announcing | {"book": anew}),
        ("another book", admin, announcing | {"book": other_book}),
        ("another session's rehearsal", other, announcing | elsewhere),
    ):
        refused = browser.send(_ANNOUNCE, form)
        assert refused.status_code == 422 and "Not rehearsed" in refused.text, what
        assert browser.form(refused.text)["book"] == form["book"], what
    listed = operator.http.get("/v1/prices/changelog").text
    assert version not in listed and other_version not in listed
    # However the browser ends its lines, it is the same book.
    laid_out = json.dumps(json.loads(book), indent=2).replace("\n", "\r\n")
    assert admin.send(_ANNOUNCE, announcing, book=laid_out).status_code == 303
    assert version in operator.http.get("/v1/prices/changelog").text
    assert operator.http.delete(f"/v1/admin/price-books/{version}").is_success
    # The API's own route asks for none: who calls it can rehearse, and says so to nobody.
    assert operator.http.post("/v1/admin/price-books", json=json.loads(other_book)).is_success
    assert operator.http.delete(f"/v1/admin/price-books/{other_version}").is_success


def test_what_is_wrong_with_a_book_is_told_beside_it(admin: AdminBrowser) -> None:
    form = admin.form(admin.page(_ANNOUNCE))
    _, dearer = _book(rates={"chat.message": "900"}, effective_at=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    for book, words in (
        ("{", "This is no JSON object"),
        ("[]", "This is no JSON object"),
        (_book(version="no spaces")[1], "version"),
        (_book(rates={"x": "-1"})[1], "rates"),
        (dearer, "30 days"),
        # As long as its field takes, in characters that are nine bytes of a form each.
        ("価" * 60_000, "This is no JSON object"),
    ):
        wrong = admin.send(_ANNOUNCE, form, book=book, days="2")
        assert wrong.status_code in (400, 409, 422) and 'id="book-wrong"' in wrong.text and words in wrong.text, (
            wrong.text
        )
    again = admin.send(_REHEARSE, {"csrf": form["csrf"], "book": _book()[1], "days": "400"})
    assert 'role="alert"' in again.text and "Rehearse again" in again.text


def test_who_may_not_announce_rehearses(stack: Stack) -> None:
    reader = AdminBrowser(stack.url, ADMIN_KEYS["read-only"])
    page = reader.page(_ANNOUNCE)
    assert "Rehearse a price book" in page
    version, book = _book()
    form = reader.form(page)
    assert reader.send(_ANNOUNCE, form, book=book, days="1").status_code == 200
    result = reader.send(_REHEARSE, {"csrf": form["csrf"], "book": book, "days": "1"})
    assert "would have been hurt" in result.text and f"Announce {version}" not in result.text
    refused = reader.send(_ANNOUNCE, form, book=book, days="1", step="announce", idempotency_key="k")
    assert refused.status_code == 403
    assert version not in reader.page("/dashboard/price-books")
