"""The price list: what holds now, what is announced, what changed, and what that means for a project."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dashboard.asking import ApiAnswer
from api.dashboard.figures import credits_sum, instant, microcredits
from api.dashboard.forms import plain_number
from api.dashboard.view import PageRoute, ProjectViewDep, View, ViewDep
from streams.core.booking import format_credits, parse_credits

router = APIRouter(prefix="/prices", include_in_schema=False, route_class=PageRoute)

_BOOKS: Final = 20
_ANNOUNCED_SHOWN: Final = 3
QUANTITY_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BookPrices:
    """The prices of one book: microcredits for a unit, or a unit and hour (`hourly`), and the plans that operations
    need. `effective_at` is None for the book that holds now."""

    version: str
    rates: Mapping[str, int]
    hourly: frozenset[str]
    plans: Mapping[str, str]
    effective_at: datetime | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any], effective_at: datetime | None = None) -> BookPrices:
        """The prices of an answer of GET /v1/prices."""
        every = [*data["prices"], *data["hourly"]]
        return cls(
            data["version"],
            {each["operation"]: parse_credits(each["credits"], "credits") for each in every},
            frozenset(each["operation"] for each in data["hourly"]),
            {each["operation"]: each["plan_required"] for each in every if each["plan_required"]},
            effective_at,
        )

    def cost(self, operation: str, quantity: int) -> str | None:
        """The cost of so many units, exact; None where the operation has no price."""
        rate = self.rates.get(operation)
        return None if rate is None else format_credits(rate * quantity)


@dataclass(frozen=True, slots=True)
class OperationCost:
    """The cost of one operation's quantity: what was charged, at today's prices, and at another book's, None where it
    has no price there. `difference` is the other less today's."""

    operation: str
    quantity: int
    charged: str
    now: str | None
    then: str | None
    difference: str | None
    plan_then: str = ""


@dataclass(frozen=True, slots=True)
class BookCost:
    """The costs of all operations of some days under an announced book, and their sums; `is_whole` is false where some
    operation has no price in one of the two books, and is left out of the sums."""

    book: BookPrices
    rows: list[OperationCost]
    charged: str
    now: str
    then: str
    difference: str
    is_whole: bool


@router.get("")
async def prices(
    view: ViewDep,
    operation: Annotated[str, Query(max_length=64)] = "",
    quantity: Annotated[str, Query(max_length=16)] = "",
    cursor: Annotated[str, Query(max_length=32)] = "",
) -> Response:
    """Show the prices that hold now, those announced, the changelog, and what so many units would cost."""
    now, changelog = await asyncio.gather(
        view.get("/v1/prices"), view.get("/v1/prices/changelog", limit=_BOOKS, cursor=cursor)
    )
    for asked in (now, changelog):
        if asked.problem is not None:
            return view.error(asked.problem)
    announced = await _announced(view)
    if isinstance(announced, ApiAnswer):
        assert announced.problem is not None
        return view.error(announced.problem)
    book = BookPrices.of(now.data)
    calculated, wrong = _calculated([book, *announced], operation, quantity)
    return view.page(
        "prices.html",
        version=book.version,
        book=book,
        announced=announced,
        operations=sorted({name for each in (book, *announced) for name in each.rates}),
        rows=_rows(book, announced),
        books=changelog.data["books"],
        next_cursor=changelog.data["next_cursor"],
        is_first=not cursor,
        operation=operation,
        quantity=quantity,
        calculated=calculated,
        wrong=wrong,
        parts=await view.parts(cost=view.url("/dashboard/prices/cost")) if view.project is not None else None,
        today=datetime.now(UTC),
    )


@router.get("/cost")
async def cost(view: ProjectViewDep) -> Response:
    """Answer with the part of the page that tells what the last 30 days' usage would cost under announced prices."""
    usage, now, announced = await asyncio.gather(
        view.get("/v1/usage", group_by="operation", environment=view.environment),
        view.get("/v1/prices"),
        _announced(view),
    )
    if isinstance(announced, ApiAnswer):
        assert announced.problem is not None
        return view.error(announced.problem)
    for asked in (usage, now):
        if asked.problem is not None:
            return view.error(asked.problem)
    book = BookPrices.of(now.data)
    used = [row for row in usage.data["rows"] if row["quantity"] or row["credits"] != "0"]
    costs = [cost_under(used, book, each) for each in announced or [book]]
    return view.fragment(
        "partials/prices_cost.html",
        costs=costs,
        is_announced=bool(announced),
        since=usage.data["from"],
        until=usage.data["to"],
        is_complete=usage.data["next_cursor"] is None,
        as_of=usage.data["as_of"],
    )


def cost_under(used: Sequence[Mapping[str, Any]], now: BookPrices, then: BookPrices) -> BookCost:
    """The cost of usage by operation: as it was charged, and its quantities at the prices of today's book and of
    another. Exact, since a price is so much for each unit."""
    rows = []
    for row in used:
        operation, quantity = row["group"]["operation"], row["quantity"]
        today, later = now.cost(operation, quantity), then.cost(operation, quantity)
        difference = None if today is None or later is None else _difference(later, today)
        plan = then.plans.get(operation, "")
        rows.append(
            OperationCost(
                operation,
                quantity,
                row["credits"],
                today,
                later,
                difference,
                plan if plan != now.plans.get(operation, "") else "",
            )
        )
    rows.sort(key=lambda each: (-microcredits(each.charged), each.operation))
    priced = [each for each in rows if each.difference is not None]
    return BookCost(
        book=then,
        rows=rows,
        charged=credits_sum(*(each.charged for each in rows)),
        now=credits_sum(*(each.now or "0" for each in priced)),
        then=credits_sum(*(each.then or "0" for each in priced)),
        difference=credits_sum(*(each.difference or "0" for each in priced)),
        is_whole=len(priced) == len(rows),
    )


async def _announced(view: View) -> list[BookPrices] | ApiAnswer:
    """The books that are announced and have not begun, the next first; or the answer that is a problem."""
    changelog = await view.get("/v1/prices/changelog", limit=_BOOKS)
    if changelog.problem is not None:
        return changelog
    now = datetime.now(UTC)
    begins = sorted(
        at
        for each in changelog.data["books"]
        if each["effective_at"] and not each["withdrawn_at"] and (at := instant(each["effective_at"])) > now
    )[:_ANNOUNCED_SHOWN]
    found = await asyncio.gather(*(view.get("/v1/prices", at=at.isoformat()) for at in begins))
    wrong = next((each for each in found if each.problem is not None), None)
    return wrong or [BookPrices.of(each.data, at) for each, at in zip(found, begins, strict=True)]


def _rows(book: BookPrices, announced: Sequence[BookPrices]) -> list[dict[str, Any]]:
    """The price list: for each operation its price now and in each announced book, None where there is none."""
    every = [book, *announced]
    return [
        {
            "operation": operation,
            "is_hourly": any(operation in each.hourly for each in every),
            "plan": book.plans.get(operation, ""),
            "prices": [each.cost(operation, 1) for each in every],
            "moves": ["", *(_move(before, after, operation) for before, after in pairwise(every))],
        }
        for operation in sorted({name for each in every for name in each.rates})
    ]


def _move(before: BookPrices, after: BookPrices, operation: str) -> str:
    """How the price of an operation moves from one book to the next, in a word; "" where it stays."""
    old, new = before.rates.get(operation), after.rates.get(operation)
    if old == new:
        return ""
    if old is None or new is None:
        return "new" if old is None else "gone"
    return "dearer" if new > old else "cheaper"


def _calculated(
    books: Sequence[BookPrices], operation: str, quantity: str
) -> tuple[list[tuple[BookPrices, str | None, str | None]], str]:
    """For each book (the book, the rate, the cost of so many units); and what is wrong with what was asked."""
    if not operation and not quantity:
        return [], ""
    number = plain_number(quantity)
    if not any(operation in each.rates for each in books):
        return [], "Choose an operation that has a price."
    if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= QUANTITY_MAX):
        return [], "Give a whole quantity, from 1 to 1,000,000,000."
    return [(each, each.cost(operation, 1), each.cost(operation, int(number))) for each in books], ""


def _difference(credits: str, less: str) -> str:
    return format_credits(microcredits(credits) - microcredits(less))
