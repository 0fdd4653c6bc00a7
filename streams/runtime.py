"""How Python itself is set for our processes."""

from __future__ import annotations

import gc


def tune_collector() -> None:
    """Look for reference cycles less often: a batch makes tens of thousands of objects, none of them in a cycle.

    With Python's defaults every few hundred of them set off a pass. Much less often than this, and libraries whose
    cycles hold buffers keep gigabytes of them (seen in the API at a threshold of 100,000).
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
