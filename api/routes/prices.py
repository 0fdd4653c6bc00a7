"""Prices: the price book in force, the changelog of price books, and announcing one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import CHECKED, AdminDep, IdempotencyKey, ServicesDep, instant, problems
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
from streams.core.price_list import Prices, version_exists
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["prices"], responses=problems(401, 403, 409, 422, 503))


@router.get("/prices", response_model=PriceList, dependencies=[CHECKED])
async def prices(
    services: ServicesDep,
    at: Annotated[
        datetime | None, Query(description="RFC 3339 with a zone; now. A future time shows what is announced")
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


@router.post("/admin/price-books", status_code=201, response_model=PriceBookInfo)
async def announce(
    services: ServicesDep, caller: AdminDep, asked: NewPriceBook, idempotency_key: IdempotencyKey = ""
) -> PriceBookInfo:
    """Announce a price book, for good: it can't be changed or taken back, only followed by another one.

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
    await services.price_broadcast.announce(book_of(asked, last, effective_at_ms, now), last.version, caller.key_id)
    return _info(services.accounts.prices(), asked.version)


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
    """A page of the changelog: the price books before one of that version, the newest first, each with what it changed
    and whether it is in force."""
    books = prices.books
    in_force = prices.at(now_ms)
    end = next((number for number, book in enumerate(books) if book.version == before), len(books))
    begin = max(0, end - limit)
    return PriceChangelog(
        next_cursor=books[begin].version if begin else None,
        books=[
            PriceBookInfo(
                version=book.version,
                announced_at=utc(book.announced_at_ms) if number else None,
                effective_at=utc(book.effective_at_ms) if number else None,
                in_force=book is in_force,
                note=book.note,
                changes=_changes(books[number - 1], book) if number else [],
            )
            for number, book in reversed(list(enumerate(books))[begin:end])
        ],
    )


def _is_announced(prices: Prices, asked: NewPriceBook, effective_at_ms: int) -> bool:
    return any(
        book == book_of(asked, last, effective_at_ms, book.announced_at_ms)
        for last, book in pairwise(prices.books)
        if book.version == asked.version
    )


def _info(prices: Prices, version: str) -> PriceBookInfo:
    number = next(number for number, book in enumerate(prices.books) if book.version == version)
    after = prices.books[number + 1].version if number + 1 < len(prices.books) else None
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
