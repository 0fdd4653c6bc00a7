"""The producer by HTTP: HttpProducer sends usage events through the API, with a key."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import httpx

from streams.client.arguments import ApiKey, Count, Seconds, Url, check
from streams.client.producer import Bucket, EventPlace, EventRejection, Producer, ProducerError, identity_of
from streams.core.foreign import UnreadableError, read
from streams.core.packed_usage import packed_event

_TRIED_AGAIN = frozenset({429, 500, 502, 503, 504})
_APART_SECONDS_MAX = 0.25


class HttpProducer(Producer):
    """An HttpProducer sends through POST /v1/events, with a key. A refused event raises its EventRejection from its
    `await`.

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
        check("url", url, Url)
        check("key", key, ApiKey)
        check("attempts_max", attempts_max, Count)
        check("retry_seconds", retry_seconds, Seconds)
        check("give_up_seconds", give_up_seconds, Seconds)
        self._url = url.rstrip("/")
        self._key = key
        self._attempts_max = attempts_max
        self._retry_seconds = retry_seconds
        self._give_up_seconds = give_up_seconds
        self._client: httpx.AsyncClient | None = None

    def _formed(self, text: bytes, is_own: bool) -> tuple[Bucket, bytes]:
        if is_own:
            packed_event(text)
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
            source, id = identity_of(texts[error["index"]])
            told = error["code"], error["detail"], error.get("field")
            places[error["index"]] = EventRejection(*told, source=source, id=id)
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
