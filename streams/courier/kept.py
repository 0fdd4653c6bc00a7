"""Connections that are kept open for the next post to the same URL: few, for seconds, and never for long.

A kept connection leads to the address that was checked when it was made. A name may lead elsewhere by now, so each is
given up after AGE_SECONDS_MAX, in use or not. Why kept at all: docs/decisions/0071.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from streams.courier.addresses import Place
from streams.courier.exchanges import HttpConnection

KEPT_MAX = 1_000
# Servers of several frameworks hang up after 5 seconds: a post should not meet that.
IDLE_SECONDS_MAX = 4.0
AGE_SECONDS_MAX = 60.0
# A receiver that hung up as a post came gets a connection each for so long.
SHY_SECONDS = 600.0
SHY_MAX = 10_000
_SWEEP_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Connection:
    """A connection to a URL's receiver, at the place that was checked. `made_at` and `kept_at` are of the monotonic
    clock."""

    url: str
    place: Place
    http: HttpConnection
    made_at: float
    kept_at: float = 0.0
    # Whether a post has gone on it before.
    is_used: bool = False


class KeptConnections:
    """KeptConnections are taken by who posts to the same URL, the one kept last first. Those that nobody takes end by
    themselves."""

    def __init__(self) -> None:
        self._by_url: dict[str, list[Connection]] = {}
        # The one that was kept first stands first.
        self._in_order: dict[Connection, None] = {}
        self._shy: dict[str, float] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._in_order)

    def take(self, url: str) -> Connection | None:
        """A connection on which the next post may go; None where there is none."""
        now = time.monotonic()
        while (there := self._by_url.get(url)) is not None:
            connection = there[-1]
            self._forget(connection)
            if _is_young(connection, now) and connection.http.is_free:
                return connection
            self._close(connection)
        return None

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end, or close it."""
        now = connection.kept_at = time.monotonic()
        connection.is_used = True
        if not connection.http.is_free or not _is_young(connection, now) or self._shy.get(connection.url, 0.0) > now:
            self._close(connection)
            return
        self._by_url.setdefault(connection.url, []).append(connection)
        self._in_order[connection] = None
        if len(self._in_order) > KEPT_MAX:
            self._end(next(iter(self._in_order)))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def shun(self, url: str) -> None:
        """Keep no connection to a URL for a while: its receiver hangs up as posts come."""
        self._shy.pop(url, None)
        self._shy[url] = time.monotonic() + SHY_SECONDS
        if len(self._shy) > SHY_MAX:
            del self._shy[next(iter(self._shy))]
        for connection in list(self._by_url.get(url, ())):
            self._end(connection)

    async def close(self) -> None:
        """Close all of them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._in_order):
            self._end(connection)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._in_order):
            if not _is_young(connection, now):
                self._end(connection)
        again = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep) if self._in_order else None
        self._sweeper = again

    def _end(self, connection: Connection) -> None:
        self._forget(connection)
        self._close(connection)

    def _forget(self, connection: Connection) -> None:
        del self._in_order[connection]
        there = self._by_url[connection.url]
        there.remove(connection)
        if not there:
            del self._by_url[connection.url]

    def _close(self, connection: Connection) -> None:
        task = asyncio.create_task(connection.http.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _is_young(connection: Connection, now: float) -> bool:
    return now - connection.made_at < AGE_SECONDS_MAX and now - connection.kept_at < IDLE_SECONDS_MAX
