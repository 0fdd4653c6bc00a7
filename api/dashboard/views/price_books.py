"""Price books for admins: those there are, announcing one once its rehearsal was seen, and withdrawing one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from api.dashboard.acts import WITHDRAW_BOOK
from api.dashboard.asking import ApiAnswer, ShownProblem
from api.dashboard.doing import ActPage
from api.dashboard.rehearsing import rehearsed
from api.dashboard.view import AdminViewDep, PageRoute, View, sessions_of
from schemas.problems import Rejection
from streams.core.foreign import UnreadableError, read

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_ANNOUNCE = "POST /v1/admin/price-books"
_PLACE = "/dashboard/price-books"
_EXAMPLE = """{
  "version": "2027-01",
  "effective_at": "2027-01-01T00:00:00Z",
  "rates": {"image": "36"},
  "note": "Images cost more to make."
}"""


@router.get("/price-books")
async def price_books(view: AdminViewDep) -> Response:
    """List the price books, the newest first, each with what it changed."""
    books = await view.get("/v1/prices/changelog", limit=20, cursor=view.query.get("cursor"))
    if books.problem is not None:
        return view.error(books.problem)
    return view.page(
        "price_books.html",
        books=books.data["books"],
        next_cursor=books.data["next_cursor"],
        done=view.query.get("done"),
        may_withdraw=view.may(WITHDRAW_BOOK.operation),
    )


@router.get("/price-books/announce")
async def announcement(view: AdminViewDep) -> Response:
    """Show the form for a price book."""
    return _form(view, _EXAMPLE, "30")


@router.post("/price-books/announce")
async def announce(view: AdminViewDep) -> Response:
    """Check a price book and have the page rehearse it; or, once this session was shown its rehearsal, announce it."""
    given = await view.form()
    text, days = given.get("book", ""), given.get("days", "")
    book = _book(text)
    if isinstance(book, ShownProblem):
        return _form(view, text, days, book)
    if given.get("step") == "announce":
        proof = given.get("rehearsed", "")
        if view.may(_ANNOUNCE) and not sessions_of(view.request).is_proof(view.session, _content(book), proof):
            detail = "This session was not shown a rehearsal of this very book; rehearse it first"
            return _form(view, text, days, _shown(Rejection("invalid_request", detail, "book"), "Not rehearsed"))
        announced = await view.call("POST", "/v1/admin/price-books", book, given.get("idempotency_key", "")[:100])
        if announced.problem is not None:
            return _form(view, text, days, announced.problem)
        return view.led_to(f"{_PLACE}?done=announced")
    checked = ApiAnswer(200)
    if view.may(_ANNOUNCE):
        checked = await view.call("POST", "/v1/admin/price-books", book, dry_run=True)
        if checked.problem is not None:
            return _form(view, text, days, checked.problem)
    return view.page("price_book_rehearsal.html", book=checked.data, text=text, days=days, version=book.get("version"))


@router.post("/price-books/rehearsal")
async def rehearsal(view: AdminViewDep) -> Response:
    """Give the part of the page with a price book's rehearsal, and, for who may, the button that announces it."""
    given = await view.form()
    text, days = given.get("book", ""), given.get("days", "")
    book = _book(text)
    if isinstance(book, ShownProblem):
        return view.error(book)
    asked = {"book": book, "days": int(days) if days.isdecimal() and len(days) < 9 else days, "worst_max": 50}
    return await rehearsed(
        view,
        "/v1/admin/rehearsals",
        asked,
        "partials/price_rehearsal.html",
        text=text,
        days=days,
        key=secrets.token_urlsafe(16),
        # The template has it beside the result alone.
        proof=sessions_of(view.request).proof(view.session, _content(book)),
        may_announce=view.may(_ANNOUNCE),
    )


@router.get("/price-books/{version}/withdrawal")
async def withdrawal(view: AdminViewDep, version: str) -> Response:
    """Show what withdrawing a price book means."""
    return await _withdrawal(view, version).form()


@router.post("/price-books/{version}/withdrawal")
async def withdraw(view: AdminViewDep, version: str) -> Response:
    """Withdraw a price book, once it was shown what that changes."""
    page = _withdrawal(view, version)
    answer = await page.done(await view.form())
    return page.led_back() if isinstance(answer, ApiAnswer) else answer


def _withdrawal(view: View, version: str) -> ActPage:
    return ActPage(view, WITHDRAW_BOOK, {"version": version}, _PLACE, f"Price book {version[:40]}")


def _form(view: View, text: str, days: str, wrong: ShownProblem | None = None) -> Response:
    may_announce = view.may(_ANNOUNCE)
    status = wrong.status if wrong else 200
    return view.page(
        "price_book_announce.html", status=status, text=text, days=days, wrong=wrong, may_announce=may_announce
    )


def _book(text: str) -> Mapping[str, Any] | ShownProblem:
    """The price book of a text, or what is wrong with the text."""
    try:
        book = read(orjson.loads, text)
    except UnreadableError:
        book = None
    if isinstance(book, dict):
        return book
    return _shown(Rejection("malformed_json", "This is no JSON object", "book"), "Malformed JSON")


def _content(book: Mapping[str, Any]) -> bytes:
    """The content of a book, however its text is laid out: a browser changes the ends of lines."""
    return orjson.dumps(book, option=orjson.OPT_SORT_KEYS)


def _shown(wrong: Rejection, title: str) -> ShownProblem:
    return ShownProblem(wrong.status, wrong.code, title, wrong.detail, wrong.field or "")
