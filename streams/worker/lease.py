"""The lease: how long this worker may believe that its partitions are still its own.

The group coordinator gives a silent member's partitions away after the session timeout. A worker that was paused does
not notice that by itself; it does notice that its last answered heartbeat is too long ago. The coordinator also gives
partitions away when the group rebalances: then the effects of records read under the old assignment may not be written
any more.
"""

from __future__ import annotations

import time

# A flush begins within this part of a session; the rest must be enough to finish it.
_SHARE_OF_SESSION = 2 / 3


class LeaseLostError(Exception):
    """The lease has run out: another worker may own our partitions by now, and nothing more may be written."""


class AssignmentEndedError(Exception):
    """The group has rebalanced, or is about to: records read before are read again, by the worker that gets them
    now."""


class Lease:
    """A Lease is renewed by every answered heartbeat, and counts from when that was sent; a new one has never been
    renewed. It holds for the records of one assignment, which has the group's `generation`."""

    def __init__(self, session_timeout_seconds: float) -> None:
        self._valid_seconds = session_timeout_seconds * _SHARE_OF_SESSION
        self._renewed_at = float("-inf")
        self._generation: int | None = None

    def assign(self, generation: int) -> None:
        """Begin an assignment: the coordinator has just given us partitions, and its session timer runs from now."""
        self._generation = generation
        self.renew(self.now())

    def revoke(self) -> None:
        """End the assignment: the group rebalances, and we are about to tell the coordinator that we hold nothing."""
        self._generation = None

    def renew(self, sent_at: float) -> None:
        """Renew the lease by an answered heartbeat that was sent at `sent_at`, a time of `now`."""
        self._renewed_at = max(self._renewed_at, sent_at)

    def check(self, generation: int) -> None:
        """Check that a write is allowed: raises AssignmentEndedError unless the assignment of that generation lasts,
        LeaseLostError unless the lease is valid now."""
        if generation != self._generation:
            raise AssignmentEndedError(f"generation {generation} of the group has ended")
        age = self.now() - self._renewed_at
        if age > self._valid_seconds:
            raise LeaseLostError(
                f"the last answered heartbeat is {age:.1f} s ago, {self._valid_seconds:.1f} s are allowed"
            )

    @staticmethod
    def now() -> float:
        """The seconds of a clock that neither steps nor, where the system has such a one, stops while the machine
        sleeps."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()
