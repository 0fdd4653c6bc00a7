"""The pace of a consumer's fetches: quick while records come, and seldom while none do.

A fetch that finds nothing costs the broker and us as much as one that finds a record, and an idle process makes nothing
else. A broker that may sit on a fetch longer ends it with the first record all the same, so that costs no time.
"""

from __future__ import annotations

import time

from aiokafka import AIOKafkaConsumer

IDLE_AFTER_SECONDS = 1.0


class FetchPace:
    """A FetchPace sets how long the broker may sit on the next fetch of a consumer that is started: `busy_ms`, or until
    there are `busy_bytes`; once no records have come for a second, `idle_ms`, or until there is any record. `wait_ms`
    is which of the two it is now."""

    def __init__(self, busy_ms: int, idle_ms: int, busy_bytes: int = 1) -> None:
        self._busy = busy_ms, busy_bytes
        self._idle = idle_ms, 1
        self._found_at = 0.0
        self.wait_ms = busy_ms

    def note(self, consumer: AIOKafkaConsumer, has_found: bool) -> None:
        """Note whether the last fetch has found records. Call this after each."""
        now = time.monotonic()
        if has_found:
            self._found_at = now
        is_idle = now - self._found_at > IDLE_AFTER_SECONDS
        # aiokafka has no public way to change these.
        fetcher = consumer._fetcher
        self.wait_ms, least = self._idle if is_idle else self._busy
        fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes = self.wait_ms, least
