"""Admissions by Kafka: KafkaAdmissions sends commands straight to the intake topic, with no HTTP between."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, Unpack

from aiokafka.errors import KafkaError

from schemas.commands import HOLD_SECONDS_DEFAULT, Admit, AnyCommand, CaptureHold, ExtendHold, ReleaseHold
from schemas.events import Environment
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.problems import Rejection
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
from streams.core.acceptance import Origin, to_usage
from streams.kafka.clock import now_ms
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Reach

log = logging.getLogger(__name__)

_RECONNECT_SECONDS = 0.5
_CONNECT_SECONDS_MAX = 10.0


class KafkaAdmissions:
    """KafkaAdmissions asks the owner, the worker that decides for the project, through Kafka. Callers that ask at once
    share records, and a single caller never waits for others.

    Entering the block connects. Where that fails, or a connection is lost for good, KafkaAdmissions goes on trying, and
    callers meanwhile get MeterlineAway. `timeout_seconds` is how long a decision may take, by default the settings'
    time for replies.

    Decisions need no prices from here, since the owner knows all price books. `prices` asks the API at `api_url` for
    the book in force. Without `api_url`, `prices` gives the first price book, which is wrong once another one was
    announced.
    """

    def __init__(
        self,
        settings: Reach,
        *,
        timeout_seconds: float | None = None,
        api_url: str = "",
        prices_seconds: float = PRICES_SECONDS_DEFAULT,
    ) -> None:
        self._timeout_seconds = settings.reply_timeout_seconds if timeout_seconds is None else timeout_seconds
        check("timeout_seconds", self._timeout_seconds, SomeSeconds)
        check("prices_seconds", prices_seconds, Seconds)
        if api_url:
            check("api_url", api_url, Url)
        self._settings = settings
        self._prices = FetchedPrices(api_url, prices_seconds) if api_url else None
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
        """Decide one request. See `Admissions.admit`."""
        fields = usage_data(operation, environment, job_id or (id if hold else ""), metadata, details)
        event = checked_admission(project, operation, id, source, hold, hold_seconds, idempotency_key, key_id, fields)
        usage = to_usage(event, now_ms(), _ANY_OPERATION, Origin(key_id=key_id))
        seconds = (HOLD_SECONDS_DEFAULT if hold_seconds is None else hold_seconds) if hold else 0
        return await self._decide(
            usage.operation,
            lambda addressing: Admit(project=project, usage=usage, hold_seconds=seconds, **addressing),
            idempotency_key or f"admission:{secrets.token_hex(12)}",
            key_id,
            source=source,
            id=id,
        )

    async def capture(self, project: str, hold_id: str, credits: Credits | None = None) -> Decision:
        """Charge a hold. See `Admissions.capture`."""
        check_hold(project, hold_id)
        amount = -1 if credits is None else microcredits_of(credits, "credits")
        return await self._decide(
            "",
            lambda addressing: CaptureHold(
                project=project, hold_id=hold_id, environment="", amount=amount, **addressing
            ),
            f"capture::{hold_id}:{amount}",
            hold_id=hold_id,
        )

    async def release(self, project: str, hold_id: str, reason: str = "") -> Decision:
        """Give a hold's credits back. See `Admissions.release`."""
        check_hold(project, hold_id)
        check("reason", reason, Reason)
        return await self._decide(
            "",
            lambda addressing: ReleaseHold(
                project=project, hold_id=hold_id, environment="", reason=reason, **addressing
            ),
            f"release::{hold_id}:{reason}",
            hold_id=hold_id,
        )

    async def extend(self, project: str, hold_id: str, seconds: int) -> Decision:
        """Let a hold expire later, or sooner. See `Admissions.extend`."""
        check_hold(project, hold_id)
        check("seconds", seconds, HoldSeconds)
        return await self._decide(
            "",
            lambda addressing: ExtendHold(
                project=project, hold_id=hold_id, environment="", seconds=seconds, **addressing
            ),
            f"extend:{secrets.token_hex(12)}",
            hold_id=hold_id,
        )

    async def prices(self) -> dict[str, Decimal]:
        """The credits of one unit of each operation. See `Admissions.prices`."""
        return prices_of(await self._price_book())

    async def _price_book(self) -> PriceBook:
        return FIRST_PRICE_BOOK if self._prices is None else await self._prices.get()

    async def _decide(
        self,
        operation: str,
        command_of: Callable[[dict[str, Any]], AnyCommand],
        idempotency_key: str,
        actor: str = "",
        **about: Unpack[About],
    ) -> Decision:
        """Send a command, again if need be, until there is a reply or the time is up; its key makes that one
        decision. `about` is what MeterlineAway names."""
        loop, was_sent = asyncio.get_running_loop(), False
        ends_at = loop.time() + self._timeout_seconds
        while True:
            commands = self._commands
            if commands is None:
                raise MeterlineAway("There is no connection to Kafka", is_unsent=not was_sent, **about)
            command = command_of(commands.addressing(idempotency_key, actor))
            was_sent = True
            try:
                reply, offset = await commands.decide(command, timeout_seconds=ends_at - loop.time())
                break
            except (KafkaError, RuntimeError) as error:
                log.warning("a command was not sent, it is tried again: %s", error)
                if loop.time() + RETRY_SECONDS >= ends_at:
                    raise MeterlineAway(f"No decision within {self._timeout_seconds:g} seconds", **about) from None
                await asyncio.sleep(RETRY_SECONDS)
            except Rejection:
                raise MeterlineAway(f"No decision within {self._timeout_seconds:g} seconds", **about) from None
        is_allowed = not reply.code
        return Decision(
            status=reply.status,
            code=reply.code,
            detail="" if is_allowed else reply.detail,
            project=command.project,
            operation=operation,
            credits=credits_of(reply.amount),
            available=credits_of(reply.available),
            entry_id=reply.entry_id,
            offset=offset,
            hold_id=reply.hold_id,
            hold_expires_at_ms=reply.hold_expires_at_ms,
            already_decided=reply.already_decided,
            shadow=reply.shadow,
            rate=reply.rate,
            field=reply.field,
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


class _AnyOperation:
    """A container that has every operation: the owner knows which ones have a price, and refuses the others."""

    def __contains__(self, operation: object) -> bool:
        return True


_ANY_OPERATION = _AnyOperation()


async def _ended(stopping: Coroutine[Any, Any, None]) -> None:
    """Await the stop of a part that may be broken already, for 5 seconds at most; errors are ignored."""
    with suppress(Exception):
        await asyncio.wait_for(stopping, 5.0)
