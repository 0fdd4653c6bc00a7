"""Lanes: the deliveries that wait for one endpoint, which of them is next, and when it may go."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final

RATE_MAX: Final = 100
RATE_MS: Final = 1_000
# Of one endpoint, at once: enough for the rate above where each takes 300 ms.
FLYING_MAX: Final = 32
# An endpoint begins with so many, before anybody knows how it fares.
FLYING_FIRST: Final = 4
# An attempt that takes longer makes its endpoint a slow one.
SLOW_MS: Final = 2_000

Place = tuple[int, int]


class RateCap:
    """A RateCap lets at most `limit` attempts reach an endpoint in any second, by whoever's clock.

    An attempt has its place from its start until a second after its end. It reaches the endpoint in between; so of the
    attempts that reach it within one second all have a place at the start of the last of them.
    """

    def __init__(self, limit: int = RATE_MAX) -> None:
        self.limit = limit
        self._flying = 0
        self._ended: deque[float] = deque()

    def free_at(self, now: float) -> float | None:
        """The time when the next attempt may start, in the milliseconds of a monotonic clock; None while only the end
        of one that is under way can tell."""
        while self._ended and self._ended[0] + RATE_MS <= now:
            self._ended.popleft()
        if self._flying + len(self._ended) < self.limit:
            return now
        excess = self._flying + len(self._ended) - self.limit
        return self._ended[excess] + RATE_MS if excess < len(self._ended) else None

    def start(self) -> None:
        """Note the start of an attempt."""
        self._flying += 1

    def cancel(self) -> None:
        """Note that an attempt was not made after all."""
        self._flying -= 1

    def end(self, now: float) -> None:
        """Note the end of an attempt."""
        self._flying -= 1
        self._ended.append(now)


class Width:
    """The Width of an endpoint's lanes is how many attempts each may have under way: one more with each that is taken
    soon, and half as many with each that takes long, down to one where it is not even taken then. So an endpoint that
    does not answer holds few of the places that all endpoints share; one that refuses at once holds none for long."""

    def __init__(self) -> None:
        self.now = FLYING_FIRST
        self.is_slow = False

    @property
    def is_as_new(self) -> bool:
        """Whether a new endpoint would have the same."""
        return self.now >= FLYING_FIRST and not self.is_slow

    def note(self, took_ms: int, is_delivered: bool) -> None:
        """Note how an attempt ended."""
        self.is_slow = took_ms > SLOW_MS
        if self.is_slow and is_delivered:
            # It works, if slowly: it has as many as a new one.
            self.now = max(self.now // 2, min(FLYING_FIRST, self.now + 1))
        elif self.is_slow:
            self.now = max(1, self.now // 2)
        elif is_delivered:
            self.now = min(FLYING_MAX, self.now + 1)


class Lane:
    """A Lane has the deliveries to one endpoint that wait, by the id of their notice. Each has a place in the journal
    and a time, Unix ms, before which it does not go.

    Without order the one whose time comes first is next, and many are under way at once. In order it is the one that
    stands first in the journal, and only once the one before it has ended, however long its retries take.
    """

    def __init__(self, width: Width | None = None) -> None:
        self._is_ordered = False
        self._width = width or Width()
        self._waiting: dict[str, tuple[Place, int]] = {}
        # By (time, place) or by place; entries of deliveries that have changed are passed over.
        self._heap: list[tuple[Place | tuple[int, Place], str]] = []
        self.flying: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self.flying)

    def __contains__(self, notice_id: str) -> bool:
        return notice_id in self._waiting or notice_id in self.flying

    def __iter__(self) -> Iterator[str]:
        return iter([*self._waiting, *self.flying])

    def put(self, notice_id: str, place: Place, next_at_ms: int) -> None:
        """Let a delivery wait, or wait for another time."""
        self.flying.discard(notice_id)
        self._waiting[notice_id] = place, next_at_ms
        heapq.heappush(self._heap, (self._rank(place, next_at_ms), notice_id))

    def order(self, is_ordered: bool) -> None:
        """Go on in order, or without."""
        if is_ordered != self._is_ordered:
            self._is_ordered = is_ordered
            self._heap = [(self._rank(place, at_ms), notice_id) for notice_id, (place, at_ms) in self._waiting.items()]
            heapq.heapify(self._heap)

    def next_at_ms(self) -> int | None:
        """The time when the next delivery goes, Unix ms; None where none can before another has ended."""
        if len(self.flying) >= (1 if self._is_ordered else self._width.now):
            return None
        notice_id = self._head()
        return None if notice_id is None else self._waiting[notice_id][1]

    def take(self) -> str:
        """The next delivery, which is under way from now on. There is one: `next_at_ms` said so."""
        notice_id = self._head()
        assert notice_id is not None
        heapq.heappop(self._heap)
        del self._waiting[notice_id]
        self.flying.add(notice_id)
        return notice_id

    def end(self, notice_id: str) -> None:
        """Note that a delivery has ended for good."""
        self.flying.discard(notice_id)

    def _head(self) -> str | None:
        while self._heap:
            rank, notice_id = self._heap[0]
            waiting = self._waiting.get(notice_id)
            if waiting is not None and self._rank(*waiting) == rank:
                return notice_id
            heapq.heappop(self._heap)
        return None

    def _rank(self, place: Place, next_at_ms: int) -> Place | tuple[int, Place]:
        return place if self._is_ordered else (next_at_ms, place)
