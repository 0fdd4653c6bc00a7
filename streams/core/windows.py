"""The sliding windows: one of requests, with their burst, and one of what requests cost.

While the last 60 seconds hold fewer than `limit` requests, a request passes; above that it spends a burst token. A
rested project has `burst − limit` tokens. The tokens refill at `limit / 60` a second while the project is below its
limit. Nothing resets on the minute: each request ages out 60 seconds after it came. Source: rate-limits, "Defaults".

The cost of requests is counted against a ceiling of its own, and never passes it. Source: rate-limits, "Abuse,
fairness, and quiet limits".

Both windows keep a list of at most 64 entries, (time, amount), and its sum. An entry has a millisecond to itself while
there is room. In a full list, what comes within a second shares an entry, as of its last: never more requests pass than
exact times would let pass, and a request ages out less than a second late (docs/decisions/0042).
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.accounts import Limits, Window
from schemas.replies import RateState

WINDOW_MS = 60_000
# 60 seconds touch at most 61 seconds of the clock: a list that has one entry for each of these has room for more.
ENTRIES_MAX = 64
SECOND_MS = 1_000
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
        if window.requests >= limits.requests_per_minute:
            window.spent += TOKEN
        _add_requests(window, now_ms, 1)
    return rate_state(window, limits, now_ms, retry_at_ms)


def count_requests(window: Window, limits: Limits, now_ms: int, many: int) -> int:
    """Decide `many` requests that come at once, as `count_request` does one by one; gives how many pass."""
    advance(window, limits, now_ms)
    below = max(0, limits.requests_per_minute - window.requests)
    tokens = burst_left(window, limits)
    passed = min(many, below + tokens)
    if passed:
        window.spent += max(0, passed - below) * TOKEN
        _add_requests(window, now_ms, passed)
    return passed


def request_retry_at_ms(window: Window, limits: Limits) -> int:
    """The time at which a request would pass, if none comes meanwhile; 0 is at once. Call `advance` before."""
    limit = limits.requests_per_minute
    if window.requests < limit or window.spent + TOKEN <= _tokens(limits):
        return 0
    return _falls_to(window.arrivals, window.requests, limit - 1)


def rate_state(window: Window, limits: Limits, now_ms: int, retry_at_ms: int = 0) -> RateState:
    """The state of a request window for the reply: limit, remaining, reset and retry times. Call `advance` before."""
    limit = limits.requests_per_minute
    remaining = max(0, limit - window.requests)
    reset_at_ms = window.arrivals[-2] + WINDOW_MS if window.arrivals else now_ms
    return RateState(limit, remaining, reset_at_ms, retry_at_ms)


def advance(window: Window, limits: Limits, now_ms: int) -> None:
    """Bring a window to now: old requests go, and tokens come back for the time that it was below its limit.

    When limits change, advance the window by the old ones first: the time until then is theirs.
    """
    limit = limits.requests_per_minute
    window.spent = min(window.spent, _tokens(limits))
    below_since_ms = window.at_ms
    for at_ms, many in _forget(window.arrivals, now_ms):
        if window.requests >= limit:
            below_since_ms = max(window.at_ms, at_ms + WINDOW_MS)
        window.requests -= many
    if window.requests < limit and now_ms > below_since_ms:
        window.spent = max(0, window.spent - (now_ms - below_since_ms) * limit)
    window.at_ms = max(window.at_ms, now_ms)
    for _, amount in _forget(window.costs, now_ms):
        window.cost -= amount


def burst_left(window: Window, limits: Limits) -> int:
    """How many requests may come above the limit now: whole burst tokens, in a window that was advanced to now."""
    return max(0, _tokens(limits) - window.spent) // TOKEN


def cost_left(window: Window, limits: Limits) -> int:
    """Microcredits that may still be spent under the ceiling, in a window that was advanced to now."""
    return max(0, limits.cost_ceiling - window.cost)


def add_cost(window: Window, now_ms: int, amount: int) -> None:
    """Count what an admitted request costs, in microcredits, in a window that was advanced to now."""
    if amount:
        _add(window.costs, now_ms, amount)
        window.cost += amount


def cost_retry_at_ms(window: Window, limits: Limits, amount: int) -> int:
    """The time at which a request of this cost would pass the ceiling, if none comes meanwhile.

    The cost must not be above the ceiling itself.
    """
    return _falls_to(window.costs, window.cost, limits.cost_ceiling - amount)


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


def _add_requests(window: Window, now_ms: int, many: int) -> None:
    _add(window.arrivals, now_ms, many)
    window.requests += many


def _add(counted: list[int], now_ms: int, amount: int) -> None:
    is_full = len(counted) >= 2 * ENTRIES_MAX
    if counted and (counted[-2] == now_ms or (is_full and counted[-2] // SECOND_MS == now_ms // SECOND_MS)):
        counted[-2] = now_ms
        counted[-1] += amount
        return
    if is_full:
        _merge(counted)
    counted += [now_ms, amount]


def _merge(counted: list[int]) -> None:
    """Leave one entry of each second, as of its last: were it as of another, some would age out too early."""
    merged: list[int] = []
    for at_ms, amount in _entries(counted):
        if merged and merged[-2] // SECOND_MS == at_ms // SECOND_MS:
            merged[-2] = at_ms
            merged[-1] += amount
        else:
            merged += [at_ms, amount]
    counted[:] = merged


def _forget(counted: list[int], now_ms: int) -> Iterable[tuple[int, int]]:
    """Take out the entries that are older than the window, and give them."""
    gone = 0
    while gone < len(counted) and counted[gone] + WINDOW_MS <= now_ms:
        gone += 2
    if not gone:
        return ()
    forgotten = counted[:gone]
    del counted[:gone]
    return _entries(forgotten)


def _entries(counted: list[int]) -> Iterable[tuple[int, int]]:
    return zip(counted[::2], counted[1::2], strict=True)


def _falls_to(counted: list[int], total: int, most: int) -> int:
    """The time at which at most `most` is left of `total`, if nothing comes meanwhile."""
    at_ms = 0
    for last_ms, amount in _entries(counted):
        if total <= most:
            break
        total -= amount
        at_ms = last_ms + WINDOW_MS
    return at_ms
