"""Recurring line items are metered as each full hour strikes, for the hour that begins, and billed at the month's end,
UTC, in burn-down order.

A month's bill is unit-hours times the hourly rate that held at each hour, all integers, so nothing drifts. An amount
that the credits do not cover stays due: it is billed as soon as credits come. Source: pricing, "When am I billed?".
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from schemas.accounts import Account, Accrual, RecurringItem
from schemas.commands import SetItem
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import HOUR_MS
from streams.core.booking import Booking, available, drop_spent, note
from streams.core.price_list import Prices
from streams.core.recharge import recharge_if_low

ENVIRONMENT = "production"
ITEMS_MAX = 10
UNITS_MAX = 1_000_000


def set_item(booking: Booking, command: SetItem) -> Reply:
    """Set a project's units of an item from now on; the hour under way is counted already. Raises Rejection."""
    account = booking.account
    item = next((item for item in account.items if item.operation == command.operation), None)
    # An item that the project has can be ended, even if the price book has dropped it.
    if command.operation not in booking.prices.at(booking.at_ms).hourly and (item is None or command.quantity):
        raise Rejection("unknown_operation", f"No hourly price for {command.operation[:80]!r}", "item")
    if not 0 <= command.quantity <= UNITS_MAX:
        raise Rejection("invalid_request", f"The quantity is from 0 to {UNITS_MAX}", "quantity")
    if item is None:
        if len(account.items) >= ITEMS_MAX:
            raise Rejection("invalid_request", f"A project has at most {ITEMS_MAX} kinds of recurring items", "item")
        item = RecurringItem(command.operation, 0, booking.at_ms, [])
        account.items.append(item)
    meter_item(item, booking.prices, booking.at_ms)
    item.quantity = command.quantity
    account.month_ends_at_ms = account.month_ends_at_ms or month_end_after(booking.at_ms)
    fact_id = booking.state(
        "item", environment=ENVIRONMENT, operation=item.operation, quantity=item.quantity, reason="set"
    )
    _forget_empty(account)
    return Reply(200, "", "", 0, available(account, ENVIRONMENT), fact_id)


def end_all(booking: Booking) -> None:
    """End all recurring items: nothing more is metered, and what was metered is billed at the month's end."""
    for item in booking.account.items:
        meter_item(item, booking.prices, booking.at_ms)
        item.quantity = 0
    _forget_empty(booking.account)


def bill_month(booking: Booking) -> None:
    """Bill what was metered in the month that ends at `month_ends_at_ms`, now that it is over."""
    account = booking.account
    ends_at_ms = account.month_ends_at_ms
    for item in account.items:
        meter_item(item, booking.prices, ends_at_ms)
        for accrual in item.accruals:
            accrual.billed_for_ms = accrual.billed_for_ms or ends_at_ms
    account.month_ends_at_ms = month_end_after(ends_at_ms)
    bill_due(booking, ends_at_ms)


def bill_due(booking: Booking, at_ms: int) -> None:
    """Charge what past months left unpaid, as far as credits go. Call it whenever credits have come, or come back.

    `at_ms` is the time of the charges: the month's end, or the grant's own time.
    """
    account = booking.account
    is_any_due = False
    for item in account.items:
        for accrual in item.accruals:
            if accrual.billed_for_ms:
                _bill(booking, item.operation, accrual, at_ms)
                is_any_due = True
        item.accruals = [each for each in item.accruals if each.amount or not each.billed_for_ms]
    _forget_empty(account)
    drop_spent(account, at_ms)
    if is_any_due:
        recharge_if_low(booking)


def meter_item(item: RecurringItem, prices: Prices, until_ms: int) -> None:
    """Meter an item: count the hours that strike in [metered_to, until), at the rates that held then."""
    if until_ms <= item.metered_to_ms:
        return
    for book, from_ms, to_ms in prices.segments(item.metered_to_ms, until_ms):
        unit_hours = (-(-to_ms // HOUR_MS) - -(-from_ms // HOUR_MS)) * item.quantity
        if unit_hours:
            # An item that a newer book has no price for any more costs nothing.
            amount = unit_hours * book.hourly.get(item.operation, 0)
            open_one = next(
                (one for one in item.accruals if one.price_version == book.version and not one.billed_for_ms), None
            )
            if open_one is None:
                item.accruals.append(Accrual(book.version, unit_hours, amount))
            else:
                open_one.unit_hours += unit_hours
                open_one.amount += amount
    item.metered_to_ms = until_ms


def metered(item: RecurringItem, prices: Prices, now_ms: int) -> tuple[int, int]:
    """The (unit-hours, microcredits) of an item this month as of now, not billed yet; changes nothing."""
    copy = RecurringItem(item.operation, item.quantity, item.metered_to_ms, [])
    meter_item(copy, prices, now_ms)
    waiting = [*(each for each in item.accruals if not each.billed_for_ms), *copy.accruals]
    return sum(each.unit_hours for each in waiting), sum(each.amount for each in waiting)


def unpaid(items: Iterable[RecurringItem]) -> int:
    """Microcredits of past months' items that no credits have covered yet."""
    return sum(each.amount for item in items for each in item.accruals if each.billed_for_ms)


def month_end_after(at_ms: int) -> int:
    """The end of the calendar month, UTC, that a time is in: the first instant of the next."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    year, month = divmod(at.year * 12 + at.month, 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp()) * 1000


def _bill(booking: Booking, operation: str, accrual: Accrual, at_ms: int) -> None:
    """Charge what is due of an item, one entry for each grant that pays; the first bears all unit-hours, so that they
    are counted once however often the charge is tried.

    A lack of credits is stated at the month's end only: a project that never pays must not state more and more facts.
    """
    month = datetime.fromtimestamp((accrual.billed_for_ms - 1) // 1000, UTC).strftime("%Y-%m")

    def charged(grant_id: str, drawn: int) -> None:
        booking.state(
            "charge",
            environment=ENVIRONMENT,
            operation=operation,
            quantity=accrual.unit_hours,
            amount=-drawn,
            grant_id=grant_id,
            reason="recurring",
            price_version=accrual.price_version,
            occurred_at_ms=at_ms,
            metadata=note(month=month),
        )
        accrual.unit_hours = 0

    if not accrual.amount and accrual.unit_hours:
        charged("", 0)
    for grant, drawn in booking.draw(ENVIRONMENT, accrual.amount):
        accrual.amount -= drawn
        charged(grant.id, drawn)
    if accrual.amount and at_ms == accrual.billed_for_ms:
        booking.state(
            "refusal",
            environment=ENVIRONMENT,
            operation=operation,
            reason="out_of_credits",
            price_version=accrual.price_version,
            occurred_at_ms=at_ms,
            metadata=note(month=month, unpaid_microcredits=accrual.amount),
        )


def _forget_empty(account: Account) -> None:
    account.items = [item for item in account.items if item.quantity or item.accruals]
    if not account.items:
        account.month_ends_at_ms = 0
