"""How long this worker may believe that its partitions are still its own.

The group coordinator gives a silent member's partitions away after the session timeout. A worker that was paused does
not notice that by itself; it does notice that its last answered heartbeat is too long ago. And it gives them away
when the group rebalances: then what was read under the assignment before may not be written any more.
"""

from __future__ import annotations

import time

# What is left of a session when a flush begins must be enough to finish it.
_SHARE_OF_SESSION = 2 / 3


class LeaseLostError(Exception):
    """Another worker may own our partitions by now: nothing more may be written."""


class AssignmentEndedError(Exception):
    """The group has rebalanced, or is about to: what was read before it is read again, by whoever is assigned it."""


class Lease:
    """Renewed by every answered heartbeat, counted from when it was sent; a new one has never been renewed. It holds
    for the records of one assignment, which has the group's `generation`."""

    def __init__(self, session_timeout_seconds: float) -> None:
        self._valid_seconds = session_timeout_seconds * _SHARE_OF_SESSION
        self._renewed_at = float("-inf")
        self._generation: int | None = None

    def assign(self, generation: int) -> None:
        """The coordinator has just given us partitions, and its session timer runs from now."""
        self._generation = generation
        self.renew(self.now())

    def revoke(self) -> None:
        """The group rebalances: we are about to tell the coordinator that we have let go of everything."""
        self._generation = None

    def renew(self, sent_at: float) -> None:
        """A heartbeat sent at `sent_at`, as `now` tells it, was answered."""
        self._renewed_at = max(self._renewed_at, sent_at)

    def check(self, generation: int) -> None:
        """Raises AssignmentEndedError unless that assignment lasts, LeaseLostError unless the lease is valid now."""
        if generation != self._generation:
            raise AssignmentEndedError(f"generation {generation} of the group has ended")
        age = self.now() - self._renewed_at
        if age > self._valid_seconds:
            raise LeaseLostError(
                f"the last answered heartbeat is {age:.1f} s ago, {self._valid_seconds:.1f} s are allowed"
            )

    @staticmethod
    def now() -> float:
        """A clock that neither steps nor, where the system has such a one, stops while the machine sleeps."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()
