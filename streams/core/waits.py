"""Waits: when a request that was limited would pass every limit that counts for it, if none comes meanwhile.

The request window counts for each request. The cost ceiling counts for one that costs something, unless another answer
comes before the ceiling's (`streams.core.admission` has the order): a repeat costs nothing, and what is refused for
good is not told to wait for the ceiling. What time alone brings meanwhile is taken into account: a raise of limits
begins or ends, a plan changes at the renewal, a hold expires, another price book holds, or what is asked for later
would have been used when the project was closed or on another plan.
"""

from __future__ import annotations

import msgspec

from schemas.accounts import Account
from schemas.events import Usage
from streams.core.booking import Booking
from streams.core.holds import open_for
from streams.core.ledger import cost_to_limit, settled
from streams.core.limits import limits_change_at_ms, limits_of
from streams.core.past import judged_anew_at_ms
from streams.core.price_list import Prices
from streams.core.windows import SECOND_MS, WINDOW_MS, advance, cost_retry_at_ms, request_retry_at_ms

# A project may have a thousand holds that expire one after the other. After so many changes the rest are left out.
CHANGES_MAX = 64


def passes_at_ms(
    account: Account, prices: Prices, at_ms: int, usage: Usage | None = None, *, is_job: bool = False
) -> int:
    """The time at which a request that was limited at `at_ms` would pass. It is the first from which on the request
    would pass for a second, since waits are told in whole ones.

    `usage` is what it asks for at `at_ms`, `is_job` says that it asks for a hold; without `usage` it costs nothing. The
    account is as of `at_ms`, its window too, and stays as it is.
    """
    ahead, now_ms, since_ms, wait_ms = account, at_ms, 0, 0
    for _ in range(CHANGES_MAX):
        asked = _asked_at(usage, now_ms - at_ms)
        wait_ms, is_by_credits = _wait(ahead, prices, now_ms, asked, is_job)
        since_ms = wait_ms or since_ms or now_ms
        change_ms = _next_change(ahead, prices, now_ms, asked, is_by_credits)
        if change_ms >= since_ms + SECOND_MS:
            return since_ms
        if change_ms <= since_ms:
            since_ms = 0
        if ahead is account:
            ahead = msgspec.msgpack.decode(msgspec.msgpack.encode(account), type=Account)
        now_ms = change_ms
        settled(ahead, now_ms, prices)
        assert ahead.window is not None
        advance(ahead.window, limits_of(ahead), now_ms)
    return wait_ms or now_ms


def _asked_at(usage: Usage | None, later_ms: int) -> Usage | None:
    """The same use, asked for later: it occurs then."""
    if usage is None or not later_ms:
        return usage
    return msgspec.structs.replace(usage, occurred_at_ms=usage.occurred_at_ms + later_ms)


def _wait(account: Account, prices: Prices, now_ms: int, usage: Usage | None, is_job: bool) -> tuple[int, bool]:
    """The time at which a request would pass, by the account as it is: 0 is now. And whether that depends on the
    credits there are: the ceiling has it wait for longer than the window, unless it is refused for good."""
    assert account.window is not None
    limits = limits_of(account)
    by_window_ms = request_retry_at_ms(account.window, limits)
    if usage is None:
        return by_window_ms, False
    if open_for(account, usage, is_job) is not None:
        return by_window_ms, True
    scratch = Booking(account, partition=0, offset=0, slot=0, at_ms=now_ms, facts=[], prices=prices)
    cost, is_affordable = cost_to_limit(scratch, usage, is_job)
    if not 0 < cost <= limits.cost_ceiling:
        return by_window_ms, False
    by_ceiling_ms = cost_retry_at_ms(account.window, limits, cost)
    if by_ceiling_ms <= by_window_ms:
        return by_window_ms, False
    return by_ceiling_ms if is_affordable else by_window_ms, True


def _next_change(account: Account, prices: Prices, now_ms: int, usage: Usage | None, is_by_credits: bool) -> int:
    """The time after `now_ms` at which what a wait depends on changes by itself next."""
    change_ms = account.due_at_ms if is_by_credits else limits_change_at_ms(account)
    if usage is None:
        return change_ms
    occurred_ms = usage.occurred_at_ms
    _, _, until_ms = prices.segments(occurred_ms, occurred_ms + 2 * WINDOW_MS)[0]
    judged_anew_ms = judged_anew_at_ms(account, occurred_ms)
    if judged_anew_ms is not None:
        until_ms = min(until_ms, judged_anew_ms)
    return min(change_ms, now_ms + until_ms - occurred_ms)
