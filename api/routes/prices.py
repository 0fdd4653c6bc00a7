"""Prices: the price book in force, the changelog of price books, and announcing one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.dependencies import CHECKED, AdminDep, IdempotencyKey, ServicesDep, instant, problems
from api.views.dry_runs import DryRunQuery
from schemas.http.common import GivenTime
from schemas.http.prices import (
    BOOKS_PAGE_MAX,
    NewPriceBook,
    Price,
    PriceBookInfo,
    PriceChange,
    PriceChangelog,
    PriceList,
)
from schemas.prices import PriceBook
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.booking import format_credits, parse_credits
from streams.core.price_list import Prices, check_book, check_withdrawal, version_exists
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["prices"], responses=problems(401, 403, 409, 422, 503))


@router.get("/prices", response_model=PriceList, dependencies=[CHECKED])
async def prices(
    services: ServicesDep,
    at: Annotated[
        GivenTime | None, Query(description="RFC 3339 with a zone; now. A future time shows what is announced")
    ] = None,
) -> PriceList:
    """List the prices of all operations. Open to everyone."""
    book = services.accounts.prices().at(_at_ms(at, "at") if at is not None else now_ms())
    return PriceList(version=book.version, prices=_prices(book, book.rates), hourly=_prices(book, book.hourly))


@router.get("/prices/changelog", response_model=PriceChangelog, dependencies=[CHECKED])
async def changelog(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=BOOKS_PAGE_MAX)] = 20,
    cursor: Annotated[str | None, Query(max_length=32, description="The `next_cursor` of a page")] = None,
) -> PriceChangelog:
    """List the price books with what each changed, the newest first. Open to everyone."""
    prices = services.accounts.prices()
    if cursor is not None and prices.version(cursor) is None:
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor")
    return await asyncio.to_thread(changelog_of, prices, now_ms(), limit, cursor)


@router.post(
    "/admin/price-books",
    status_code=201,
    response_model=PriceBookInfo,
    responses={200: {"model": PriceBookInfo, "description": "With `dry_run`: the book as it would be announced"}},
)
async def announce(
    services: ServicesDep,
    caller: AdminDep,
    asked: NewPriceBook,
    response: Response,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> PriceBookInfo:
    """Announce a price book. It can't be changed; DELETE withdraws it until 10 minutes before it takes effect, and then
    only another one follows it.

    A book that makes anything dearer takes effect at least 30 days after its announcement. A book of a version that was
    announced before is refused; but the same book, sent again under an Idempotency-Key, is answered as the first time.
    """
    now = now_ms()
    before = services.accounts.prices()
    effective_at_ms = _at_ms(asked.effective_at, "effective_at")
    if idempotency_key and _is_announced(before, asked, effective_at_ms):
        return _info(before, asked.version)
    if before.version(asked.version) is not None:
        raise version_exists(asked.version)
    lead_ms = round(services.settings.price_lead_seconds * 1000)
    if effective_at_ms < now + lead_ms:
        raise Rejection(
            "invalid_request",
            f"It takes effect {services.settings.price_lead_seconds:g} seconds from now or later: every partition is "
            "told first",
            "effective_at",
        )
    last = before.books[-1]
    book = book_of(asked, last, effective_at_ms, now)
    if dry_run:
        check_book(book, before, last.version)
        response.status_code = 200
        return _info(before.followed_by(book), book.version)
    await services.price_broadcast.announce(book, last.version, caller.key_id)
    return _info(services.accounts.prices(), asked.version)


@router.delete(
    "/admin/price-books/{version}",
    response_model=PriceBookInfo,
    responses=problems(404),
)
async def withdraw(
    services: ServicesDep,
    caller: AdminDep,
    version: Annotated[str, Path(max_length=32, description="As it was announced")],
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> PriceBookInfo:
    """Withdraw a price book before it takes effect: uses are priced as if it had never been announced. It must be the
    last one announced, and take effect in more than 10 minutes. It stays in the changelog, and its version is used up.
    A book that was withdrawn before is answered as the first time."""
    prices = services.accounts.prices()
    book = prices.version(version)
    if book is None or not prices.is_withdrawn(version):
        check_withdrawal(book or PriceBook(version, 0, {}, {}), prices, now_ms())
    if not dry_run and book is not None:
        await services.price_broadcast.withdraw(book, caller.key_id)
    return _info(services.accounts.prices(), version)


def book_of(asked: NewPriceBook, last: PriceBook, effective_at_ms: int, announced_at_ms: int) -> PriceBook:
    """The whole price book that an announcement means: the last one, with what differs from it. Raises Rejection."""
    rates, hourly, plans = dict(last.rates), dict(last.hourly), dict(last.plan_required)
    for field, known, changes in (("rates", rates, asked.rates), ("hourly", hourly, asked.hourly)):
        for operation, text in changes.items():
            if text is None:
                known.pop(operation, None)
            else:
                known[operation] = parse_credits(text, f"{field}.{operation}")
    for operation, plan in asked.plan_required.items():
        if plan is None:
            plans.pop(operation, None)
        else:
            plans[operation] = plan
    plans = {
        operation: plan for operation, plan in plans.items() if operation in rates or asked.plan_required.get(operation)
    }
    return PriceBook(asked.version, effective_at_ms, rates, plans, hourly, announced_at_ms, asked.note)


def changelog_of(prices: Prices, now_ms: int, limit: int = BOOKS_PAGE_MAX, before: str | None = None) -> PriceChangelog:
    """A page of the changelog: the price books announced before one of that version, the newest first, each with what
    it changed, and whether it is in force or was withdrawn."""
    announced = prices.announcements
    in_force = prices.at(now_ms)
    end = next((number for number, (book, _) in enumerate(announced) if book.version == before), len(announced))
    begin = max(0, end - limit)
    return PriceChangelog(
        next_cursor=announced[begin][0].version if begin else None,
        books=[
            PriceBookInfo(
                version=book.version,
                announced_at=utc(book.announced_at_ms) if number else None,
                effective_at=utc(book.effective_at_ms) if number else None,
                in_force=book is in_force,
                withdrawn_at=utc(withdrawn_at_ms) if withdrawn_at_ms else None,
                note=book.note,
                changes=_changes(_followed(prices, number), book) if number else [],
            )
            for number, (book, withdrawn_at_ms) in reversed(list(enumerate(announced))[begin:end])
        ],
    )


def _followed(prices: Prices, number: int) -> PriceBook:
    """The book that the one at this place was announced behind: the last before it that was not withdrawn by then."""
    at_ms = prices.announcements[number][0].announced_at_ms
    return next(
        book for book, withdrawn_at_ms in reversed(prices.announcements[:number]) if not 0 < withdrawn_at_ms <= at_ms
    )


def _is_announced(prices: Prices, asked: NewPriceBook, effective_at_ms: int) -> bool:
    return any(
        book == book_of(asked, last, effective_at_ms, book.announced_at_ms)
        for last, book in pairwise(prices.books)
        if book.version == asked.version
    )


def _info(prices: Prices, version: str) -> PriceBookInfo:
    number = next(number for number, (book, _) in enumerate(prices.announcements) if book.version == version)
    after = prices.announcements[number + 1][0].version if number + 1 < len(prices.announcements) else None
    return changelog_of(prices, now_ms(), 1, after).books[0]


def _changes(before: PriceBook, after: PriceBook) -> list[PriceChange]:
    old, new = before.rates | before.hourly, after.rates | after.hourly
    changes = (
        PriceChange.model_validate(
            {
                "operation": operation,
                "before": _credits(old.get(operation)),
                "after": _credits(new.get(operation)),
                "plan_before": before.plan_required.get(operation),
                "plan_after": after.plan_required.get(operation),
            }
        )
        for operation in sorted(old.keys() | new.keys())
    )
    return [each for each in changes if each.before != each.after or each.plan_before != each.plan_after]


def _credits(rate: int | None) -> str | None:
    return None if rate is None else format_credits(rate)


def _prices(book: PriceBook, rates: Mapping[str, int]) -> list[Price]:
    return [
        Price(operation=operation, credits=format_credits(rate), plan_required=book.plan_required.get(operation))
        for operation, rate in rates.items()
    ]


def _at_ms(at: datetime, field: str) -> int:
    return round(instant(at, field).timestamp() * 1000)
