"""The sliding windows: one of requests, with their burst, and one of what requests cost.

While the last 60 seconds hold fewer than `limit` requests, a request passes; above that it spends a burst token. A
rested project has `burst − limit` tokens. The tokens refill at `limit / 60` a second while the project is below its
limit. Nothing resets on the minute: each request ages out 60 seconds after it came. Source: rate-limits, "Defaults".

The cost of requests is counted against a ceiling of its own, and never passes it. Source: rate-limits, "Abuse,
fairness, and quiet limits".

Both windows count by tenths of a second, each tenth as of its last request: never more requests pass than the model
says, and a request ages out less than a tenth of a second late.
"""

from __future__ import annotations

from schemas.accounts import Limits, Window
from schemas.replies import RateState

WINDOW_MS = 60_000
SLOT_MS = 100
# A burst token is this many units, of which `limit` come back each millisecond.
TOKEN = 60_000
# What stops a request.
WINDOW, CEILING, ABOVE_CEILING = "window", "ceiling", "above_ceiling"


def rested(now_ms: int) -> Window:
    """A window that nothing has happened in."""
    return Window([], 0, now_ms)


def count_request(window: Window, limits: Limits, now_ms: int) -> RateState:
    """Decide one request, and count it if it passes; if it does not, `retry_at_ms` says when it would. Times may not
    step back."""
    advance(window, limits, now_ms)
    retry_at_ms = request_retry_at_ms(window, limits)
    if not retry_at_ms:
        if sum(window.arrivals[1::2]) >= limits.requests_per_minute:
            window.spent += TOKEN
        _add(window.arrivals, now_ms, 1)
    return rate_state(window, limits, now_ms, retry_at_ms)


def count_requests(window: Window, limits: Limits, now_ms: int, many: int) -> int:
    """Decide `many` requests that come at once, as `count_request` does one by one; gives how many pass."""
    advance(window, limits, now_ms)
    below = max(0, limits.requests_per_minute - sum(window.arrivals[1::2]))
    tokens = max(0, _tokens(limits) - window.spent) // TOKEN
    passed = min(many, below + tokens)
    if passed:
        window.spent += max(0, passed - below) * TOKEN
        _add(window.arrivals, now_ms, passed)
    return passed


def request_retry_at_ms(window: Window, limits: Limits) -> int:
    """The time at which a request would pass, if none comes meanwhile; 0 is at once. Call `advance` before."""
    count, limit = sum(window.arrivals[1::2]), limits.requests_per_minute
    if count < limit or window.spent + TOKEN <= _tokens(limits):
        return 0
    return _falls_to(window.arrivals, count, limit - 1)


def rate_state(window: Window, limits: Limits, now_ms: int, retry_at_ms: int = 0) -> RateState:
    """The state of a request window for the reply: limit, remaining, reset and retry times. Call `advance` before."""
    limit = limits.requests_per_minute
    remaining = max(0, limit - sum(window.arrivals[1::2]))
    reset_at_ms = window.arrivals[-2] + WINDOW_MS if window.arrivals else now_ms
    return RateState(limit, remaining, reset_at_ms, retry_at_ms)


def advance(window: Window, limits: Limits, now_ms: int) -> None:
    """Bring a window to now: old requests go, and tokens come back for the time that it was below its limit.

    When limits change, advance the window by the old ones first: the time until then is theirs.
    """
    arrivals = window.arrivals
    limit = limits.requests_per_minute
    count = sum(arrivals[1::2])
    window.spent = min(window.spent, _tokens(limits))
    below_since_ms = window.at_ms if count < limit else _falls_to(arrivals, count, limit - 1)
    if now_ms > below_since_ms:
        since_ms = max(below_since_ms, window.at_ms)
        window.spent = max(0, window.spent - (now_ms - since_ms) * limit)
    window.at_ms = max(window.at_ms, now_ms)
    _forget(arrivals, now_ms)
    _forget(window.costs, now_ms)


def cost_left(window: Window, limits: Limits) -> int:
    """Microcredits that may still be spent under the ceiling, in a window that was advanced to now."""
    return max(0, limits.cost_ceiling - sum(window.costs[1::2]))


def add_cost(window: Window, now_ms: int, amount: int) -> None:
    """Count what an admitted request costs, in microcredits."""
    if amount:
        _add(window.costs, now_ms, amount)


def cost_retry_at_ms(window: Window, limits: Limits, amount: int) -> int:
    """The time at which a request of this cost would pass the ceiling, if none comes meanwhile.

    The cost must not be above the ceiling itself.
    """
    return _falls_to(window.costs, sum(window.costs[1::2]), limits.cost_ceiling - amount)


def try_request(window: Window, limits: Limits, now_ms: int, cost: int) -> str:
    """Decide a request that costs so many microcredits by the limits alone, and count it as an admission does: a
    request that the window lets through is counted, whatever the ceiling says. Gives "" where it passes, else what
    stops it: `WINDOW`, `CEILING` (which waiting would help), or `ABOVE_CEILING` (it costs more than the ceiling by
    itself)."""
    if count_request(window, limits, now_ms).retry_at_ms:
        return WINDOW
    if cost > limits.cost_ceiling:
        return ABOVE_CEILING
    if cost > cost_left(window, limits):
        return CEILING
    add_cost(window, now_ms, cost)
    return ""


def _tokens(limits: Limits) -> int:
    return max(0, limits.burst - limits.requests_per_minute) * TOKEN


def _add(counted: list[int], now_ms: int, amount: int) -> None:
    if counted and counted[-2] // SLOT_MS == now_ms // SLOT_MS:
        counted[-2] = now_ms
        counted[-1] += amount
    else:
        counted += [now_ms, amount]


def _forget(counted: list[int], now_ms: int) -> None:
    gone = 0
    while gone < len(counted) and counted[gone] + WINDOW_MS <= now_ms:
        gone += 2
    del counted[:gone]


def _falls_to(counted: list[int], total: int, most: int) -> int:
    """The time at which at most `most` is left of `total`, if nothing comes meanwhile."""
    at_ms = 0
    for place in range(0, len(counted), 2):
        if total <= most:
            break
        total -= counted[place + 1]
        at_ms = counted[place] + WINDOW_MS
    return at_ms
