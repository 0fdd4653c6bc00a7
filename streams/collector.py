"""The garbage collector of Python, as Meterline's processes set it."""

from __future__ import annotations

import gc
import time

_COLLECT_SECONDS = 3.0


def tune_collector() -> None:
    """Look for reference cycles less often: a batch makes tens of thousands of objects, none of them in a cycle.

    With Python's defaults every few hundred objects set off a pass. A process that calls this must also call a
    CycleCollector in its loop. Call this again once everything is started: passes then leave out the objects that exist
    by then, and stay.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


class CycleCollector:
    """A CycleCollector collects every few seconds while there is work, once for all loops of the process.

    Every fetch of aiokafka leaves a cycle behind that holds all it fetched, unpacked: fifteen megabytes of journal.
    Left to the thresholds, that grew to five gigabytes.
    """

    _collected_at = 0.0

    def tick(self) -> None:
        """Collect if it is time to. Call it after each round of work."""
        now = time.monotonic()
        if now - CycleCollector._collected_at >= _COLLECT_SECONDS:
            CycleCollector._collected_at = now
            gc.collect()
