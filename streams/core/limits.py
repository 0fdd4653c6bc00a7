"""A project's limits: its plan's, its contract's over them, raises for a window of time, and limits on trial.

Source: rate-limits, "Asking for higher limits": a ceiling is raised for a launch without another plan.
"""

from __future__ import annotations

from schemas.accounts import Account, LimitRaise, Limits, Shadow
from schemas.commands import EndRaise, RaiseLimits, SetLimits
from schemas.facts import Reason
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.booking import Booking, available, format_credits, note
from streams.core.plans import PLANS
from streams.core.windows import advance, rested

RAISES_MAX = 20
RAISE_DAYS_MAX = 366
REQUESTS_MAX = 1_000_000
CEILING_MAX = 1_000_000_000 * 1_000_000
_NONE = Limits(0, 0, 0)
_NEVER_MS = 1 << 52


def limits_of(account: Account) -> Limits:
    """The limits that hold now: of the raises that have begun, the highest counts."""
    limits = contract_limits(account)
    for each in account.raises:
        if each.is_on:
            requests = max(limits.requests_per_minute, each.limits.requests_per_minute)
            burst = max(requests, limits.burst, each.limits.burst)
            limits = Limits(requests, burst, max(limits.cost_ceiling, each.limits.cost_ceiling))
    return limits


def contract_limits(account: Account) -> Limits:
    """The limits that hold while nothing is raised: the plan's, and the contract's over them."""
    limits = PLANS[account.plan].limits
    return limits if account.limits is None else over(limits, account.limits)


def over(limits: Limits, other: Limits) -> Limits:
    """The limits `other` over `limits`: a 0 in `other` leaves what is under it. The burst is at least the limit."""
    requests = other.requests_per_minute or limits.requests_per_minute
    return Limits(requests, max(requests, other.burst or limits.burst), other.cost_ceiling or limits.cost_ceiling)


def check_limits(limits: Limits) -> None:
    """Check that limits are in range. Raises Rejection `invalid_request`."""
    for field, value, most in (
        ("requests_per_minute", limits.requests_per_minute, REQUESTS_MAX),
        ("burst", limits.burst, 2 * REQUESTS_MAX),
        ("cost_ceiling", limits.cost_ceiling, CEILING_MAX),
    ):
        if not 0 <= value <= most:
            raise Rejection("invalid_request", f"`{field}` is out of range", field)


def before_change(account: Account, at_ms: int) -> None:
    """Advance an account's windows by its old limits. Call it before whatever may change the limits: the time until
    then counts by the old ones."""
    if account.window is not None:
        advance(account.window, limits_of(account), at_ms)
    if account.shadow is not None:
        advance(account.shadow.window, over(limits_of(account), account.shadow.limits), at_ms)


def set_limits(booking: Booking, command: SetLimits) -> Reply:
    """Set a project's own limits over the plan's, for good or on trial; all zeros remove them. Raises Rejection."""
    account = booking.account
    check_limits(command.limits)
    before_change(account, booking.at_ms)
    limits = None if command.limits == _NONE else command.limits
    if command.is_shadow:
        account.shadow = None if limits is None else Shadow(limits, rested(booking.at_ms))
    else:
        account.limits = limits
    fact_id = _state(booking, "shadow" if command.is_shadow else "set", command.limits, reason=command.reason)
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def raise_limits(booking: Booking, command: RaiseLimits) -> Reply:
    """Plan a raise of limits, or begin one at once. Raises Rejection."""
    account = booking.account
    check_limits(command.limits)
    if command.limits == _NONE:
        raise Rejection("invalid_request", "A raise says which limit is raised", "requests_per_minute")
    starts_at_ms = max(command.starts_at_ms, booking.at_ms)
    if command.ends_at_ms <= starts_at_ms:
        raise Rejection("invalid_request", "A raise ends after it begins, and not in the past", "ends_at")
    if command.ends_at_ms - booking.at_ms > RAISE_DAYS_MAX * DAY_MS:
        raise Rejection("invalid_request", f"A raise ends within {RAISE_DAYS_MAX} days", "ends_at")
    if len(account.raises) >= RAISES_MAX:
        raise Rejection("too_many_raises", f"Project {account.project!r} has {RAISES_MAX} raises", "ends_at")
    fact_id = _state(
        booking,
        "raise_planned",
        command.limits,
        reason=command.reason,
        starts_at_ms=starts_at_ms,
        ends_at_ms=command.ends_at_ms,
    )
    planned = LimitRaise(fact_id, command.limits, starts_at_ms, command.ends_at_ms)
    account.raises.append(planned)
    if starts_at_ms <= booking.at_ms:
        _begin(booking, planned)
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def end_raise(booking: Booking, command: EndRaise) -> Reply:
    """End a raise of limits now. Raises Rejection `unknown_raise`."""
    account = booking.account
    for each in account.raises:
        if each.id == command.raise_id:
            return Reply(200, "", "", 0, available(account, "production"), _end(booking, each, booking.at_ms))
    raise Rejection("unknown_raise", f"There is no raise {command.raise_id[:80]!r}: it has ended, or never was")


def raises_due_at_ms(account: Account) -> int:
    """The time at which a raise begins or ends next; there must be a raise."""
    return min(each.ends_at_ms if each.is_on else each.starts_at_ms for each in account.raises)


def limits_change_at_ms(account: Account) -> int:
    """The time at which the limits of an account change by themselves next, or one at which they might."""
    change_ms = account.renews_at_ms if account.next_plan else _NEVER_MS
    return min(change_ms, raises_due_at_ms(account)) if account.raises else change_ms


def turn_raises(booking: Booking, due_at_ms: int) -> None:
    """Begin and end the raises that are due."""
    for each in list(booking.account.raises):
        if each.is_on and each.ends_at_ms <= due_at_ms:
            _end(booking, each, each.ends_at_ms)
        elif not each.is_on and each.starts_at_ms <= due_at_ms:
            _begin(booking, each)


def _begin(booking: Booking, planned: LimitRaise) -> None:
    before_change(booking.account, planned.starts_at_ms)
    planned.is_on = True
    _state(booking, "raise_begun", planned.limits, raise_id=planned.id, occurred_at_ms=planned.starts_at_ms)


def _end(booking: Booking, ended: LimitRaise, at_ms: int) -> str:
    before_change(booking.account, at_ms)
    booking.account.raises.remove(ended)
    return _state(booking, "raise_ended", ended.limits, raise_id=ended.id, occurred_at_ms=at_ms)


def _state(booking: Booking, what: Reason, limits: Limits, *, occurred_at_ms: int | None = None, **said: object) -> str:
    return booking.state(
        "limits",
        reason=what,
        occurred_at_ms=occurred_at_ms,
        metadata=note(
            requests_per_minute=limits.requests_per_minute or None,
            burst=limits.burst or None,
            cost_ceiling=format_credits(limits.cost_ceiling) if limits.cost_ceiling else None,
            **said,
        ),
    )
