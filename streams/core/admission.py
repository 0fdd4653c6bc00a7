"""Admission: may this project do this now? One step decides: window, plan gate, credits, cost ceiling, hold.

The first of these that says no is the answer; nothing is charged then:

1. `rate_limited` (429): the request window is full. It comes first, since it costs least, and gives a client that
   floods no other answer. A request that the window stops is not counted.
2. `project_closed`, `plan_required`, `unknown_operation`: waiting would not help.
3. `out_of_credits` (402), and `too_many_holds` (409): waiting for the ceiling would not help either, so they come
   before it.
4. `over_cost_ceiling` (403): the request costs more than the ceiling by itself, so no wait would ever be enough.
5. `rate_limited` (429) by the cost ceiling: waiting alone is enough.

A request whose (source, id) or job was decided before, or is held, gets the answer of the first time, and nothing is
charged; with another content it gets 409 `event_id_reused` or `job_id_reused`.

A request that the window lets through is counted, whatever comes of it. The credits it is charged, or holds, count
against the ceiling for 60 seconds. A repeat under an Idempotency-Key is a request too; it costs nothing
(`count_repeat`). A 429 says when the same request would pass window and ceiling (`streams.core.waits`). Usage events
say what has already happened: they are neither counted nor limited. A bulk call is one request with a `quantity`; a job
is one request when it is queued.
"""

from __future__ import annotations

import msgspec

from schemas.accounts import Hold, Limits
from schemas.commands import HOLD_SECONDS_MAX, Admit, CountRefused, CountRequest
from schemas.events import Usage
from schemas.facts import entry_id
from schemas.problems import CODES, Rejection
from schemas.replies import RateState, Reply
from streams.core import holds
from streams.core.booking import Booking, available, note
from streams.core.ledger import charge, duplicate, hold
from streams.core.limits import limits_of, over
from streams.core.marks import came_of, mark_of, mark_of_hold
from streams.core.waits import passes_at_ms
from streams.core.windows import (
    ABOVE_CEILING,
    add_cost,
    cost_left,
    count_request,
    count_requests,
    rate_state,
    rested,
    try_request,
)


def admit(booking: Booking, command: Admit, already_decided: bool) -> Reply:
    """Decide a request, and charge it or hold its credits. Raises Rejection where the hold is too long."""
    if not 0 <= command.hold_seconds <= HOLD_SECONDS_MAX:
        raise Rejection("invalid_request", f"A hold lasts from 1 to {HOLD_SECONDS_MAX} seconds", "hold_seconds")
    usage, account = command.usage, booking.account
    limits, rate = _count(booking)
    is_job = command.hold_seconds > 0
    if rate.retry_at_ms:
        return _stopped(booking, usage, rate, None if already_decided else usage, is_job)
    assert account.window is not None
    placed = holds.open_for(account, usage, is_job)
    if placed is not None or already_decided:
        return _again(booking, command, placed, rate)
    first_index, first = booking.next_index, len(booking.facts)
    amount, left = 0, cost_left(account.window, limits)
    if is_job:
        code, detail, placed = hold(booking, usage, command.hold_seconds, left, limits.cost_ceiling)
        if placed is not None:
            amount = sum(part.amount for part in placed.parts)
    else:
        code, detail = charge(booking, usage, left, limits.cost_ceiling)
        if not code:
            amount = -sum(fact.amount for fact in booking.facts[first:])
    if code == "rate_limited":
        retry_at_ms = passes_at_ms(account, booking.prices, booking.at_ms, usage, is_job=is_job)
        rate = rate_state(account.window, limits, booking.at_ms, retry_at_ms)
        detail = f"{detail}. Retry after {_seconds(booking, retry_at_ms)} seconds"
    add_cost(account.window, booking.at_ms, amount)
    fact_id = entry_id(booking.partition, booking.offset, first_index)
    shadow = _try_limits(booking, usage, amount)
    return _reply(booking, usage, fact_id, code, detail, amount, placed, rate, shadow)


def count(booking: Booking, command: CountRequest) -> Reply:
    """Count a request that costs nothing and needs no plan."""
    _, rate = _count(booking)
    usage = _call(booking, command, 1)
    if rate.retry_at_ms:
        return _stopped(booking, usage, rate)
    fact_id = booking.state_usage("request", usage)
    return _reply(booking, usage, fact_id, rate=rate, shadow=_try_limits(booking, usage, 0))


def count_repeat(booking: Booking, command: Admit, kept: Reply) -> Reply:
    """Count a request that was decided before under its Idempotency-Key, and give the reply of then with the window of
    now. Where that is full, the repeat is stopped as any other request, and gets its reply later."""
    _, rate = _count(booking)
    usage = _call(booking, command, 1, note(repeat_of=kept.entry_id))
    if rate.retry_at_ms:
        return _stopped(booking, usage, rate)
    booking.state_usage("request", usage)
    _try_limits(booking, usage, 0)
    return msgspec.structs.replace(kept, rate=rate)


def count_refused(booking: Booking, command: CountRefused) -> Reply:
    """State how many requests an API process refused by itself, in one fact; none of them is counted in the window.

    Limits on trial are tried on all of them, as of now; they refuse some, or all, in one fact too. Raises Rejection
    where there are none.
    """
    if command.count < 1:
        raise Rejection("invalid_request", "At least one request was refused", "count")
    said = note(first_at_ms=command.first_at_ms, last_at_ms=command.last_at_ms)
    fact_id = booking.state_usage("refusal", _call(booking, command, command.count, said), reason="limited_at_edge")
    account, shadow = booking.account, ""
    if account.shadow is not None:
        limits = over(limits_of(account), account.shadow.limits)
        passed = count_requests(account.shadow.window, limits, booking.at_ms, command.count)
        if passed < command.count:
            shadow = "rate_limited"
            booking.state_usage("shadow", _call(booking, command, command.count - passed), reason=shadow)
    return Reply(200, "", "", 0, available(account, command.environment), fact_id, shadow=shadow)


def _again(booking: Booking, command: Admit, placed: Hold | None, rate: RateState) -> Reply:
    """Answer a request whose event or job was decided before, or is held (`placed`): as the first time where its
    content is the same, else with a refusal. Nothing is charged either way."""
    usage = command.usage
    if field := _reused(booking, command):
        code = "job_id_reused" if field == "job_id" else "event_id_reused"
        fact_id = duplicate(booking, usage, code)
        name = usage.job_id if field == "job_id" else usage.event_id
        detail = (
            f"`{field}` {name!r} was used before, for another operation, quantity, details or environment; nothing is "
            "allowed or charged for it now"
        )
        shadow = _try_limits(booking, usage, 0)
        return _reply(booking, usage, fact_id, code, detail, rate=rate, shadow=shadow, field=field)
    event = booking.made[0] if booking.made else None
    code = (came_of(event, usage) or "") if event is not None else ""
    detail = "This event was decided before; nothing was charged for it now"
    if code:
        placed = None
        detail = f"The usage event {usage.event_id!r} was refused before, and that is final: ask under another id"
    fact_id = duplicate(booking, usage, "held" if placed is not None else "")
    return _reply(
        booking,
        usage,
        fact_id,
        code,
        detail,
        placed=placed,
        rate=rate,
        shadow=_try_limits(booking, usage, 0),
        already_decided=True,
    )


def _reused(booking: Booking, command: Admit) -> str:
    """The field whose id was used before for another content: "id", "job_id", or "" where none was."""
    usage = command.usage
    for field, claim in zip(("id", "job_id"), booking.made, strict=False):
        if claim is not None and came_of(claim, usage) is None:
            return field
    mine = mark_of(usage)
    for held in booking.account.holds:
        if mark_of_hold(held) != mine:
            if holds.is_of(held, usage):
                return "id"
            if command.hold_seconds and holds.is_of_job(held, usage):
                return "job_id"
    return ""


def _call(booking: Booking, command: Admit | CountRequest | CountRefused, quantity: int, metadata: str = "") -> Usage:
    """A call to our own API, or several alike, as facts show it: it names no event, and occurs when it is booked."""
    named = command.usage if isinstance(command, Admit) else command
    return Usage(
        project=booking.account.project,
        dedup_hash=b"",
        source="",
        event_id="",
        operation=named.operation,
        quantity=quantity,
        surcharge="",
        environment=named.environment,
        occurred_at_ms=booking.at_ms,
        job_id="",
        key_id=command.actor,
        metadata=metadata,
    )


def _count(booking: Booking) -> tuple[Limits, RateState]:
    account = booking.account
    if account.window is None:
        account.window = rested(booking.at_ms)
    limits = limits_of(account)
    return limits, count_request(account.window, limits, booking.at_ms)


def _stopped(
    booking: Booking, usage: Usage, rate: RateState, asked: Usage | None = None, is_job: bool = False
) -> Reply:
    """Refuse a request that the window stops. `asked` is the use that the cost ceiling counts for too, if any."""
    retry_at_ms = passes_at_ms(booking.account, booking.prices, booking.at_ms, asked, is_job=is_job)
    rate = msgspec.structs.replace(rate, retry_at_ms=retry_at_ms)
    seconds = _seconds(booking, retry_at_ms)
    detail = f"Rate limit exceeded for project {booking.account.project}. Retry after {seconds} seconds"
    fact_id = booking.state_usage("refusal", usage, reason="rate_limited")
    return _reply(booking, usage, fact_id, "rate_limited", detail, rate=rate, shadow=_try_limits(booking, usage, 0))


def _try_limits(booking: Booking, usage: Usage, amount: int) -> str:
    """Try a request that cost `amount` on the limits on trial. Gives the code they would refuse it with, or "".

    That refusal is stated as a fact; nothing is refused by it.
    """
    account, at_ms = booking.account, booking.at_ms
    if account.shadow is None:
        return ""
    window, limits = account.shadow.window, over(limits_of(account), account.shadow.limits)
    stopped = try_request(window, limits, at_ms, amount)
    if not stopped:
        return ""
    code = "over_cost_ceiling" if stopped == ABOVE_CEILING else "rate_limited"
    booking.state_usage("shadow", usage, reason=code)
    return code


def _seconds(booking: Booking, at_ms: int) -> int:
    return -(-(at_ms - booking.at_ms) // 1000)


def _reply(
    booking: Booking,
    usage: Usage,
    fact_id: str,
    code: str = "",
    detail: str = "",
    amount: int = 0,
    placed: Hold | None = None,
    rate: RateState | None = None,
    shadow: str = "",
    *,
    already_decided: bool = False,
    field: str = "",
) -> Reply:
    return Reply(
        status=CODES[code].status if code else 200,
        code=code,
        detail=detail,
        amount=amount,
        available=available(booking.account, usage.environment),
        entry_id=fact_id,
        hold_id=placed.id if placed is not None else "",
        hold_expires_at_ms=placed.expires_at_ms if placed is not None else 0,
        field=field,
        already_decided=already_decided,
        rate=rate,
        shadow=shadow,
    )
