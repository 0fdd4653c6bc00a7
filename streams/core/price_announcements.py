"""Price announcements in a partition: a price book is announced, or withdrawn before it takes effect."""

from __future__ import annotations

from schemas.accounts import AnnouncedBook
from schemas.commands import PublishPrices, WithdrawPrices
from schemas.prices import PriceBook
from schemas.replies import Reply
from streams.core.booking import FACTS_PER_SLOT, Booking, note
from streams.core.price_list import check_book, check_withdrawal


def publish(booking: Booking, command: PublishPrices) -> Reply:
    """Announce a price book. A book announced before, the same to the letter, gets a 200: so an announcement that was
    cut short can be completed. Raises Rejection."""
    if any(announced.book == command.book for announced in booking.account.books):
        return Reply(200, "", "It was announced before", 0, 0, "", already_decided=True)
    check_book(command.book, booking.prices, command.after)
    _announced(booking, command.book)
    version = command.book.version
    said = note(effective_at_ms=command.book.effective_at_ms)
    return _done(booking.state("price_book", reason=version, price_version=version, metadata=said))


def withdraw(booking: Booking, command: WithdrawPrices) -> Reply:
    """Withdraw a price book that has not taken effect. A book withdrawn before gets a 200: so a withdrawal that was cut
    short can be completed.

    The first partition alone checks it (`price_list.check_withdrawal`, which raises Rejection). Another one that the
    book has not reached notes it as withdrawn at once: it must never hold there. No other book may bear its version.
    """
    book = command.book
    known = next((each for each in booking.account.books if each.book == book), None)
    if known is not None and known.withdrawn_at_ms:
        return Reply(200, "", "It was withdrawn before", 0, 0, "", already_decided=True)
    if not command.is_decided:
        check_withdrawal(book, booking.prices, booking.at_ms)
    known = known or _announced(booking, book)
    known.withdrawn_at_ms = booking.at_ms
    known.withdrawn_offset, known.withdrawn_slot = booking.offset, _slot(booking)
    return _done(booking.state("price_withdrawal", reason=book.version, price_version=book.version))


def _done(fact_id: str) -> Reply:
    return Reply(200, "", "", 0, 0, fact_id)


def _announced(booking: Booking, book: PriceBook) -> AnnouncedBook:
    announced = AnnouncedBook(booking.offset, book, _slot(booking))
    booking.account.books.append(announced)
    return announced


def _slot(booking: Booking) -> int:
    return booking.next_index // FACTS_PER_SLOT
