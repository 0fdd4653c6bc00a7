"""For gateways: may this project do this now? Ask the owner by Kafka, or the API by HTTP; the same methods either way.

    async with KafkaAdmissions(settings) as admissions:
        decision = await admissions.admit("prj_1", "image", id="req-42", source="/gateway")
        if decision.allowed: ...

A refusal is a Decision too. Where there is none to be had, MeterlineAway is raised: it may have been decided all the
same, so ask again under the same idempotency key, or leave it to `streams.away`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack

import httpx
import msgspec
from aiokafka.errors import KafkaError

from schemas.commands import Admit, AnyCommand, CaptureHold, ExtendHold, ReleaseHold
from schemas.events import Environment, UsageEvent
from schemas.ledger import RateState
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.problems import CODES, Rejection
from streams.commands import CommandClient
from streams.core.acceptance import Origin, decoding_rejection, to_usage
from streams.core.booking import format_credits, parse_credits
from streams.core.holds import HOLD_SECONDS_DEFAULT
from streams.problems import rate_headers
from streams.publisher import Publisher
from streams.settings import Settings

log = logging.getLogger(__name__)

MetadataValues = dict[str, str | int | float | bool | None]

PRICES_SECONDS_DEFAULT = 60.0
_RETRY_SECONDS = 0.05
_RECONNECT_SECONDS = 0.5
_CONNECT_SECONDS_MAX = 10.0
# What these say is about the gateway's own key, and no customer's business.
_OWN_FAULTS = ("unauthenticated", "key_revoked", "missing_scope", "wrong_project")


class Details(TypedDict, total=False):
    """What an operation's price depends on; see `schemas.events.UsageData`."""

    quantity: int | None
    target_languages: int | None
    attempts: int | None
    networks: int | None
    tier: Literal["budget", "premium"] | None
    media_type: Literal["none", "image", "video"] | None


class MeterlineAway(Exception):
    """There is no answer: not reachable, none in time, or not for this gateway's key. Unless `is_unsent`, it may have
    been decided all the same, or may yet be."""

    def __init__(self, detail: str, *, is_unsent: bool = False) -> None:
        super().__init__(detail)
        self.is_unsent = is_unsent


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. `credits`, charged or held or given back, and `available` are microcredits.

    `offset` may be given to GET /v1/balance as `min_offset`. `already_decided`: the event was decided before, nothing
    was charged for it now; `hold_id` is then the hold that is still open for it, or "". `shadow` is the code that
    limits on trial would have refused it with. `field` is what of the request was wrong.
    """

    status: int
    code: str
    detail: str
    project: str
    operation: str
    credits: int
    available: int
    entry_id: str
    offset: int
    hold_id: str = ""
    hold_expires_at_ms: int = 0
    already_decided: bool = False
    shadow: str = ""
    rate: RateState | None = None
    field: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may run."""
        return self.status < 300

    def headers(self) -> dict[str, str]:
        """The limit headers: Unix seconds, rounded up; `Retry-After` in seconds, on a 429 alone."""
        return rate_headers(self.rate, self.status) if self.rate is not None else {}


class Admissions(Protocol):
    """What both clients do. Every method raises MeterlineAway where there is no answer; any number at once."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

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
        """Decide one request, and charge it, or hold its credits for `job_id` (by default `id`).

        (source, id) are those of the usage event that may follow: the two are billed once.
        """

    async def capture(self, project: str, hold_id: str, credits: int | None = None) -> Decision:
        """Charge a hold, or that many microcredits of it, and release the rest. A repeat gets the same answer."""

    async def release(self, project: str, hold_id: str, reason: str = "") -> Decision:
        """Give a hold's credits back. A repeat gets the same answer."""

    async def extend(self, project: str, hold_id: str, seconds: int) -> Decision:
        """Let a hold expire so long from now."""

    async def prices(self) -> PriceBook:
        """The price book in force, as of a minute ago or less."""


class KafkaAdmissions:
    """Straight to the owner: callers that ask at once share records, and one alone never waits for company.

    Entering connects. Where that fails, or a connection is lost for good, it goes on trying, and whoever asks meanwhile
    gets MeterlineAway. `timeout_seconds` is how long a decision may take, by default the settings' for replies.

    The owner knows all price books. `prices` asks the API at `api_url` for the one in force; without it, it is the
    first price book, which is wrong once another one was announced.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout_seconds: float | None = None,
        api_url: str = "",
        prices_seconds: float = PRICES_SECONDS_DEFAULT,
    ) -> None:
        self._timeout_seconds = timeout_seconds or settings.reply_timeout_seconds
        self._settings = settings.model_copy(update={"reply_timeout_seconds": self._timeout_seconds})
        self._prices = _FetchedPrices(api_url, prices_seconds) if api_url else None
        self._publisher: Publisher | None = None
        self._commands: CommandClient | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._try_to_connect()
        self._keeper = asyncio.create_task(self._keep_connected())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._disconnect()
        if self._prices is not None:
            await self._prices.close()

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
        """See Admissions."""
        fields = _data(operation, environment, job_id or (id if hold else ""), metadata, details)
        event = {"specversion": "1.0", "id": id, "source": source, "type": "-", "subject": project, "data": fields}
        try:
            asked = msgspec.convert(event, UsageEvent)
            usage = to_usage(asked, _now_ms(), _ANY_OPERATION, Origin(key_id=key_id))
        except msgspec.ValidationError as error:
            return _invalid(project, operation, decoding_rejection(error))
        except Rejection as rejection:
            return _invalid(project, operation, rejection)
        seconds = (HOLD_SECONDS_DEFAULT if hold_seconds is None else hold_seconds) if hold else 0
        return await self._decide(
            usage.operation,
            lambda addressing: Admit(project=project, usage=usage, hold_seconds=seconds, **addressing),
            idempotency_key or f"admission:{secrets.token_hex(12)}",
            key_id,
        )

    async def capture(self, project: str, hold_id: str, credits: int | None = None) -> Decision:
        """See Admissions."""
        amount = -1 if credits is None else credits
        return await self._decide(
            "",
            lambda addressing: CaptureHold(
                project=project, hold_id=hold_id, environment="", amount=amount, **addressing
            ),
            f"capture::{hold_id}:{amount}",
        )

    async def release(self, project: str, hold_id: str, reason: str = "") -> Decision:
        """See Admissions."""
        return await self._decide(
            "",
            lambda addressing: ReleaseHold(
                project=project, hold_id=hold_id, environment="", reason=reason, **addressing
            ),
            f"release::{hold_id}:{reason}",
        )

    async def extend(self, project: str, hold_id: str, seconds: int) -> Decision:
        """See Admissions."""
        return await self._decide(
            "",
            lambda addressing: ExtendHold(
                project=project, hold_id=hold_id, environment="", seconds=seconds, **addressing
            ),
            f"extend:{secrets.token_hex(12)}",
        )

    async def prices(self) -> PriceBook:
        """See Admissions."""
        return FIRST_PRICE_BOOK if self._prices is None else await self._prices.get()

    async def _decide(
        self, operation: str, command_of: Callable[[dict[str, Any]], AnyCommand], idempotency_key: str, actor: str = ""
    ) -> Decision:
        """Send it until there is a reply or the time is up; the same key makes it one decision."""
        was_sent = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while True:
                    commands = self._commands
                    if commands is None:
                        raise MeterlineAway("There is no connection to Kafka", is_unsent=not was_sent)
                    command = command_of(commands.addressing(idempotency_key, actor))
                    was_sent = True
                    try:
                        reply, offset = await commands.decide(command)
                        break
                    except (KafkaError, RuntimeError) as error:
                        log.warning("a command was not sent, it is tried again: %s", error)
                        await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            raise MeterlineAway(f"No decision within {self._timeout_seconds:g} seconds") from None
        except Rejection as rejection:
            raise MeterlineAway(rejection.detail) from None
        is_allowed = not reply.code
        return Decision(
            reply.status,
            reply.code,
            "" if is_allowed else reply.detail,
            command.project,
            operation,
            reply.amount,
            reply.available,
            reply.entry_id,
            offset,
            reply.hold_id,
            reply.hold_expires_at_ms,
            is_allowed and isinstance(command, Admit) and bool(reply.detail),
            reply.shadow,
            reply.rate,
            reply.field,
        )

    async def _keep_connected(self) -> None:
        while True:
            await asyncio.sleep(_RECONNECT_SECONDS)
            if self._commands is not None and not (self._commands.is_alive and self._publisher_is_alive()):
                log.warning("the connection to Kafka is lost for good; making another one")
                await self._disconnect()
            if self._commands is None:
                await self._try_to_connect()

    async def _try_to_connect(self) -> None:
        try:
            await asyncio.wait_for(self._connect(), _CONNECT_SECONDS_MAX)
        except Exception as error:
            log.warning("no connection to Kafka yet: %r", error)

    def _publisher_is_alive(self) -> bool:
        return self._publisher is not None and self._publisher.is_alive

    async def _connect(self) -> None:
        publisher = Publisher(self._settings)
        commands = CommandClient(self._settings, publisher)
        try:
            await publisher.start()
            await commands.start()
        except BaseException:
            await _ended(commands.stop())
            await _ended(publisher.stop())
            raise
        self._publisher, self._commands = publisher, commands

    async def _disconnect(self) -> None:
        publisher, self._publisher = self._publisher, None
        commands, self._commands = self._commands, None
        if commands is not None:
            await _ended(commands.stop())
        if publisher is not None:
            await _ended(publisher.stop())


class HttpAdmissions:
    """Through the API, with a project's key or, for many projects, an admin key. `key_id` is then always that key's.

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
        self._url = url.rstrip("/")
        self._key = key
        self._timeout_seconds = timeout_seconds
        self._attempts_max = attempts_max
        self._connections_max = connections_max
        self._prices = _FetchedPrices(url, prices_seconds)
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
        """See Admissions."""
        body = _data(operation, environment, job_id or (id if hold else ""), metadata, details)
        body |= {"project": project, "source": source, "id": id}
        if hold:
            body |= {"hold": True} | ({} if hold_seconds is None else {"hold_seconds": hold_seconds})
        return await self._post(
            "/v1/admissions", project, operation, body, idempotency_key or f"admission:{secrets.token_hex(12)}"
        )

    async def capture(self, project: str, hold_id: str, credits: int | None = None) -> Decision:
        """See Admissions."""
        body = {} if credits is None else {"credits": format_credits(credits)}
        return await self._post(f"/v1/holds/{hold_id}/capture", project, "", body)

    async def release(self, project: str, hold_id: str, reason: str = "") -> Decision:
        """See Admissions."""
        return await self._post(f"/v1/holds/{hold_id}/release", project, "", {"reason": reason})

    async def extend(self, project: str, hold_id: str, seconds: int) -> Decision:
        """See Admissions."""
        key = f"extend:{secrets.token_hex(12)}"
        return await self._post(f"/v1/holds/{hold_id}/extend", project, "", {"seconds": seconds}, key)

    async def prices(self) -> PriceBook:
        """See Admissions."""
        return await self._prices.get()

    async def _post(
        self, path: str, project: str, operation: str, body: dict[str, Any], idempotency_key: str = ""
    ) -> Decision:
        assert self._client is not None, "use `async with`"
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        params = {} if path == "/v1/admissions" else {"project": project}
        is_unsent = True
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for attempt in range(self._attempts_max):
                    if attempt:
                        await asyncio.sleep(_RETRY_SECONDS * 2**attempt)
                    try:
                        response = await self._client.post(self._url + path, json=body, params=params, headers=headers)
                    except httpx.TransportError as error:
                        is_unsent = is_unsent and isinstance(error, httpx.ConnectError)
                        why = f"{type(error).__name__} {error}".strip()
                        continue
                    if response.status_code < 500:
                        return _decision_of(response, project, operation)
                    is_unsent, why = False, f"the API answered {response.status_code}"
        except TimeoutError:
            raise MeterlineAway(f"No decision within {self._timeout_seconds:g} seconds") from None
        raise MeterlineAway(f"No decision in {self._attempts_max} tries: {why}", is_unsent=is_unsent)


class _FetchedPrices:
    """The price book that the API says is in force, fetched again now and then."""

    def __init__(self, url: str, seconds: float) -> None:
        self._client = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=5.0)
        self._seconds = seconds
        self._fetching = asyncio.Lock()
        self._book: PriceBook | None = None
        self._fetched_at = 0.0

    async def get(self) -> PriceBook:
        async with self._fetching:
            if self._book is None or time.monotonic() - self._fetched_at >= self._seconds:
                try:
                    response = (await self._client.get("/v1/prices")).raise_for_status()
                    self._book = _book_of(response.json())
                except (httpx.HTTPError, ValueError, KeyError, TypeError, Rejection) as error:
                    raise MeterlineAway(f"The prices could not be fetched: {error}") from error
                self._fetched_at = time.monotonic()
            return self._book

    async def close(self) -> None:
        await self._client.aclose()


class _AnyOperation:
    """The owner knows which operations have a price; what has none it refuses."""

    def __contains__(self, operation: object) -> bool:
        return True


_ANY_OPERATION = _AnyOperation()


def _data(
    operation: str, environment: str, job_id: str, metadata: MetadataValues | None, details: Details
) -> dict[str, Any]:
    fields: dict[str, Any] = {"operation": operation, "environment": environment, "job_id": job_id}
    if metadata:
        fields["metadata"] = metadata
    return fields | {name: value for name, value in details.items() if value is not None}


def _invalid(project: str, operation: str, rejection: Rejection) -> Decision:
    field = (rejection.field or "").removeprefix("data.")
    detail = rejection.detail.replace("`data.", "`")
    return Decision(rejection.status, rejection.code, detail, project, operation, 0, 0, "", -1, field=field)


def _decision_of(response: httpx.Response, project: str, operation: str) -> Decision:
    """What an answer below 500 says. Raises MeterlineAway where it is none of the API's, or about the gateway's key."""
    try:
        body = dict(response.json())
        code = "" if response.is_success else body["code"]
        kind = CODES[code] if code else None
    except (ValueError, KeyError, TypeError):
        raise MeterlineAway(f"The answer {response.status_code} is not Meterline's") from None
    if code in _OWN_FAULTS:
        raise MeterlineAway(f"The gateway's key: {body.get('detail')}")
    expires_at = body.get("hold_expires_at")
    return Decision(
        response.status_code,
        code,
        body.get("detail", "").removesuffix(f" {kind.remedy}").rstrip(".") if kind else "",
        project,
        body.get("operation", operation),
        parse_credits(body.get("credits", "0"), "credits"),
        parse_credits(body.get("available", "0"), "available"),
        body.get("entry_id", ""),
        body.get("offset", -1),
        body.get("hold_id") or "",
        round(datetime.fromisoformat(expires_at).timestamp() * 1000) if expires_at else 0,
        body.get("already_decided", False),
        body.get("shadow") or "",
        _rate_of(response),
        body.get("field") or "",
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
        _now_ms() + int(retry_after) * 1000 if retry_after else 0,
    )


def _book_of(price_list: dict[str, Any]) -> PriceBook:
    prices = price_list["prices"]
    return PriceBook(
        version=price_list["version"],
        effective_at_ms=0,
        rates={each["operation"]: parse_credits(each["credits"], "prices") for each in prices},
        plan_required={each["operation"]: each["plan_required"] for each in prices if each["plan_required"]},
    )


async def _ended(stopping: Coroutine[Any, Any, None]) -> None:
    """Stop what may be broken already."""
    with suppress(Exception):
        await asyncio.wait_for(stopping, 5.0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
