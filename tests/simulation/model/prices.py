"""Price books: which one holds at a time, and which may be announced."""

from __future__ import annotations

from schemas.commands import PublishPrices, WithdrawPrices
from schemas.prices import PriceBook
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.partition import Partition
from tests.simulation.model.plans import RANK
from tests.simulation.model.times import DAY_MS, MINUTE_MS


def book_at(partition: Partition, at_ms: int) -> PriceBook:
    for book in reversed(partition.books):
        if book.effective_at_ms <= at_ms:
            return book
    return partition.books[0]


def why_not(partition: Partition, book: PriceBook, after: str) -> str:
    """The code that says why a book can't be announced, or ""."""
    last = partition.books[-1]
    if after and last.version != after:
        return "price_list_changed"
    if any(book.version == each.version for each in partition.books + partition.withdrawn):
        return "price_version_exists"
    if book.effective_at_ms <= last.effective_at_ms or book.effective_at_ms < book.announced_at_ms:
        return "invalid_request"
    if not book.rates or min([*book.rates.values(), *book.hourly.values()]) < 0:
        return "invalid_request"
    after = book.rates | book.hourly
    is_worse = any(name not in after for name in last.rates | last.hourly)
    for name, rate in after.items():
        before = [each for each in partition.books if name in each.rates or name in each.hourly][-1:]
        for each in before:
            is_worse |= rate > each.rates.get(name, each.hourly.get(name, 0))
            is_worse |= RANK[book.plan_required.get(name, "free")] > RANK[each.plan_required.get(name, "free")]
    if is_worse and book.effective_at_ms < book.announced_at_ms + 30 * DAY_MS:
        return "price_notice_too_short"
    return ""


def publish(partition: Partition, project: Project, command: PublishPrices) -> Answer:
    partition.books.append(command.book)
    version = command.book.version
    return partition.done(project, "price_book", reason=version, price_version=version)


def why_not_withdrawn(partition: Partition, command: WithdrawPrices) -> str:
    """The code that says why a book can't be withdrawn, or ""."""
    book = command.book
    if command.is_decided:
        return ""
    if book not in partition.books[1:]:
        return "unknown_price_book"
    if book.effective_at_ms <= partition.at_ms + 10 * MINUTE_MS:
        return "price_book_in_force"
    return "price_list_changed" if book != partition.books[-1] else ""


def withdraw(partition: Partition, project: Project, command: WithdrawPrices) -> Answer:
    partition.books = [each for each in partition.books if each != command.book]
    partition.withdrawn.append(command.book)
    version = command.book.version
    return partition.done(project, "price_withdrawal", reason=version, price_version=version)


def withdraw_once(partition: Partition, project: Project, command: WithdrawPrices) -> Answer:
    if command.book in partition.withdrawn:
        return Answer(200, "", 0, 0, "")
    if code := why_not_withdrawn(partition, command):
        raise Refused(code)
    return withdraw(partition, project, command)
