"""Request windows: the last minute of a project, in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from schemas.accounts import Limits
from tests.simulation.model.plans import CREDIT
from tests.simulation.model.times import MINUTE_MS


class Ceilings(NamedTuple):
    """Requests a minute, how many at once after a rest, and microcredits a minute."""

    requests: int
    burst: int
    cost: int

    def under(self, limits: Limits) -> Ceilings:
        """The same ceilings, but for what other limits say."""
        requests = limits.requests_per_minute or self.requests
        burst = max(limits.burst or self.burst, requests)
        return Ceilings(requests, burst, limits.cost_ceiling or self.cost)


LIMITS = {
    "free": Ceilings(30, 60, 300 * CREDIT),
    "hobby": Ceilings(60, 120, 300 * CREDIT),
    "build": Ceilings(240, 480, 400 * CREDIT),
    "scale": Ceilings(1000, 2000, 1600 * CREDIT),
    "enterprise": Ceilings(1000, 2000, 1600 * CREDIT),
}


class Window:
    """The last minute: when each request came, what each cost and when, and how many burst tokens are spent."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.requests: list[int] = []
        self.costs: list[tuple[int, int]] = []
        self.spent = Fraction(0)

    def move_to(self, now_ms: int, limits: Ceilings) -> None:
        """Time passes under these limits. Tokens come back from when there are fewer requests than the limit."""
        self.spent = min(self.spent, Fraction(limits.burst - limits.requests))
        is_full = len(self.requests) >= limits.requests
        below_ms = self.requests[-limits.requests] + MINUTE_MS if is_full else self.at_ms
        rested_ms = now_ms - max(below_ms, self.at_ms)
        if rested_ms > 0 and self.spent:
            self.spent = max(Fraction(0), self.spent - Fraction(rested_ms * limits.requests, MINUTE_MS))
        self.at_ms = now_ms
        self.requests = [at for at in self.requests if at + MINUTE_MS > now_ms]
        self.costs = [(at, cost) for at, cost in self.costs if at + MINUTE_MS > now_ms]

    def wait_for_request(self, limits: Ceilings) -> int:
        """The time at which a request would pass; 0 is now."""
        if len(self.requests) < limits.requests or self.spent + 1 <= limits.burst - limits.requests:
            return 0
        return self.requests[-limits.requests] + MINUTE_MS

    def wait_for_cost(self, limits: Ceilings, cost: int) -> int:
        """The time at which that much could be spent; 0 is now, or never: what costs nothing is not stopped."""
        if not cost or cost > limits.cost:
            return 0
        for gone, at in enumerate([0, *(at + MINUTE_MS for at, _ in self.costs)]):
            if sum(each for _, each in self.costs[gone:]) + cost <= limits.cost:
                return at
        raise AssertionError("an empty window has room for all that is under its ceiling")

    def take(self, limits: Ceilings) -> bool:
        """Count a request, if it passes."""
        if self.wait_for_request(limits):
            return False
        if len(self.requests) >= limits.requests:
            self.spent += 1
        as_of = counted_as_of(self.requests, self.at_ms)
        self.requests = [as_of[at] for at in self.requests] + [self.at_ms]
        return True

    def add_cost(self, cost: int) -> None:
        """Count the cost of a request that passed."""
        if cost:
            as_of = counted_as_of([at for at, _ in self.costs], self.at_ms)
            self.costs = [(as_of[at], each) for at, each in self.costs] + [(self.at_ms, cost)]

    def told(self, limits: Ceilings, wait_until_ms: int) -> tuple[int, int, int, int]:
        """The window as a caller is told of it."""
        remaining = max(0, limits.requests - len(self.requests))
        full_at_ms = max((at + MINUTE_MS for at in self.requests), default=self.at_ms)
        return limits.requests, remaining, full_at_ms, wait_until_ms


def counted_as_of(times: list[int], now_ms: int) -> dict[int, int]:
    """The time that each of these is counted as of once something comes now. 64 different times are told apart. A 65th
    is one with the newest, if both are of one second; if not, each second is as old as the last that came in it."""
    as_of = {at: at for at in times}
    if len(as_of) >= 64 and now_ms not in as_of:
        newest = max(as_of)
        if newest // 1000 == now_ms // 1000:
            as_of[newest] = now_ms
        else:
            last = {at // 1000: at for at in sorted(as_of)}
            as_of = {at: last[at // 1000] for at in as_of}
    return as_of
