"""Admissions by HTTP: HttpAdmissions asks the API, which asks the worker that owns the project."""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from schemas.events import Environment
from schemas.prices import PriceBook
from schemas.problems import CODES
from schemas.replies import RateState
from streams.client.admissions import (
    RETRY_SECONDS,
    About,
    Decision,
    Details,
    MetadataValues,
    MeterlineAway,
    usage_data,
)
from streams.client.amounts import Credits, credits_of, microcredits_of
from streams.client.arguments import (
    ApiKey,
    Count,
    HoldSeconds,
    Reason,
    Seconds,
    SomeSeconds,
    Url,
    check,
    check_hold,
    checked_admission,
)
from streams.client.fetched_prices import PRICES_SECONDS_DEFAULT, FetchedPrices, prices_of
from streams.core.booking import format_credits, parse_credits
from streams.kafka.clock import now_ms

# Problems of the gateway's own key, which are no customer's business.
_OWN_FAULTS = ("unauthenticated", "key_revoked", "missing_scope", "wrong_project")


class HttpAdmissions:
    """HttpAdmissions asks the API, with a project's key or, for many projects, an admin key. A use is recorded with the
    id of that key, whatever `key_id` says.

    `timeout_seconds` is for the whole of a call, tries included.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_seconds: float = 6.0,
        attempts_max: int = 3,
        connections_max: int = 100,
        prices_seconds: float = PRICES_SECONDS_DEFAULT,
    ) -> None:
        check("url", url, Url)
        check("key", key, ApiKey)
        check("timeout_seconds", timeout_seconds, SomeSeconds)
        check("attempts_max", attempts_max, Count)
        check("connections_max", connections_max, Count)
        check("prices_seconds", prices_seconds, Seconds)
        self._url = url.rstrip("/")
        self._key = key
        self._timeout_seconds = timeout_seconds
        self._attempts_max = attempts_max
        self._connections_max = connections_max
        self._prices = FetchedPrices(url, prices_seconds)
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {self._key}"},
            timeout=self._timeout_seconds,
            limits=httpx.Limits(max_connections=self._connections_max, max_keepalive_connections=self._connections_max),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._prices.close()
        if self._client is not None:
            await self._client.aclose()

    async def admit(
        self,
        project: str,
        operation: str,
        *,
        id: str,
        source: str,
        hold: bool = False,
        hold_seconds: int | None = None,
        job_id: str = "",
        environment: Environment = "production",
        metadata: MetadataValues | None = None,
        idempotency_key: str = "",
        key_id: str = "",
        **details: Unpack[Details],
    ) -> Decision:
        """Decide one request. See `Admissions.admit`."""
        body = usage_data(operation, environment, job_id or (id if hold else ""), metadata, details)
        checked_admission(project, operation, id, source, hold, hold_seconds, idempotency_key, key_id, body)
        body |= {"project": project, "source": source, "id": id}
        if hold:
            body |= {"hold": True} | ({} if hold_seconds is None else {"hold_seconds": hold_seconds})
        return await self._post(
            "/v1/admissions",
            project,
            operation,
            body,
            idempotency_key or f"admission:{secrets.token_hex(12)}",
            source=source,
            id=id,
        )

    async def capture(self, project: str, hold_id: str, credits: Credits | None = None) -> Decision:
        """Charge a hold. See `Admissions.capture`."""
        check_hold(project, hold_id)
        body = {} if credits is None else {"credits": format_credits(microcredits_of(credits, "credits"))}
        return await self._post(f"/v1/holds/{hold_id}/capture", project, "", body, hold_id=hold_id)

    async def release(self, project: str, hold_id: str, reason: str = "") -> Decision:
        """Give a hold's credits back. See `Admissions.release`."""
        check_hold(project, hold_id)
        check("reason", reason, Reason)
        return await self._post(f"/v1/holds/{hold_id}/release", project, "", {"reason": reason}, hold_id=hold_id)

    async def extend(self, project: str, hold_id: str, seconds: int) -> Decision:
        """Let a hold expire later, or sooner. See `Admissions.extend`."""
        check_hold(project, hold_id)
        check("seconds", seconds, HoldSeconds)
        key = f"extend:{secrets.token_hex(12)}"
        return await self._post(f"/v1/holds/{hold_id}/extend", project, "", {"seconds": seconds}, key, hold_id=hold_id)

    async def prices(self) -> dict[str, Decimal]:
        """The credits of one unit of each operation. See `Admissions.prices`."""
        return prices_of(await self._price_book())

    async def _price_book(self) -> PriceBook:
        return await self._prices.get()

    async def _post(
        self,
        path: str,
        project: str,
        operation: str,
        body: dict[str, Any],
        idempotency_key: str = "",
        **about: Unpack[About],
    ) -> Decision:
        """The API's decision, asked for again where need be; `about` is what MeterlineAway names."""
        assert self._client is not None, "use `async with`"
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        params = {} if path == "/v1/admissions" else {"project": project}
        is_unsent = True
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for attempt in range(self._attempts_max):
                    if attempt:
                        await asyncio.sleep(RETRY_SECONDS * 2**attempt)
                    try:
                        response = await self._client.post(self._url + path, json=body, params=params, headers=headers)
                    except httpx.TransportError as error:
                        is_unsent = is_unsent and isinstance(error, httpx.ConnectError)
                        why = f"{type(error).__name__} {error}".strip()
                        continue
                    if response.status_code < 500:
                        return _decision_of(response, project, operation, about)
                    is_unsent, why = False, f"the API answered {response.status_code}"
        except TimeoutError:
            raise MeterlineAway(f"No decision within {self._timeout_seconds:g} seconds", **about) from None
        raise MeterlineAway(f"No decision in {self._attempts_max} tries: {why}", is_unsent=is_unsent, **about)


def _decision_of(response: httpx.Response, project: str, operation: str, about: About) -> Decision:
    """The decision in an answer below 500. Raises MeterlineAway where the answer is not the API's, or is about the
    gateway's own key."""
    try:
        body = dict(response.json())
        code = "" if response.is_success else body["code"]
        kind = CODES[code] if code else None
    except Exception:
        raise MeterlineAway(f"The answer {response.status_code} is not Meterline's", **about) from None
    if code in _OWN_FAULTS:
        raise MeterlineAway(f"The gateway's key: {body.get('detail')}", **about)
    expires_at = body.get("hold_expires_at")
    return Decision(
        status=response.status_code,
        code=code,
        detail=body.get("detail", "").removesuffix(f" {kind.remedy}").rstrip(".") if kind else "",
        project=project,
        operation=body.get("operation", operation),
        credits=credits_of(parse_credits(body.get("credits", "0"), "credits")),
        available=credits_of(parse_credits(body.get("available", "0"), "available")),
        entry_id=body.get("entry_id", ""),
        offset=body.get("offset", -1),
        hold_id=body.get("hold_id") or "",
        hold_expires_at_ms=round(datetime.fromisoformat(expires_at).timestamp() * 1000) if expires_at else 0,
        already_decided=body.get("already_decided", False),
        shadow=body.get("shadow") or "",
        rate=_rate_of(response),
        field=body.get("field") or "",
    )


def _rate_of(response: httpx.Response) -> RateState | None:
    headers = response.headers
    if "x-ratelimit-limit" not in headers:
        return None
    retry_after = headers.get("retry-after") if response.status_code == 429 else None
    return RateState(
        int(headers["x-ratelimit-limit"]),
        int(headers["x-ratelimit-remaining"]),
        int(headers["x-ratelimit-reset"]) * 1000,
        now_ms() + int(retry_after) * 1000 if retry_after else 0,
    )
