"""Producers send usage events, packed, in bounded memory, each event acknowledged; by Kafka or by HTTP.

    async with KafkaProducer(settings) as producer:
        sent = await producer.send(usage_event("prj_1", "image", id="req-42", source="/gateway"))
        await sent  # on the log: where it stands

Acknowledged is stored for good, and not billed yet: the worker that owns the project decides on the event in a moment,
and may find no credits for it. Leaving the block waits for all events to be acknowledged. An event that was not may be
sent again as it is: it is billed once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import msgspec

from schemas.events import Environment, PackedUsage, UsageEvent
from schemas.problems import Rejection
from streams.client.arguments import ArgumentError, Count, Seconds, argument_error, check, checked_event, of_event
from streams.core.foreign import UnreadableError, read, why_unreadable


class _Known(msgspec.Struct):
    """The names that an event has, read by themselves."""

    source: str = ""
    id: str = ""


_encode = msgspec.json.Encoder().encode
_decode_identity = msgspec.json.Decoder(_Known).decode
_decode_packed = msgspec.msgpack.Decoder(PackedUsage).decode

# The events that share records: those of one partition in one form; by HTTP, all.
Bucket = tuple[int, bool]


@dataclass(frozen=True, slots=True)
class EventPlace:
    """The place of an acknowledged event: `offset` of its record on `partition`, `index` within that record.

    The API does not tell where an event stands: by HTTP, `partition` and `offset` are -1, and `index` is that within
    the request.
    """

    partition: int
    offset: int
    index: int


class ProducerError(Exception):
    """A failed delivery of an event, which `source` and `id` name. It may be sent again: an event that was delivered
    after all is billed once."""

    def __init__(self, detail: str, *, source: str = "", id: str = "") -> None:
        super().__init__(detail + of_event(source, id))
        self.source = source
        self.id = id


class EventRejection(Rejection):
    """A refusal of an event by the API: it is not sent again as it is. `source` and `id` name the event."""

    def __init__(self, code: str, detail: str, field: str | None, *, source: str, id: str) -> None:
        super().__init__(code, detail, field)
        self.source = source
        self.id = id

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}{of_event(self.source, self.id)}"


class Sent:
    """A Sent is an event on its way. Awaiting it gives the event's place once the event is acknowledged, or raises
    the reason why it is not: a ProducerError, or, by HTTP, the EventRejection of a bad event.

    Acknowledged is stored, not billed yet: the owner of the project decides on the event in a moment.
    """

    __slots__ = ("_index", "_record")

    def __init__(self, record: asyncio.Future[list[EventPlace | Exception]], index: int) -> None:
        self._record = record
        self._index = index

    def __await__(self) -> Generator[Any, None, EventPlace]:
        places = yield from asyncio.shield(self._record).__await__()
        place = places[self._index]
        if isinstance(place, Exception):
            raise place
        return place


def usage_event(
    project: str,
    operation: str,
    *,
    id: str,
    source: str,
    time: str | datetime = "",
    quantity: int | None = None,
    environment: Environment | None = None,
    job_id: str = "",
    metadata: dict[str, str | int | float | bool | None] | None = None,
    **details: Any,
) -> UsageEvent:
    """Make a usage event. `id` is unique within `source`; `time` is a datetime with its zone, its text as RFC 3339 has
    it, or "" for now.

    `details` are the operation's own: target_languages, attempts, networks, tier, media_type. Raises ArgumentError,
    which names the argument that can't be right.
    """
    data = {"operation": operation, "quantity": quantity, "environment": environment, "job_id": job_id}
    return checked_event(project, id, source, time, {**details, **data, "metadata": metadata or {}})


@dataclass(slots=True)
class _WaitingPack:
    """A pack that takes events until it is sent. `size` is that of its texts, in bytes."""

    texts: list[bytes]
    size: int
    done: asyncio.Future[list[EventPlace | Exception]]


class Producer(ABC):
    """A Producer packs events and delivers the packs. `send` waits while `events_pending_max` are unacknowledged.

    `acknowledged` counts those that were, `errors` the others by code; `last_error` is the newest of their errors.
    """

    def __init__(self, *, events_per_pack: int, linger_ms: int, events_pending_max: int, pack_bytes_max: int) -> None:
        for name, count in (("events_per_pack", events_per_pack), ("events_pending_max", events_pending_max)):
            check(name, count, Count)
        check("linger_ms", linger_ms, Seconds)
        self._events_per_pack = events_per_pack
        self._linger_seconds = linger_ms / 1000
        self._pending_max = events_pending_max
        self._pack_bytes_max = pack_bytes_max
        self._packs: dict[Bucket, _WaitingPack] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        self.pending = 0
        self._room = asyncio.Event()
        self._room.set()
        self._lingering: asyncio.TimerHandle | None = None
        self.errors: dict[str, int] = defaultdict(int)
        self.last_error: Exception | None = None
        self.acknowledged = 0

    async def send(self, event: UsageEvent | dict[str, Any] | bytes) -> Sent:
        """Take an event to send with its pack: a UsageEvent, a CloudEvent as a dict, or its JSON text.

        Raises ArgumentError for a UsageEvent or a dict that no project could be billed for. The text of an event is
        somebody else's, and goes on as it is: the worker, or the API, judges it.
        """
        is_own = not isinstance(event, bytes)
        text = event if isinstance(event, bytes) else _written(event)
        try:
            bucket, text = self._formed(text, is_own)
        except Rejection as rejection:
            raise argument_error(rejection, *identity_of(text)) from None
        while self.pending >= self._pending_max:
            self._room.clear()
            self.flush_soon()
            await self._room.wait()
        pack = self._packs.get(bucket)
        if pack is None:
            pack = self._packs[bucket] = _WaitingPack([], 0, asyncio.get_running_loop().create_future())
            if self._lingering is None:
                self._lingering = asyncio.get_running_loop().call_later(self._linger_seconds, self.flush_soon)
        pack.texts.append(text)
        pack.size += len(text)
        self.pending += 1
        if len(pack.texts) >= self._events_per_pack or pack.size >= self._pack_bytes_max:
            self._dispatch(bucket)
        return Sent(pack.done, len(pack.texts) - 1)

    def flush_soon(self) -> None:
        """Send the packs as they are, without waiting for more events."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        for bucket in list(self._packs):
            self._dispatch(bucket)

    async def flush(self) -> None:
        """Wait until all events taken so far are acknowledged or have failed."""
        self.flush_soon()
        while self._deliveries:
            await asyncio.gather(*self._deliveries)

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.flush()
        finally:
            await self._disconnect()

    def _dispatch(self, bucket: Bucket) -> None:
        pack = self._packs.pop(bucket)
        task = asyncio.get_running_loop().create_task(self._deliver_pack(bucket, pack))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _deliver_pack(self, bucket: Bucket, pack: _WaitingPack) -> None:
        places: list[EventPlace | Exception]
        try:
            places = await self._deliver(bucket, pack.texts)
        except Exception as error:
            places = [self._failure(bucket, text, error) for text in pack.texts]
        for place in places:
            if isinstance(place, Exception):
                self.errors[getattr(place, "code", "not_acknowledged")] += 1
                self.last_error = place
            else:
                self.acknowledged += 1
        pack.done.set_result(places)
        self.pending -= len(pack.texts)
        self._room.set()

    @staticmethod
    def _failure(bucket: Bucket, text: bytes, error: Exception) -> ProducerError:
        source, id = identity_of(text, bucket[1])
        failure = ProducerError(f"The event was not acknowledged: {error}", source=source, id=id)
        failure.__cause__ = error
        return failure

    @abstractmethod
    def _formed(self, text: bytes, is_own: bool) -> tuple[Bucket, bytes]:
        """An event in JSON as it is sent, and its bucket. Raises Rejection where it is the caller's own, and no project
        could be billed for it."""

    @abstractmethod
    async def _deliver(self, bucket: Bucket, texts: list[bytes]) -> list[EventPlace | Exception]: ...

    @abstractmethod
    async def _connect(self) -> None: ...

    @abstractmethod
    async def _disconnect(self) -> None: ...


def _written(event: UsageEvent | dict[str, Any]) -> bytes:
    """An event as JSON. Raises ArgumentError."""
    if not isinstance(event, UsageEvent | dict):
        raise ArgumentError("event", f"a {type(event).__name__} won't do: give a UsageEvent, a dict, or JSON as bytes")
    try:
        return _encode(event)
    except Exception as error:
        raise ArgumentError("event", f"it can't be written as JSON: {why_unreadable(error)}") from None


def identity_of(text: bytes, is_packed: bool = False) -> tuple[str, str]:
    """The (source, id) of an event as it is sent; empty where they can't be read."""
    try:
        if is_packed:
            event = read(_decode_packed, text)
            return event.source, event.event_id
        known = read(_decode_identity, text)
    except UnreadableError:
        return "", ""
    return known.source, known.id
