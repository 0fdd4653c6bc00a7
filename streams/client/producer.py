"""Producers send usage events, packed, in bounded memory, each event acknowledged; by Kafka or by HTTP.

    async with KafkaProducer(settings) as producer:
        sent = await producer.send(usage_event("prj_1", "image", id="req-42", source="/gateway"))
        await sent  # on the log: where it stands

Leaving the block waits for all events. An event that was not acknowledged may be sent again as it is: it is billed
once.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from schemas.events import EVENT_TYPE, Environment, UsageData, UsageEvent
from schemas.problems import Rejection
from streams.core.foreign import UnreadableError, read
from streams.core.packed_usage import packed_event
from streams.kafka.codecs import encode_usage
from streams.kafka.publisher import Publisher
from streams.kafka.topics import partition_of, topics_of
from streams.settings import Settings

_TRIED_AGAIN = frozenset({429, 500, 502, 503, 504})
_APART_SECONDS_MAX = 0.25

_encode = msgspec.json.Encoder().encode

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
    """A failed delivery of events. They may be sent again: an event that was delivered after all is billed once."""


class Sent:
    """A Sent is an event on its way. Awaiting it gives the event's place once the event is acknowledged, or raises
    the reason why it is not: a ProducerError, or, by HTTP, the Rejection of a bad event."""

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
    time: str = "",
    quantity: int | None = None,
    environment: Environment | None = None,
    job_id: str = "",
    metadata: dict[str, str | int | float | bool | None] | None = None,
    **details: Any,
) -> UsageEvent:
    """Make a usage event. `id` is unique within `source`; `time` is RFC 3339 with a zone, or "" for now.

    `details` are the operation's own: target_languages, attempts, networks, tier, media_type.
    """
    data = UsageData(
        operation,
        quantity=quantity,
        environment=environment,
        job_id=job_id,
        metadata=metadata or {},
        **details,
    )
    return UsageEvent("1.0", id, source, EVENT_TYPE, project, data, time)


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
        """Take an event to send with its pack: a UsageEvent, a CloudEvent as a dict, or its JSON text."""
        while self.pending >= self._pending_max:
            self._room.clear()
            self.flush_soon()
            await self._room.wait()
        bucket, text = self._formed(event if isinstance(event, bytes) else _encode(event))
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
            failure = ProducerError(f"{len(pack.texts)} events were not acknowledged: {error}")
            failure.__cause__ = error
            places = [failure] * len(pack.texts)
        for place in places:
            if isinstance(place, Exception):
                self.errors[getattr(place, "code", "not_acknowledged")] += 1
                self.last_error = place
            else:
                self.acknowledged += 1
        pack.done.set_result(places)
        self.pending -= len(pack.texts)
        self._room.set()

    @abstractmethod
    def _formed(self, text: bytes) -> tuple[Bucket, bytes]:
        """An event in JSON as it is sent, and its bucket."""

    @abstractmethod
    async def _deliver(self, bucket: Bucket, texts: list[bytes]) -> list[EventPlace | Exception]: ...

    @abstractmethod
    async def _connect(self) -> None: ...

    @abstractmethod
    async def _disconnect(self) -> None: ...


class KafkaProducer(Producer):
    """A KafkaProducer sends straight to the usage topic, packed: what an event says is read here, not in the worker.

    A bad event shows on the dead-letter topic, not here. It is sent as its JSON, in records of their own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        events_per_pack: int = 500,
        linger_ms: int = 20,
        events_pending_max: int = 50_000,
    ) -> None:
        super().__init__(
            events_per_pack=events_per_pack,
            linger_ms=linger_ms,
            events_pending_max=events_pending_max,
            pack_bytes_max=512 * 1024,
        )
        self._settings = settings
        self._topic = topics_of(settings).usage
        self._publisher = Publisher(settings)
        self._connecting = asyncio.Lock()

    def _formed(self, text: bytes) -> tuple[Bucket, bytes]:
        try:
            project, packed = packed_event(text)
        except Rejection:
            return (partition_of("", self._settings.partitions), False), text
        return (partition_of(project, self._settings.partitions), True), packed

    async def _deliver(self, bucket: Bucket, texts: list[bytes]) -> list[EventPlace | Exception]:
        partition, is_packed = bucket
        await self._reconnect()
        record = encode_usage(texts) if is_packed else b"[" + b",".join(texts) + b"]"
        offset = await (await self._publisher.send(self._topic, partition, record))
        return [EventPlace(partition, offset, index) for index in range(len(texts))]

    async def _connect(self) -> None:
        await self._publisher.start()

    async def _disconnect(self) -> None:
        await self._publisher.stop()

    async def _reconnect(self) -> None:
        """Make a new connection where there is none, or where the old one can never send again."""
        async with self._connecting:
            if not self._publisher.is_alive:
                with suppress(Exception):
                    await self._publisher.stop()
                self._publisher = Publisher(self._settings)
                await self._publisher.start()


class HttpProducer(Producer):
    """An HttpProducer sends through POST /v1/events, with a key. A refused event raises its Rejection from its `await`.

    A pack is sent again until it is taken: a repeat is harmless, since each event is billed once. Over the request
    limit (429) a pack waits as long as Retry-After says, however often, until `give_up_seconds` have passed since it
    was first sent; other failures are tried `attempts_max` times in all. Then, and only then, its events raise
    ProducerError from their `await`, and the caller may send them again. `send` waits meanwhile, once
    `events_pending_max` are under way.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        events_per_pack: int = 500,
        linger_ms: int = 20,
        events_pending_max: int = 20_000,
        attempts_max: int = 8,
        retry_seconds: float = 0.2,
        give_up_seconds: float = 900.0,
    ) -> None:
        super().__init__(
            events_per_pack=events_per_pack,
            linger_ms=linger_ms,
            events_pending_max=events_pending_max,
            pack_bytes_max=2 * 1024 * 1024,
        )
        self._url = url.rstrip("/")
        self._key = key
        self._attempts_max = attempts_max
        self._retry_seconds = retry_seconds
        self._give_up_seconds = give_up_seconds
        self._client: httpx.AsyncClient | None = None

    def _formed(self, text: bytes) -> tuple[Bucket, bytes]:
        return (0, False), text

    async def _deliver(self, bucket: Bucket, texts: list[bytes]) -> list[EventPlace | Exception]:
        response = await self._post(b"[" + b",".join(texts) + b"]")
        try:
            body: dict[str, Any] = read(lambda answer: dict(answer.json()), response)
        except UnreadableError:
            raise ProducerError(f"The answer {response.status_code} is not Meterline's") from None
        if response.status_code != 202 and not body.get("errors"):
            raise ProducerError(f"{response.status_code} {body.get('code')}: {body.get('detail')}")
        places: list[EventPlace | Exception] = [EventPlace(-1, -1, index) for index in range(len(texts))]
        for error in body.get("errors") or []:
            places[error["index"]] = Rejection(error["code"], error["detail"], error.get("field"))
        return places

    async def _post(self, body: bytes) -> httpx.Response:
        assert self._client is not None, "use `async with`"
        give_up_at = time.monotonic() + self._give_up_seconds
        failures = 0
        while True:
            pause_seconds = self._retry_seconds * 2**failures
            try:
                response = await self._client.post(
                    f"{self._url}/v1/events",
                    content=body,
                    headers={"content-type": "application/cloudevents-batch+json"},
                )
            except httpx.TransportError:
                failures += 1
                if failures == self._attempts_max:
                    raise
            else:
                if response.status_code not in _TRIED_AGAIN:
                    return response
                pause_seconds = max(pause_seconds, _retry_after_seconds(response))
                if response.status_code == 429:
                    if time.monotonic() + pause_seconds > give_up_at:
                        return response
                else:
                    failures += 1
                    if failures == self._attempts_max:
                        return response
            # The pauses differ, so that packs that were stopped together do not come back together.
            await asyncio.sleep(pause_seconds + random.uniform(0, _APART_SECONDS_MAX))

    async def _connect(self) -> None:
        self._client = httpx.AsyncClient(headers={"authorization": f"Bearer {self._key}"}, timeout=30.0)

    async def _disconnect(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _retry_after_seconds(response: httpx.Response) -> float:
    """The seconds that Retry-After says; 0 where it says none."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
