"""The sliding window of requests: while the last 60 seconds hold fewer than `limit`, a request passes; above that it
spends a burst token.

A rested project has `burst − limit` tokens. They refill at `limit / 60` a second while it is below its limit. Nothing
resets on the minute: each request ages out 60 seconds after it came. Source: rate-limits, "Defaults".

Requests are kept by tenths of a second, each tenth as of its last one: never more pass than the model says, and what
ages out does so less than a tenth of a second late.
"""

from __future__ import annotations

from schemas.ledger import RateState, Window

WINDOW_MS = 60_000
SLOT_MS = 100
# A token is this many units, of which `limit` come back each millisecond.
TOKEN = 60_000


def count_request(window: Window, limit: int, burst: int, now_ms: int) -> RateState:
    """Decide one request, and count it if it passes: where it does not, `retry_at_ms` says when it would. Times may not
    step back."""
    _refill(window, limit, burst, now_ms)
    arrivals = window.arrivals
    count = sum(arrivals[1::2])
    passes = count < limit
    if not passes and window.tokens >= TOKEN:
        window.tokens -= TOKEN
        passes = True
    if passes:
        if arrivals and arrivals[-2] // SLOT_MS == now_ms // SLOT_MS:
            arrivals[-2] = now_ms
            arrivals[-1] += 1
        else:
            arrivals += [now_ms, 1]
        count += 1
    retry_at_ms = 0 if passes else _falls_to(arrivals, count, limit - 1)
    reset_at_ms = arrivals[-2] + WINDOW_MS if arrivals else now_ms
    return RateState(limit, max(0, limit - count), reset_at_ms, retry_at_ms)


def rested(limit: int, burst: int, now_ms: int) -> Window:
    """A window that nothing has happened in."""
    return Window([], (burst - limit) * TOKEN, now_ms)


def _refill(window: Window, limit: int, burst: int, now_ms: int) -> None:
    """Bring the window to now: what is old goes, and tokens come back for the time that it was below its limit."""
    arrivals = window.arrivals
    count = sum(arrivals[1::2])
    below_since_ms = window.at_ms if count < limit else _falls_to(arrivals, count, limit - 1)
    if now_ms > below_since_ms:
        since_ms = max(below_since_ms, window.at_ms)
        window.tokens = min((burst - limit) * TOKEN, window.tokens + (now_ms - since_ms) * limit)
    window.at_ms = max(window.at_ms, now_ms)
    gone = 0
    while gone < len(arrivals) and arrivals[gone] + WINDOW_MS <= now_ms:
        gone += 2
    del arrivals[:gone]


def _falls_to(arrivals: list[int], count: int, most: int) -> int:
    """When at most so many requests are left, if none comes."""
    at_ms = 0
    for place in range(0, len(arrivals), 2):
        if count <= most:
            break
        count -= arrivals[place + 1]
        at_ms = arrivals[place] + WINDOW_MS
    return at_ms
