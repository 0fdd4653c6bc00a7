"""How Python itself is set for our processes."""

from __future__ import annotations

import gc
import time

_COLLECT_SECONDS = 3.0


def tune_collector() -> None:
    """Look for reference cycles less often: a batch makes tens of thousands of objects, none of them in a cycle.

    With Python's defaults every few hundred of them set off a pass. Who sets this calls a CycleCollector in its loop.
    Call it again once everything is started: a pass need not look at what is there by then, and stays.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


class CycleCollector:
    """Collects every few seconds while there is work, once for all loops of the process.

    aiokafka leaves a cycle behind with every fetch, which holds all that was fetched, unpacked: fifteen megabytes of
    journal. Left to the thresholds, that grew to five gigabytes.
    """

    _collected_at = 0.0

    def tick(self) -> None:
        """Call after each round of work."""
        now = time.monotonic()
        if now - CycleCollector._collected_at >= _COLLECT_SECONDS:
            CycleCollector._collected_at = now
            gc.collect()
