"""Busyness: how late this process's event loop is. What everybody waits for is the loop, so it tells when there is not
enough for all."""

from __future__ import annotations

import asyncio
import time

_PROBE_SECONDS = 0.1
# A new probe counts for this part of the average: one pause, such as Python's collector makes, is not yet busy.
_PART = 0.2


class Busyness:
    """A Busyness averages how late the loop is, in milliseconds, over the last second or so; the process `is_busy`
    while that is above `lag_ms_max`."""

    def __init__(self, lag_ms_max: float) -> None:
        self.lag_ms = 0.0
        self._lag_ms_max = lag_ms_max

    @property
    def is_busy(self) -> bool:
        """Whether there is more to do than the loop keeps up with."""
        return self.lag_ms > self._lag_ms_max

    def note(self, late_ms: float) -> None:
        """Take one more probe into the average."""
        self.lag_ms += (late_ms - self.lag_ms) * _PART

    async def run(self) -> None:
        """Probe for ever."""
        while True:
            due_at = time.monotonic() + _PROBE_SECONDS
            await asyncio.sleep(_PROBE_SECONDS)
            self.note(max(0.0, time.monotonic() - due_at) * 1000)
