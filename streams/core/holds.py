"""Holds: credits kept for a job from the moment it is queued until it is captured, released, or the hold expires.

Held credits stay in their grants and can't be spent otherwise. A release gives them back to the same grants; where a
grant has expired meanwhile, its credits expire with it. Source: pricing, "What if I run out mid-job?" and "Do retries
cost extra?".
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.accounts import Account, HeldPart, Hold, Line
from schemas.commands import HOLD_SECONDS_MAX, CaptureHold, ExtendHold, ReleaseHold
from schemas.events import Usage
from schemas.facts import Kind, Reason, entry_id
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.acceptance import dedup_hash
from streams.core.booking import Booking, available, drop_spent, format_credits, note
from streams.core.items import bill_due
from streams.core.marks import amount_of, mark_of_amount, mark_of_hold, surcharge_of
from streams.core.recharge import recharge_if_low

HOLDS_MAX = 1_000
# Limits on all open holds of an account together: the facts of their expiry must fit into one event's facts, and the
# account into a record. A part is a hold's share of one grant.
PARTS_MAX = 1_500
METADATA_CHARS_MAX = 500_000


def place(booking: Booking, usage: Usage, lines: list[Line], price_version: str, seconds: int) -> Hold:
    """Place a hold on what these lines cost, for `seconds`. The credits must be available."""
    account = booking.account
    total = sum(line.rate * line.quantity for line in lines)
    hold = Hold(
        id=entry_id(booking.partition, booking.offset, booking.next_index),
        environment=usage.environment,
        job_id=usage.job_id,
        source=usage.source,
        event_id=usage.event_id,
        key_id=usage.key_id,
        metadata=usage.metadata,
        occurred_at_ms=usage.occurred_at_ms,
        price_version=price_version,
        lines=lines,
        parts=[],
        held_at_ms=booking.at_ms,
        expires_at_ms=booking.at_ms + seconds * 1000,
    )
    left, quantity = total, usage.quantity
    for grant in account.grants:
        free = grant.remaining - grant.held
        if grant.environment == usage.environment and free and left:
            kept = min(left, free)
            left -= kept
            grant.held += kept
            hold.parts.append(HeldPart(grant.id, kept))
            _state(booking, "hold", hold, quantity=quantity, grant_id=grant.id, held=kept)
            quantity = 0
    assert not left, "a hold was not covered although it was checked to be"
    if not total:
        _state(booking, "hold", hold, quantity=quantity)
    account.holds.append(hold)
    return hold


def has_room(account: Account, usage: Usage) -> bool:
    """Whether the account can keep one more hold open."""
    open_holds = account.holds
    return (
        len(open_holds) < HOLDS_MAX
        and sum(len(hold.parts) or 1 for hold in open_holds) < PARTS_MAX
        and sum(len(hold.metadata) for hold in open_holds) + len(usage.metadata) <= METADATA_CHARS_MAX
    )


def open_for(account: Account, usage: Usage, by_job: bool) -> Hold | None:
    """The open hold of the same event, or, with `by_job`, of the same job; None where there is none."""
    return next((hold for hold in account.holds if is_of(hold, usage) or (by_job and is_of_job(hold, usage))), None)


def is_of(hold: Hold, usage: Usage) -> bool:
    """Whether a hold is that of the same event."""
    return hold.source == usage.source and hold.event_id == usage.event_id


def is_of_job(hold: Hold, usage: Usage) -> bool:
    """Whether a hold is that of the same job."""
    return bool(usage.job_id) and (hold.job_id, hold.environment) == (usage.job_id, usage.environment)


def environments_of(command: CaptureHold) -> Sequence[str]:
    """The environments that the hold of a capture may be in."""
    return (command.environment,) if command.environment else ("production", "preview")


def hold_hash(project: str, environment: str, hold_id: str) -> bytes:
    """16 bytes that identify a hold that was captured, beside the project's events."""
    return dedup_hash(project, f"meterline:hold:{environment}", hold_id)


def job_hash(project: str, environment: str, job_id: str) -> bytes:
    """16 bytes that identify a job within its project, beside its events."""
    return dedup_hash(project, f"meterline:job:{environment}", job_id)


def capture(booking: Booking, command: CaptureHold) -> Reply:
    """Capture a hold: charge its lines in order, as far as the amount goes, and release the rest. From now on the job
    and its event are decided. One that its event, or another capture, has captured stays as it is, and the reply says
    what that charged. Raises Rejection."""
    account = booking.account
    for environment, captured in zip(environments_of(command), booking.made, strict=False):
        if captured is not None:
            detail = "This hold was captured before, by its usage event or another capture; nothing was charged now"
            left = available(account, environment)
            return Reply(200, "", detail, amount_of(captured), left, "", already_decided=True)
    hold = _open_hold(account, command.hold_id, command.environment)
    total = sum(part.amount for part in hold.parts)
    amount = total if command.amount < 0 else command.amount
    if amount > total:
        raise Rejection(
            "invalid_request", f"The hold has {format_credits(total)} credits; capture as much or less", "credits"
        )
    first_index = booking.next_index
    left = amount
    for line in hold.lines:
        cost = min(left, line.rate * line.quantity)
        left -= cost
        if cost:
            _capture_line(booking, hold, line, cost)
        elif not line.rate:
            _state(booking, "charge", hold, operation=line.operation, quantity=line.quantity, reason="captured")
    _give_back(booking, hold, "captured", booking.at_ms)
    return Reply(
        status=200,
        code="",
        detail="",
        amount=amount,
        available=available(account, hold.environment),
        entry_id=entry_id(booking.partition, booking.offset, first_index),
        claims=[
            dedup_hash(account.project, hold.source, hold.event_id) + mark_of_hold(hold),
            *(name + mark for name, mark in _claims(account, hold, amount)),
        ],
    )


def capture_quantity(booking: Booking, hold: Hold, quantity: int) -> list[tuple[bytes, bytes]]:
    """Capture so many units of each line of a hold, at most all, at its own prices, and release the rest. Gives the
    claims of its job and of the hold itself, with their marks."""
    first = len(booking.facts)
    for line in hold.lines:
        if line.rate:
            _capture_line(booking, hold, line, line.rate * quantity)
        else:
            _state(booking, "charge", hold, operation=line.operation, quantity=quantity, reason="captured")
    amount = -sum(fact.amount for fact in booking.facts[first:])
    _give_back(booking, hold, "captured", booking.at_ms)
    return _claims(booking.account, hold, amount)


def release(booking: Booking, command: ReleaseHold) -> Reply:
    """Release a hold: give all its credits back. Raises Rejection."""
    hold = _open_hold(booking.account, command.hold_id, command.environment)
    total = sum(part.amount for part in hold.parts)
    first_index = booking.next_index
    _give_back(booking, hold, "released", booking.at_ms, command.reason)
    return Reply(
        status=200,
        code="",
        detail="",
        amount=total,
        available=available(booking.account, hold.environment),
        entry_id=entry_id(booking.partition, booking.offset, first_index),
    )


def extend(booking: Booking, command: ExtendHold) -> Reply:
    """Let a hold expire later, or sooner, `seconds` from now. Raises Rejection."""
    hold = _open_hold(booking.account, command.hold_id, command.environment)
    if not 0 < command.seconds <= HOLD_SECONDS_MAX:
        raise Rejection("invalid_request", f"A hold lasts from 1 to {HOLD_SECONDS_MAX} seconds", "seconds")
    hold.expires_at_ms = booking.at_ms + command.seconds * 1000
    fact_id = _state(booking, "hold", hold, reason="extended", metadata=note(hold=hold.id, seconds=command.seconds))
    return Reply(200, "", "", 0, available(booking.account, hold.environment), fact_id)


def expire(booking: Booking, hold: Hold) -> None:
    """Expire a hold that nobody resolved in time: give all its credits back, as of the time it expired at."""
    _give_back(booking, hold, "expired", hold.expires_at_ms)


def _claims(account: Account, hold: Hold, amount: int) -> list[tuple[bytes, bytes]]:
    """The claims that the capture of a hold makes beside that of its event, with their marks."""
    project, environment = account.project, hold.environment
    claims = [(hold_hash(project, environment, hold.id), mark_of_amount(amount))]
    if hold.job_id:
        claims.append((job_hash(project, environment, hold.job_id), mark_of_hold(hold)))
    return claims


def _open_hold(account: Account, hold_id: str, environment: str) -> Hold:
    for hold in account.holds:
        if hold.id == hold_id and environment in ("", hold.environment):
            return hold
    raise Rejection(
        "unknown_hold", f"There is no open hold {hold_id[:80]!r}: captured, released, expired, or never placed"
    )


def _capture_line(booking: Booking, hold: Hold, line: Line, cost: int) -> None:
    grants = {grant.id: grant for grant in booking.account.grants}
    quantity = cost // line.rate
    for part in hold.parts:
        drawn = min(cost, part.amount)
        if not drawn:
            continue
        grant = grants[part.grant_id]
        grant.remaining -= drawn
        grant.held -= drawn
        part.amount -= drawn
        cost -= drawn
        _state(
            booking,
            "charge",
            hold,
            operation=line.operation,
            quantity=quantity,
            amount=-drawn,
            grant_id=grant.id,
            held=-drawn,
            reason="captured",
        )
        quantity = 0


def _give_back(booking: Booking, hold: Hold, reason: Reason, at_ms: int, why: str = "") -> None:
    account = booking.account
    account.holds.remove(hold)
    grants = {grant.id: grant for grant in account.grants}
    total = sum(part.amount for part in hold.parts)
    stated = False
    for part in hold.parts:
        if not part.amount:
            continue
        grant = grants[part.grant_id]
        grant.held -= part.amount
        whole = total if reason == "expired" and not stated else None
        _state_release(booking, hold, reason, at_ms, why, grant.id, -part.amount, whole)
        stated = True
        if grant.expires_at_ms and grant.expires_at_ms <= at_ms:
            grant.remaining -= part.amount
            booking.state(
                "expiry",
                environment=grant.environment,
                amount=-part.amount,
                grant_id=grant.id,
                reason=grant.kind,
                occurred_at_ms=at_ms,
            )
    if not stated and reason != "captured":
        _state_release(booking, hold, reason, at_ms, why, "", 0, 0 if reason == "expired" else None)
    drop_spent(account, at_ms)
    if account.items:
        bill_due(booking, at_ms)
    if reason == "captured":
        recharge_if_low(booking)


def _state_release(
    booking: Booking,
    hold: Hold,
    reason: Reason,
    at_ms: int,
    why: str,
    grant_id: str,
    held: int,
    whole: int | None = None,
) -> None:
    """State the release of held credits. The fact has no source and event, so it counts from its own time.

    See `EFFECTIVE_AT` in `streams.history.facts`. `whole` is all that the hold kept; only the first release of a hold
    that expired tells it, so that one notice follows from them.
    """
    booking.state(
        "release",
        environment=hold.environment,
        operation=hold.lines[0].operation,
        grant_id=grant_id,
        reason=reason,
        price_version=hold.price_version,
        job_id=hold.job_id,
        key_id=hold.key_id,
        occurred_at_ms=at_ms,
        metadata=note(hold=hold.id, why=why, held_microcredits=whole),
        held=held,
    )


def _state(
    booking: Booking,
    kind: Kind,
    hold: Hold,
    *,
    operation: str = "",
    quantity: int = 0,
    amount: int = 0,
    grant_id: str = "",
    held: int = 0,
    reason: Reason = "",
    metadata: str | None = None,
) -> str:
    return booking.state(
        kind,
        environment=hold.environment,
        operation=operation or hold.lines[0].operation,
        quantity=quantity,
        amount=amount,
        grant_id=grant_id,
        reason=reason,
        price_version=hold.price_version,
        source=hold.source,
        event_id=hold.event_id,
        job_id=hold.job_id,
        key_id=hold.key_id,
        occurred_at_ms=hold.occurred_at_ms,
        metadata=hold.metadata if metadata is None else metadata,
        held=held,
        surcharge=surcharge_of(hold) if kind == "hold" else "",
    )
