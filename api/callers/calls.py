"""Calls: requests to our own API, who makes them, and how they are counted. A Call travels in the ASGI scope.

Each call with a project's key counts as a request of that project; its owner decides it, as it does an admission. An
admin key's calls are the operator's and are not counted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError

from api.answers import REPLY_CHARS_MAX, KeptAnswers
from api.callers.keys import Caller
from api.errors import Refused
from api.refusals import COPY_LAG_MS_MAX, full_for, full_window, may_be_full
from api.services import Services
from schemas.accounts import Account
from schemas.commands import CountRequest
from schemas.events import Usage
from schemas.problems import Rejection
from schemas.replies import RateState
from streams.core.ledger import settled
from streams.core.limits import limits_of
from streams.core.windows import advance, rate_state, rested
from streams.kafka.clock import now_ms
from streams.limit_headers import retry_after_seconds

log = logging.getLogger(__name__)

_SCOPE_KEY = "meterline.call"
_CODE = re.compile(r'"code":"([a-z_]{1,64})"')
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class Call:
    """A call is one request to our own API.

    `caller` makes it; where nobody valid does, `refusal` says why. `rate` is the state of the window that it counts in:
    the project's, or, without a valid caller, the address'. `account` is this process's copy of the account of a
    project's key; `full` is the state of its window where that is full for certain, and the call to be refused at the
    edge. `is_counted` says that it needs no counting in a project's window any more. `offset` is the intake record that
    counted it, once the owner has said so. `address` is the client's; `entry_ids` name what was decided, for whoever
    asks by the request's id.
    """

    caller: Caller | None = None
    refusal: Rejection | None = None
    rate: RateState | None = None
    is_counted: bool = False
    offset: int | None = None
    account: Account | None = None
    full: RateState | None = None
    address: str = ""
    entry_ids: list[str] = field(default_factory=list)

    @property
    def project(self) -> str | None:
        """The project whose key the call came with; None for an admin key, or none."""
        return self.caller.project if self.caller is not None else None


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def begin_call(scope: MutableMapping[str, Any]) -> Call:
    """Put a new call into the scope of a request, for all that handles the request."""
    call = scope[_SCOPE_KEY] = Call()
    _current.set(call)
    return call


def begin_inner_call(scope: MutableMapping[str, Any], caller: Caller) -> Call:
    """Put a call into the scope of a request that this process makes to itself for a caller, whom it has found and
    whose request it has counted."""
    call = scope[_SCOPE_KEY] = Call(caller=caller, is_counted=True)
    _current.set(call)
    return call


def is_inner(scope: MutableMapping[str, Any]) -> bool:
    """Whether this process makes a request to itself: nothing that comes over a connection can be one."""
    return _SCOPE_KEY in scope


def note_entry(entry_id: str) -> None:
    """Note the first fact of a decision in the call that is being handled: its request's id leads there."""
    if entry_id and (call := _current.get()) is not None:
        call.entry_ids.append(entry_id)


def call_of(scope: MutableMapping[str, Any]) -> Call:
    """The call of a request, from its scope."""
    call: Call = scope[_SCOPE_KEY]
    return call


def operation_of(scope: MutableMapping[str, Any]) -> str:
    """The name of a call, as in "GET /v1/holds/{hold_id}": method and route, with nothing that the caller could make
    up."""
    method = scope["method"] if scope["method"] in _METHODS else "*"
    return f"{method} {getattr(scope.get('route'), 'path_format', '*')}"


async def count(services: Services, call: Call, operation: str) -> None:
    """Count a call in its project's window, unless it was counted already. Raises Refused `rate_limited` where the
    window is full.

    Reads go on while the owner is away: after `count_wait_seconds` without a reply the call goes on. The owner counts
    it once it is back, at the time at which it came.
    """
    caller = call.caller
    if caller is None or caller.project is None or call.is_counted:
        return
    refuse_at_edge(services, call, operation)
    call.is_counted = True
    command = CountRequest(
        project=caller.project,
        operation=operation,
        environment=caller.environment,
        **services.commands.addressing(actor=caller.key_id),
    )
    try:
        seconds = services.settings.count_wait_seconds
        reply, call.offset = await services.commands.decide(command, timeout_seconds=seconds)
    except (Rejection, KafkaError) as error:
        log.warning("a call of project %s goes on uncounted: %r", caller.project, error)
        return
    call.rate = reply.rate
    if reply.code == "rate_limited":
        note_entry(reply.entry_id)
        raise Refused(reply.code, reply.detail, {"project": caller.project, "entry_id": reply.entry_id})


def find_full(services: Services, call: Call, account: Account | None) -> None:
    """Note in a call whether the window of this account, a copy of its own, is full for certain. Where that can't be
    told, it is for the owner to say."""
    call.account, call.full = account, None
    if account is None or not may_be_full(account):
        return
    if not 0 <= services.accounts.lag_ms(account.project) <= COPY_LAG_MS_MAX:
        return
    owner_ms = services.commands.latest_ms(account.project)
    call.full = None if owner_ms is None else full_window(account, services.accounts.prices(), owner_ms)


def refuse_at_edge(
    services: Services, call: Call, operation: str, usage: Usage | None = None, *, is_job: bool = False
) -> None:
    """Raise Refused `rate_limited` where the window is full for certain, and count that.

    `usage` is what an admission asks for, `is_job` says that it asks for a hold; other calls and repeats cost nothing.
    Nothing is decided then, so the same request may come again under its Idempotency-Key.
    """
    caller, account, rate = call.caller, call.account, call.full
    if rate is None or account is None or caller is None:
        return
    if usage is not None:
        rate = full_for(account, services.accounts.prices(), rate, usage, is_job)
    call.is_counted, call.rate = True, rate
    # By its method alone, as one whose route is not looked up yet.
    method, _, _ = operation.partition(" ")
    services.refusals.add(account.project, caller.key_id, caller.environment, f"{method} *")
    seconds = retry_after_seconds(rate)
    detail = f"Rate limit exceeded for project {account.project}. Retry after {seconds} seconds"
    raise Refused("rate_limited", detail, {"project": account.project})


def known_rate(services: Services, project: str) -> RateState | None:
    """The state of a project's window, by this process's copy of its account; None where there is no such account."""
    account = services.accounts.get(project)
    if account is None:
        return None
    now = now_ms()
    settled(account, now, services.accounts.prices())
    window, limits = account.window or rested(now), limits_of(account)
    advance(window, limits, now)
    return rate_state(window, limits, now)


def keep_refusal(answers: KeptAnswers, scope: MutableMapping[str, Any], address: str, status: int, body: bytes) -> None:
    """Keep the answer to a request that was refused beside the app, which may have found out who calls."""
    keep_answer(answers, scope, scope.get(_SCOPE_KEY) or Call(address=address), status, body)


def keep_answer(answers: KeptAnswers, scope: MutableMapping[str, Any], call: Call, status: int, body: bytes) -> None:
    """Keep the answer to a call; `body` is a refusal's."""
    who = call.caller
    reply = body[: 4 * REPLY_CHARS_MAX].decode(errors="replace") if status >= 400 else ""
    found = _CODE.search(reply)
    answers.add(
        str(scope.get("meterline.request_id", "")),
        operation_of(scope),
        status,
        caller=who.name if who is not None else call.address,
        project=(who.project if who is not None else None) or "",
        environment=who.environment if who is not None and who.project is not None else "",
        key_id=who.key_id if who is not None else "",
        code=found[1] if found else "",
        reply=reply,
        entry_ids=call.entry_ids,
    )
