"""Price books over time: which one holds when, and what a new one must respect.

Source: pricing, "How pricing changes": an increase is announced at least 30 days before it takes effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from schemas.accounts import AnnouncedBook
from schemas.events import EVENT_AHEAD_MINUTES_MAX
from schemas.prices import FIRST_PRICE_BOOK, MICROCREDITS_PER_CREDIT, PriceBook
from schemas.problems import Rejection
from schemas.times import DAY_MS, MINUTE_MS
from streams.core.plans import PLANS

# The account in which a partition keeps its price books; no project can have this id.
PRICES_ID = "prices:"

NOTICE_DAYS = 30
BOOKS_MAX = 200
OPERATIONS_MAX = 500
RATE_MAX = 1_000_000 * 1_000_000
# A month of as many units as a project may have still fits into 63 bits at this rate.
HOURLY_RATE_MAX = RATE_MAX // 100
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,32}")
_OPERATION = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_FOREVER_MS = 1 << 62


class Prices:
    """The price books in order: the first one and those announced after it. `at` gives the one that holds at a time.

    `books` are without those that were withdrawn. `announcements` has these too, each book with when it was withdrawn
    (Unix milliseconds, 0 where it was not), in the order in which they were announced.
    """

    __slots__ = ("_book", "_from_ms", "_operations", "_until_ms", "announcements", "books")

    def __init__(
        self, announced: Sequence[PriceBook] = (), withdrawn: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.announcements = [(book, withdrawn.get(book.version, 0)) for book in (FIRST_PRICE_BOOK, *announced)]
        self.books = [book for book, withdrawn_at_ms in self.announcements if not withdrawn_at_ms]
        self._book, self._from_ms, self._until_ms = self._segment(-1)
        self._operations: frozenset[str] | None = None

    def at(self, at_ms: int) -> PriceBook:
        """The book that holds at a time in Unix milliseconds."""
        if not self._from_ms <= at_ms < self._until_ms:
            self._book, self._from_ms, self._until_ms = self._segment(at_ms)
        return self._book

    def segments(self, from_ms: int, until_ms: int) -> list[tuple[PriceBook, int, int]]:
        """The books that hold in [from, until), each with the part of that time in which it does."""
        found = []
        while from_ms < until_ms:
            book, _, ends_ms = self._segment(from_ms)
            found.append((book, from_ms, min(ends_ms, until_ms)))
            from_ms = ends_ms
        return found

    def operations(self) -> frozenset[str]:
        """The operations that any book has a price for. Whether the book in force has one too, the owner decides."""
        if self._operations is None:
            self._operations = frozenset(operation for book in self.books for operation in book.rates)
        return self._operations

    def version(self, version: str) -> PriceBook | None:
        """The book of that version, or None; also one that was withdrawn."""
        return next((book for book, _ in self.announcements if book.version == version), None)

    def followed_by(self, book: PriceBook) -> Prices:
        """The price list as it would be with one more book."""
        withdrawn = {each.version: withdrawn_at_ms for each, withdrawn_at_ms in self.announcements}
        return Prices([*(each for each, _ in self.announcements[1:]), book], withdrawn)

    def is_withdrawn(self, version: str) -> bool:
        """Whether the book of that version was withdrawn."""
        return any(book.version == version and withdrawn for book, withdrawn in self.announcements)

    def _segment(self, at_ms: int) -> tuple[PriceBook, int, int]:
        for number in range(len(self.books) - 1, 0, -1):
            book = self.books[number]
            if book.effective_at_ms <= at_ms:
                following = self.books[number + 1 :]
                return book, book.effective_at_ms, following[0].effective_at_ms if following else _FOREVER_MS
        return self.books[0], -_FOREVER_MS, self.books[1].effective_at_ms if len(self.books) > 1 else _FOREVER_MS


def places_of(announced: AnnouncedBook) -> list[tuple[int, int]]:
    """The places in the log, offset and slot, at which a book was announced and, if it was, withdrawn."""
    places = [(announced.offset, announced.slot)]
    return [*places, (announced.withdrawn_offset, announced.withdrawn_slot)] if announced.withdrawn_at_ms else places


def prices_from(announced: Sequence[AnnouncedBook], before: tuple[int, int] = (_FOREVER_MS, 0)) -> Prices:
    """The price list of a partition, from its announcements; with `before`, an offset and a slot, as the command at
    that place of the log knows it."""
    known = [each for each in announced if (each.offset, each.slot) < before]
    withdrawn = {
        each.book.version: each.withdrawn_at_ms
        for each in known
        if each.withdrawn_at_ms and (each.withdrawn_offset, each.withdrawn_slot) < before
    }
    return Prices([each.book for each in known], withdrawn)


def check_withdrawal(book: PriceBook, prices: Prices, at_ms: int) -> None:
    """Check that a book may be withdrawn at `at_ms`: it is the last one announced, and prices nothing yet, not even
    what may be reported ahead of its time. Raises Rejection (`unknown_price_book`, `price_list_changed`,
    `price_book_in_force`)."""
    if book not in prices.books[1:]:
        raise Rejection("unknown_price_book", f"No price book {book.version!r} was announced", "version")
    if book.effective_at_ms <= at_ms + EVENT_AHEAD_MINUTES_MAX * MINUTE_MS:
        detail = f"{book.version!r} is in force, or will be within {EVENT_AHEAD_MINUTES_MAX} minutes"
        raise Rejection("price_book_in_force", detail, "version")
    if (last := prices.books[-1]) != book:
        detail = f"{last.version!r} was announced after {book.version!r}: withdraw that one first"
        raise Rejection("price_list_changed", detail, "version")


def version_exists(version: str) -> Rejection:
    """The Rejection of a book whose version was announced before."""
    return Rejection("price_version_exists", f"Version {version!r} was announced before", "version")


def check_book(book: PriceBook, prices: Prices, after: str = "") -> None:
    """Check that a book may be announced now. With `after`, the last book announced so far must be of that version.

    Raises Rejection (`invalid_request`, `price_notice_too_short`, `price_version_exists`, `price_list_changed`).
    """
    if after and prices.books[-1].version != after:
        raise Rejection("price_list_changed", f"The last price book is {prices.books[-1].version!r}, not {after!r}")
    if not _VERSION.fullmatch(book.version):
        raise _invalid("A version has up to 32 letters, digits, dots, dashes and underscores", "version")
    if prices.version(book.version) is not None:
        raise version_exists(book.version)
    if len(prices.announcements) >= BOOKS_MAX:
        raise _invalid(f"There are at most {BOOKS_MAX} price books", "version")
    last = prices.books[-1]
    if book.effective_at_ms <= last.effective_at_ms:
        raise _invalid(f"It must take effect after version {last.version!r}, the last announced", "effective_at")
    if book.effective_at_ms < book.announced_at_ms:
        raise _invalid("A price book can't take effect before it is announced", "effective_at")
    if not book.rates or len(book.rates) + len(book.hourly) > OPERATIONS_MAX:
        raise _invalid(f"A price book has 1 to {OPERATIONS_MAX} prices", "rates")
    for field, rates, most in (("rates", book.rates, RATE_MAX), ("hourly", book.hourly, HOURLY_RATE_MAX)):
        for operation, rate in rates.items():
            if not _OPERATION.fullmatch(operation):
                raise _invalid(f"{operation[:80]!r} is no name for an operation", f"{field}.{operation[:80]}")
            if not 0 <= rate <= most:
                raise _invalid(
                    f"A price is from 0 to {most // MICROCREDITS_PER_CREDIT} credits", f"{field}.{operation}"
                )
    if both := book.rates.keys() & book.hourly.keys():
        raise _invalid(f"{min(both)!r} has a price a use and a price an hour", "hourly")
    for operation, plan in book.plan_required.items():
        if plan not in PLANS or operation not in book.rates:
            raise _invalid("It needs a plan that there is, and an operation with a price", f"plan_required.{operation}")
    worse = increases(prices.books, book)
    if worse and book.effective_at_ms - book.announced_at_ms < NOTICE_DAYS * DAY_MS:
        raise Rejection(
            "price_notice_too_short",
            f"{', '.join(worse[:5])} would cost more or give less: that needs {NOTICE_DAYS} days between announcement "
            "and effect",
            "effective_at",
        )


def increases(books: Sequence[PriceBook], new: PriceBook) -> list[str]:
    """The operations that a new book makes worse: dearer, gone, or for higher plans only. An operation that comes back
    is compared with the last book that had it; an operation that no book had is no increase."""
    last = books[-1]
    worse = {*(last.rates.keys() - new.rates.keys()), *(last.hourly.keys() - new.hourly.keys())}
    for operation, rate in new.rates.items():
        old = next((book for book in reversed(books) if operation in book.rates), None)
        if old is not None and (rate > old.rates[operation] or _rank(new, operation) > _rank(old, operation)):
            worse.add(operation)
    for item, rate in new.hourly.items():
        old = next((book for book in reversed(books) if item in book.hourly), None)
        if old is not None and rate > old.hourly[item]:
            worse.add(item)
    return sorted(worse)


def _rank(book: PriceBook, operation: str) -> int:
    plan = book.plan_required.get(operation)
    return PLANS[plan].rank if plan else 0


def _invalid(detail: str, field: str) -> Rejection:
    return Rejection("invalid_request", detail, field)
