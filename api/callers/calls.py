"""One request to our own API: who makes it, and the window it counts in. It travels in the ASGI scope.

Each call with a project's key is a request of that project, decided by its owner as an admission is. An admin key's
calls are the operator's and are not counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError

from api.callers.keys import Caller
from api.errors import Refused
from api.services import Services
from schemas.commands import CountRequest
from schemas.problems import Rejection
from schemas.replies import RateState
from streams.core.booking import Booking
from streams.core.ledger import settle
from streams.core.limits import limits_of
from streams.core.windows import advance, rate_state, rested
from streams.kafka.clock import now_ms

log = logging.getLogger(__name__)

_SCOPE_KEY = "meterline.call"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class Call:
    """`caller` is who makes it, or `refusal` says why that is nobody. `rate` is how its window stands: the project's,
    or, where nobody makes it, the address'. `is_counted` once it needs no counting in a project's window any more;
    `offset` is then the intake record that it was counted by, where the owner has said so."""

    caller: Caller | None = None
    refusal: Rejection | None = None
    rate: RateState | None = None
    is_counted: bool = False
    offset: int | None = None

    @property
    def project(self) -> str | None:
        """The project whose key it comes with."""
        return self.caller.project if self.caller is not None else None


def begin_call(scope: MutableMapping[str, Any]) -> Call:
    """A new call, for all that handles this request."""
    call = scope[_SCOPE_KEY] = Call()
    return call


def call_of(scope: MutableMapping[str, Any]) -> Call:
    """The call that this request is."""
    call: Call = scope[_SCOPE_KEY]
    return call


def operation_of(scope: MutableMapping[str, Any]) -> str:
    """A call's name, as in "GET /v1/holds/{hold_id}"; nothing of it is the caller's to choose."""
    method = scope["method"] if scope["method"] in _METHODS else "*"
    return f"{method} {getattr(scope.get('route'), 'path', '*')}"


async def count(services: Services, call: Call, operation: str) -> None:
    """Count a call in its project's window, unless it was counted. Raises Refused `rate_limited` where that is full.

    Reads go on while the owner is away: after `count_wait_seconds` without a reply the call goes on, and is counted for
    the time it came once the owner is back.
    """
    caller = call.caller
    if caller is None or caller.project is None or call.is_counted:
        return
    call.is_counted = True
    command = CountRequest(
        project=caller.project,
        operation=operation,
        environment=caller.environment,
        **services.commands.addressing(actor=caller.key_id),
    )
    try:
        async with asyncio.timeout(services.settings.count_wait_seconds):
            reply, call.offset = await services.commands.decide(command)
    except (TimeoutError, Rejection, KafkaError) as error:
        log.warning("a call of project %s goes on uncounted: %r", caller.project, error)
        return
    call.rate = reply.rate
    if reply.code == "rate_limited":
        raise Refused(reply.code, reply.detail, {"project": caller.project, "entry_id": reply.entry_id})


def known_rate(services: Services, project: str) -> RateState | None:
    """How a project's window stands by this process's copy of its account."""
    account = services.accounts.get(project)
    if account is None:
        return None
    now = now_ms()
    settle(Booking(account, 0, 0, 0, now, [], services.accounts.prices()))
    window, limits = account.window or rested(now), limits_of(account)
    advance(window, limits, now)
    return rate_state(window, limits, now)
