"""Server-sent events: an answer that goes on for as long as its reader stays, as WHATWG's HTML describes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.entries import LiveEntry, entry_json
from api.live_ledger import LedgerStream, Turn
from streams.kafka.codecs import encode_json

_RETRY_MS = 1000
# No proxy may keep what is told, nor wait for more of it: nginx reads the last.
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventStream(Response):
    """An EventStream answers with what a stream of the live ledger tells, each turn in the bytes that `events_of` makes
    of it; for `seconds`, or until either side ends it. A stream that can't be opened is refused as any other call."""

    media_type = "text/event-stream"

    def __init__(
        self,
        opened: AbstractAsyncContextManager[LedgerStream],
        events_of: Callable[[Turn], bytes],
        heartbeat_seconds: float,
        seconds: float | None = None,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._opened, self._events_of = opened, events_of
        self._heartbeat_seconds, self._seconds = heartbeat_seconds, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, as they come. A reader that does not read holds up its own stream alone."""
        async with self._opened as stream:
            watching = asyncio.create_task(_end_with_reader(receive, stream))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                opening = b"retry: %d\n" % _RETRY_MS
                async for turn in stream.turns(self._heartbeat_seconds, self._seconds):
                    body = opening + self._events_of(turn)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    opening = b""
                await send({"type": "http.response.body", "body": b""})
            finally:
                watching.cancel()


def json_events(turn: Turn) -> bytes:
    """A turn as events: an entry is a message with its JSON, a gap and an end are events of their name. A heartbeat is
    a comment. Each bears the place to come back to."""
    place = f"id: {turn.place}\n".encode() if turn.place else b""
    if turn.ended is not None:
        return _named("end", {"code": turn.ended.code, "detail": turn.ended.detail})
    gap = place + _named("gap", {"reason": turn.gap, "detail": turn.gap_detail}) if turn.gap else b""
    if not turn.entries:
        return gap or b": nothing new\n" + place + b"\n"
    return gap + b"".join(entry.once(_message) for entry in turn.entries)


def _message(entry: LiveEntry) -> bytes:
    return b"id: %s\ndata: %s\n\n" % (entry.entry_id.encode(), entry_json(entry))


def _named(event: str, data: dict[str, object]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), encode_json(data))


async def _end_with_reader(receive: Receive, stream: LedgerStream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end()
