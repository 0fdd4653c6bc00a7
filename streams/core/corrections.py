"""Corrections: new entries put right an event that was billed wrongly or came too late. No entry is ever changed."""

from __future__ import annotations

import msgspec

from schemas.accounts import Account, Grant
from schemas.commands import Correct, GivenBack
from schemas.events import Usage
from schemas.facts import entry_id
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.booking import Booking, available, drop_spent, format_credits
from streams.core.grants import add_grant
from streams.core.holds import open_for
from streams.core.items import bill_due
from streams.core.past import check_use
from streams.core.recharge import recharge_if_low


def correct(booking: Booking, command: Correct) -> Reply:
    """Correct an event: give back what it was charged, then charge what it should have been; all of it or nothing.

    What is charged is judged as of when it was used, as the event itself is (`past.check_use`).
    Credits go back to the grants they came from. Where a grant has expired since, its credits come back as a
    promotional grant until the next renewal: the mistake was not the customer's. Raises Rejection.
    """
    account, usage = booking.account, command.usage
    if not command.given_back and usage is None:
        raise Rejection("invalid_request", "There is nothing to give back and nothing to charge", "action")
    lines: list[tuple[str, int, int]] = []
    version = ""
    if usage is not None:
        if not command.given_back and open_for(account, usage, by_job=False) is not None:
            raise Rejection("event_held", "Credits are held for this event: capture or release its hold first")
        book = booking.prices.at(usage.occurred_at_ms)
        version = book.version
        check_use(account, usage, book)
        for operation in filter(None, (usage.operation, usage.surcharge)):
            lines.append((operation, usage.quantity, book.rates[operation] * usage.quantity))
        total = sum(amount for _, _, amount in lines)
        back = sum(each.amount for each in command.given_back if each.grant.environment == usage.environment)
        left = available(account, usage.environment) + back
        if total > left:
            raise Rejection(
                "out_of_credits",
                f"The correction charges {format_credits(total)} credits; {format_credits(left)} are available",
            )
    first_index = booking.next_index
    change = 0
    for each in command.given_back:
        grant_id = ""
        if each.amount:
            grant = _grant_for(booking, each)
            grant.remaining += each.amount
            change += each.amount
            grant_id = grant.id
        _state_given_back(booking, command, each, grant_id)
    for operation, quantity, amount in lines:
        assert usage is not None
        if not amount:
            _state_charged(booking, command, usage, operation, quantity, 0, "", version)
        for grant, drawn in booking.draw(usage.environment, amount):
            change -= drawn
            _state_charged(booking, command, usage, operation, quantity, drawn, grant.id, version)
            quantity = 0
    drop_spent(account, booking.at_ms)
    if account.items:
        bill_due(booking, booking.at_ms)
    recharge_if_low(booking)
    environment = usage.environment if usage is not None else command.given_back[0].grant.environment
    return Reply(
        status=200,
        code="",
        detail="",
        amount=change,
        available=available(account, environment),
        entry_id=entry_id(booking.partition, booking.offset, first_index),
    )


def _grant_for(booking: Booking, each: GivenBack) -> Grant:
    """The grant that the credits go back to: a new one where it has expired, or was used up and forgotten meanwhile."""
    account, past = booking.account, each.grant
    has_expired = past.expires_at_ms != 0 and past.expires_at_ms <= booking.at_ms
    if has_expired:
        grant_id = f"promotional-{booking.offset}-{booking.next_index}"
        promotional = Grant(
            grant_id, "promotional", past.environment, each.amount, 0, booking.at_ms, account.renews_at_ms
        )
        add_grant(account, promotional)
        return promotional
    known = _find(account, past.id)
    if known is None:
        known = msgspec.structs.replace(past, remaining=0, held=0)
        add_grant(account, known)
    return known


def _find(account: Account, grant_id: str) -> Grant | None:
    return next((grant for grant in account.grants if grant.id == grant_id), None)


def _state_given_back(booking: Booking, command: Correct, each: GivenBack, grant_id: str) -> None:
    usage = command.usage
    booking.state(
        "correction",
        environment=each.grant.environment,
        operation=each.operation,
        quantity=-each.quantity,
        amount=each.amount,
        grant_id=grant_id,
        reason="given_back",
        price_version=each.price_version,
        source=command.source,
        event_id=command.event_id,
        job_id=usage.job_id if usage is not None else "",
        key_id=usage.key_id if usage is not None else "",
        occurred_at_ms=usage.occurred_at_ms if usage is not None else booking.at_ms,
        metadata=command.metadata,
    )


def _state_charged(
    booking: Booking,
    command: Correct,
    usage: Usage,
    operation: str,
    quantity: int,
    drawn: int,
    grant_id: str,
    version: str,
) -> None:
    booking.state(
        "correction",
        environment=usage.environment,
        operation=operation,
        quantity=quantity,
        amount=-drawn,
        grant_id=grant_id,
        reason="charged",
        price_version=version,
        source=command.source,
        event_id=command.event_id,
        job_id=usage.job_id,
        key_id=usage.key_id,
        occurred_at_ms=usage.occurred_at_ms,
        metadata=usage.metadata,
    )
