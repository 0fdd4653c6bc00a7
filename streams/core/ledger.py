"""The ledger of one account: what time brings, what each use costs, and how a use is charged or held."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.accounts import Account, Hold, Line
from schemas.events import Usage
from schemas.facts import Fact, entry_id
from schemas.prices import PriceBook
from schemas.problems import Rejection
from streams.core import crossings, holds
from streams.core.booking import Booking, available, balance, drop_spent, format_credits
from streams.core.items import bill_month
from streams.core.limits import raises_due_at_ms, turn_raises
from streams.core.marks import Claim, came_of, mark_in_part, mark_of, surcharge_of
from streams.core.past import check_use
from streams.core.plans import renewal_after
from streams.core.price_list import Prices
from streams.core.projects import begin_month, move_to_plan
from streams.core.recharge import recharge_if_low
from streams.core.spending import look_at_spending, look_due_at_ms


def settle(booking: Booking) -> None:
    """Book all that time has brought an account: holds that expire, months that end, raises of limits that begin or
    end, grants that end, renewals; the earliest first.

    Each entry bears the time it was due at, so it does not matter what woke the account, or when. At the same instant
    the old month comes first: what it owes is paid from its own allowance, and from credits that end then.
    """
    account = booking.account
    is_anything_due = False
    while booking.at_ms >= (due_at_ms := _due_at_ms(account)):
        is_anything_due = True
        if expiring := [hold for hold in account.holds if hold.expires_at_ms <= due_at_ms]:
            for hold in expiring:
                holds.expire(booking, hold)
        elif account.month_ends_at_ms and account.month_ends_at_ms <= due_at_ms:
            bill_month(booking)
        elif account.raises and raises_due_at_ms(account) <= due_at_ms:
            turn_raises(booking, due_at_ms)
        elif due_at_ms == look_due_at_ms(account):
            look_at_spending(booking, due_at_ms)
        elif due_at_ms == _end_of_grants_ms(account):
            _end_grants(booking, due_at_ms)
        else:
            _renew(booking)
        if _due_at_ms(account) != due_at_ms:
            # What ends and what begins at the same instant is one step: an allowance that is renewed was never gone.
            crossings.look(booking, due_at_ms)
    account.due_at_ms = due_at_ms
    if is_anything_due:
        recharge_if_low(booking)


def settled(account: Account, at_ms: int, prices: Prices) -> Account:
    """The account as of `at_ms`: what time has brought by then is booked on this same account, for whoever shows it.

    Nothing is stated: the facts of it are the owner's to state once it touches the account.
    """
    settle(Booking(account, partition=0, offset=0, slot=0, at_ms=at_ms, facts=[], prices=prices))
    return account


def reschedule(account: Account) -> None:
    """Note when an account is next due. Call it after whatever may change that."""
    account.due_at_ms = _due_at_ms(account)


def charge(booking: Booking, usage: Usage, cost_left: int | None = None, cost_ceiling: int = 0) -> tuple[str, str]:
    """Charge one use in burn-down order, whole or not at all; gives ("", ""), or a refusal's code and detail.

    With `cost_left`, what may still be spent of `cost_ceiling` in this minute, the use may be refused with
    `over_cost_ceiling` or `rate_limited` too, after all else.

    A use is judged as of when it occurred: the price book, the plan, whether the project was there and open. Each entry
    draws on one grant: a line that two grants pay for has two entries, and only the first bears the quantity. A use
    that costs nothing leaves an entry of 0. Refusals: those of `past.check_use`, then `out_of_credits`.
    """
    account = booking.account
    book = booking.prices.at(usage.occurred_at_ms)
    operation, surcharge = usage.operation, usage.surcharge
    quantity, environment = usage.quantity, usage.environment
    rate = book.rates.get(operation)
    surcharge_rate = book.rates.get(surcharge) if surcharge else 0
    gates = book.plan_required
    if (
        account.closed_at_ms
        or account.past
        or usage.occurred_at_ms < account.signed_up_at_ms
        or operation in gates
        or surcharge in gates
        or rate is None
        or surcharge_rate is None
    ):
        if refused := _refused(booking, usage, book):
            return refused
        assert rate is not None and surcharge_rate is not None
    total = (rate + surcharge_rate) * quantity
    left = available(account, environment)
    if total > left:
        return _out_of_credits(booking, usage, book, total, left)
    if cost_left is not None and total > cost_left:
        return _over_ceiling(booking, usage, book, total, cost_left, cost_ceiling)
    left = balance(account, environment) if account.holds else left
    left = _charge_line(booking, usage, book, operation, rate * quantity, left)
    if surcharge:
        _charge_line(booking, usage, book, surcharge, surcharge_rate * quantity, left)
    if account.auto_recharge is not None:
        recharge_if_low(booking)
    return "", ""


def charge_if_covered(booking: Booking, usage: Usage) -> tuple[str, int]:
    """Charge a use that comes about whatever stands against it: whole, or, where credits do not cover it, by an entry
    of 0. Gives the id of its first entry, and the microcredits charged. It asks for no recharge: the next use does."""
    account = booking.account
    book = booking.prices.at(usage.occurred_at_ms)
    total = book.rates.get(usage.operation, 0) * usage.quantity
    if total > available(account, usage.environment):
        total = 0
    fact_id = entry_id(booking.partition, booking.offset, booking.next_index)
    _charge_line(booking, usage, book, usage.operation, total, balance(account, usage.environment))
    return fact_id, total


def hold(
    booking: Booking, usage: Usage, seconds: int, cost_left: int | None = None, cost_ceiling: int = 0
) -> tuple[str, str, Hold | None]:
    """Hold what one use costs; gives ("", "", the hold), or a refusal's code and detail as `charge` does."""
    account = booking.account
    book = booking.prices.at(usage.occurred_at_ms)
    if refused := _refused(booking, usage, book):
        return *refused, None
    lines = [
        Line(operation, usage.quantity, book.rates[operation])
        for operation in (usage.operation, usage.surcharge)
        if operation
    ]
    total = sum(line.rate * line.quantity for line in lines)
    left = available(account, usage.environment)
    if total > left:
        return *_out_of_credits(booking, usage, book, total, left), None
    if not holds.has_room(account, usage):
        detail = f"Project {account.project} has no room beside its {len(account.holds)} open holds; resolve some first"
        return *_refuse(booking, usage, book, "too_many_holds", detail), None
    if cost_left is not None and total > cost_left:
        return *_over_ceiling(booking, usage, book, total, cost_left, cost_ceiling), None
    placed = holds.place(booking, usage, lines, book.version, seconds)
    recharge_if_low(booking)
    return "", "", placed


def cost_to_limit(booking: Booking, usage: Usage, is_job: bool) -> tuple[int, bool]:
    """The cost of a use in microcredits, 0 where it has no price, and whether the cost ceiling decides on it: False
    where it would be refused before that. The account stays as it is; call it with a booking whose facts are dropped.
    """
    book = booking.prices.at(usage.occurred_at_ms)
    if _refused(booking, usage, book):
        return 0, False
    total = (book.rates[usage.operation] + (book.rates[usage.surcharge] if usage.surcharge else 0)) * usage.quantity
    is_covered = total <= available(booking.account, usage.environment)
    return total, is_covered and (not is_job or holds.has_room(booking.account, usage))


def duplicate(booking: Booking, usage: Usage, reason: str = "") -> str:
    """State that an event was decided before, for the count of duplicates; change nothing. Gives the fact's id."""
    return booking.state_usage("duplicate", usage, reason=reason)


def state_again(booking: Booking, usage: Usage, first: Claim) -> None:
    """State that the event of a claim was reported again, or that its id was used again for another content."""
    duplicate(booking, usage, "" if came_of(first, usage) is not None else "event_id_reused")


def capture_for(booking: Booking, usage: Usage, held: Hold) -> list[tuple[bytes, bytes]]:
    """Capture the open hold of an event that has come, at the held price. Gives the claims that follow, with their
    marks; none where the event is of another operation, surcharge or environment than its hold, which stays open then.

    What was held above the event's quantity is released. What the event has above the held quantity is charged like any
    other use, or refused like one: so it is never lost.
    """
    line = held.lines[0]
    if (usage.operation, usage.surcharge, usage.environment) != (line.operation, surcharge_of(held), held.environment):
        duplicate(booking, usage, "event_id_reused")
        return []
    claims = holds.capture_quantity(booking, held, min(usage.quantity, line.quantity))
    reschedule(booking.account)
    code = ""
    if usage.quantity > line.quantity:
        code, _ = charge(booking, replace(usage, quantity=usage.quantity - line.quantity))
    return [(usage.dedup_hash, mark_in_part(usage) if code else mark_of(usage)), *claims]


def _due_at_ms(account: Account) -> int:
    due = account.renews_at_ms
    if account.month_ends_at_ms:
        due = min(due, account.month_ends_at_ms)
    if account.holds:
        due = min(due, *(each.expires_at_ms for each in account.holds))
    if account.raises:
        due = min(due, raises_due_at_ms(account))
    if (look_at_ms := look_due_at_ms(account)) is not None:
        due = min(due, look_at_ms)
    ends_at_ms = _end_of_grants_ms(account)
    return due if ends_at_ms is None or ends_at_ms > due else ends_at_ms


def _end_of_grants_ms(account: Account) -> int | None:
    """The earliest end of a grant that is yet to come, or to be booked; None where there is none.

    A grant with nothing left counts too: credits may come back to it without a look at when the account is next due.
    """
    passed_ms = account.last_at_ms
    return min((grant.expires_at_ms for grant in account.grants if grant.expires_at_ms > passed_ms), default=None)


def _end_grants(booking: Booking, ended_at_ms: int) -> None:
    """End the grants whose time is over: what is left of them expires."""
    account = booking.account
    for grant in account.grants:
        if grant.expires_at_ms and grant.expires_at_ms <= ended_at_ms and grant.remaining > grant.held:
            # The grant's held credits live on until their job is resolved.
            left = grant.remaining - grant.held
            grant.remaining = grant.held
            booking.state(
                "expiry",
                environment=grant.environment,
                amount=-left,
                grant_id=grant.id,
                reason=grant.kind,
                occurred_at_ms=grant.expires_at_ms,
            )
    drop_spent(account, ended_at_ms)
    # The ends up to here are booked. The account's clock is no later than the record's that brings this about.
    account.last_at_ms = ended_at_ms


def _renew(booking: Booking) -> None:
    """Renew a project's month: a change of plan that waited for it comes about, and the next allowance is granted."""
    account = booking.account
    renewed_at_ms = account.renews_at_ms
    if account.next_plan:
        move_to_plan(booking, account.next_plan, account.next_allowance, account.next_price_cents, renewed_at_ms)
    account.renews_at_ms = renewal_after(account.signed_up_at_ms, renewed_at_ms)
    if not account.closed_at_ms:
        begin_month(booking, renewed_at_ms)


def _refused(booking: Booking, usage: Usage, book: PriceBook) -> tuple[str, str] | None:
    """Refuse a use that no credits could pay for: gives the code and detail, or None where credits decide."""
    try:
        check_use(booking.account, usage, book)
    except Rejection as rejection:
        return _refuse(booking, usage, book, rejection.code, rejection.detail)
    return None


def _out_of_credits(booking: Booking, usage: Usage, book: PriceBook, total: int, left: int) -> tuple[str, str]:
    detail = f"{usage.operation} costs {format_credits(total)} credits; {format_credits(left)} are available"
    refused = _refuse(booking, usage, book, "out_of_credits", detail)
    recharge_if_low(booking)
    return refused


def _over_ceiling(
    booking: Booking, usage: Usage, book: PriceBook, total: int, left: int, ceiling: int
) -> tuple[str, str]:
    costs = f"{usage.operation} costs {format_credits(total)} credits"
    if total > ceiling:
        detail = f"{costs}, more than the {format_credits(ceiling)} that may be spent in a minute"
        return _refuse(booking, usage, book, "over_cost_ceiling", detail)
    project = booking.account.project
    detail = (
        f"Cost ceiling reached for project {project}: {costs}; {format_credits(left)} of {format_credits(ceiling)} "
        "are left of this minute"
    )
    return _refuse(booking, usage, book, "rate_limited", detail)


def _refuse(booking: Booking, usage: Usage, book: PriceBook, code: str, detail: str) -> tuple[str, str]:
    booking.state_usage("refusal", usage, reason=code, price_version=book.version)
    return code, detail


def _charge_line(booking: Booking, usage: Usage, book: PriceBook, operation: str, amount: int, left: int) -> int:
    """Book one line, whose `amount` is known to be covered, on the grants that pay for it; gives the balance left."""
    if not amount:
        _charge_fact(booking, usage, book, operation, usage.quantity, 0, left, "")
        return left
    account = booking.account
    quantity = usage.quantity
    for grant in account.grants:
        if grant.environment == usage.environment and (free := grant.remaining - grant.held):
            drawn = amount if amount < free else free
            grant.remaining -= drawn
            amount -= drawn
            left -= drawn
            _charge_fact(booking, usage, book, operation, quantity, drawn, left, grant.id)
            quantity = 0
            if not grant.remaining and grant.expires_at_ms <= booking.at_ms:
                drop_spent(account, booking.at_ms)
            if not amount:
                return left
    raise AssertionError("a charge was not covered although it was checked to be")


# `_charge_fact` makes facts by place: fields that move would put one value in another's column.
assert Fact.__struct_fields__ == (
    "offset",
    "index",
    "kind",
    "project",
    "environment",
    "operation",
    "quantity",
    "amount",
    "balance",
    "grant_id",
    "reason",
    "price_version",
    "source",
    "event_id",
    "job_id",
    "key_id",
    "occurred_at_ms",
    "booked_at_ms",
    "metadata",
    "held",
    "cents",
    "billing_account",
    "surcharge",
)


def _charge_fact(
    booking: Booking,
    usage: Usage,
    book: PriceBook,
    operation: str,
    quantity: int,
    drawn: int,
    left: int,
    grant_id: str,
) -> None:
    """State one charge. Every event comes this way, so the fact is made by place, not through `Booking.state`."""
    account = booking.account
    booking.facts.append(
        Fact(
            booking.offset,
            booking.next_index,
            "charge",
            account.project,
            usage.environment,
            operation,
            quantity,
            -drawn,
            left,
            grant_id,
            "",
            book.version,
            usage.source,
            usage.event_id,
            usage.job_id,
            usage.key_id or booking.actor,
            usage.occurred_at_ms,
            booking.at_ms,
            usage.metadata,
            0,
            0,
            account.billing_account,
            "",
        )
    )
    booking.next_index += 1
