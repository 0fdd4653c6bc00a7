"""Spending: what was spent in the last 24 hours, and whether what is left lasts until the renewal at that rate.

It is kept by the hour, in the watch of each environment, and looked at once an hour in which something was spent is
over: so by the tick too, where nobody comes. Source: product, "Being told" (`project.time_to_empty`).
"""

from __future__ import annotations

from typing import Final

from schemas.accounts import Account, Watch
from schemas.times import DAY_MS, HOUR_MS
from streams.core.booking import Booking, available, note

_HOURS: Final = DAY_MS // HOUR_MS
_LASTS_DAYS_MAX: Final = 36_525


def note_spent(booking: Booking, since: int) -> None:
    """Note what the charges among the facts from number `since` on have spent. Call it after each event and command. A
    month of a recurring item is no rate of spending."""
    facts = booking.facts
    for number in range(since, len(facts)):
        fact = facts[number]
        amount = fact.amount
        if amount and fact.kind == "charge" and fact.reason != "recurring":
            environment, at_ms = fact.environment, booking.at_ms
            for watch in booking.account.watches:
                if watch.environment == environment:
                    # The hour that something was spent in is, nearly always, the one that is kept last.
                    if 0 < watch.look_at_ms - at_ms <= HOUR_MS:
                        watch.spent[-1] -= amount
                    else:
                        _begin_hour(booking.account, watch, at_ms, -amount)


def spent_in_24_hours(account: Account, environment: str, at_ms: int) -> int:
    """The microcredits that an environment spent in the 24 hours before `at_ms`, which is now: exact at a full hour. In
    between, the hour in which those 24 begin counts by its share."""
    hour, into_hour_ms = divmod(at_ms, HOUR_MS)
    spent = 0
    for watch in account.watches:
        if watch.environment == environment:
            for number, amount in enumerate(watch.spent, watch.first_hour - (hour - _HOURS)):
                if number > 0:
                    spent += amount
                elif not number:
                    spent += amount * (HOUR_MS - into_hour_ms) // HOUR_MS
    return spent


def empty_at_ms(left: int, spent: int, at_ms: int) -> int | None:
    """The time at which `left` microcredits are spent at the rate of `spent` in 24 hours, in Unix milliseconds: `at_ms`
    itself where nothing is left, and None where nothing is spent or they last for more than a century."""
    if left <= 0:
        return at_ms
    if spent <= 0 or left > spent * _LASTS_DAYS_MAX:
        return None
    return at_ms + left * DAY_MS // spent


def look_due_at_ms(account: Account) -> int | None:
    """The time when an account's spending is looked at next, in Unix milliseconds; None where it need not be."""
    return min((watch.look_at_ms for watch in account.watches if watch.look_at_ms), default=None)


def look_at_spending(booking: Booking, due_at_ms: int) -> None:
    """Look whether an account runs dry before its renewal at the rate of the 24 hours before `due_at_ms`, a full hour;
    state it where it does, once until it no longer does. What has run dry already is another notice's."""
    account = booking.account
    for watch in account.watches:
        if not watch.look_at_ms or watch.look_at_ms > due_at_ms:
            continue
        watch.look_at_ms = 0
        _forget_before(watch, due_at_ms // HOUR_MS - _HOURS)
        spent, left = sum(watch.spent), available(account, watch.environment)
        if left <= 0:
            continue
        runs_dry = not account.closed_at_ms and spent * (account.renews_at_ms - due_at_ms) > left * DAY_MS
        if runs_dry and not watch.is_told_dry:
            booking.state(
                "notice",
                environment=watch.environment,
                reason="time_to_empty",
                occurred_at_ms=due_at_ms,
                metadata=note(
                    available_microcredits=left,
                    spent_in_24_hours_microcredits=spent,
                    empty_at_ms=due_at_ms + left * DAY_MS // spent,
                    renews_at_ms=account.renews_at_ms,
                ),
            )
        watch.is_told_dry = runs_dry


def _begin_hour(account: Account, watch: Watch, at_ms: int, spent: int) -> None:
    """Note what was spent first in the hour of a time."""
    hour = at_ms // HOUR_MS
    _forget_before(watch, hour - _HOURS)
    if not watch.spent:
        watch.first_hour = hour
    watch.spent += [0] * (hour - watch.first_hour + 1 - len(watch.spent))
    watch.look_at_ms = (hour + 1) * HOUR_MS
    account.due_at_ms = min(account.due_at_ms, watch.look_at_ms)
    watch.spent[-1] += spent


def _forget_before(watch: Watch, hour: int) -> None:
    """Forget what was spent before an hour."""
    over = min(max(0, hour - watch.first_hour), len(watch.spent))
    del watch.spent[:over]
    watch.first_hour += over
