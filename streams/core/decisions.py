"""What a command does, and the reply it gets; a repeat of it gets the same reply and does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CreateKey,
    CreateProject,
    ExtendHold,
    OpenBillingAccount,
    PublishPrices,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    RevokeKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetStanding,
    SettleRecharge,
    TopUp,
)
from schemas.ledger import Account, AnnouncedBook, Fact, Hold, Reply, StoredReply, entry_id, refusal
from schemas.prices import PriceBook
from schemas.problems import CODES, Rejection
from streams.core import corrections, grants, holds, items, projects, recharge
from streams.core.acceptance import dedup_hash
from streams.core.booking import Booking, available
from streams.core.ledger import charge, duplicate, hold
from streams.core.plans import PLANS
from streams.core.price_list import PRICES_ID, Prices, check_book
from streams.core.windows import count_request, rested

REPLIES_KEPT = 32


def open_account(
    command: AnyCommand, partition: int, offset: int, at_ms: int, facts: list[Fact], prices: Prices
) -> tuple[Account, Reply]:
    """The account that a command opens, where there is none yet. Raises Rejection."""
    match command:
        case CreateProject():
            return projects.open_project(command, partition, offset, at_ms, facts, prices)
        case OpenBillingAccount():
            return projects.open_billing_account(command, partition, offset, at_ms, facts, prices)
        case PublishPrices():
            check_book(command.book, prices, command.after)
            account = Account(PRICES_ID, "", "free", 0, at_ms, projects.NEVER_MS, [], [], [], offset, -1, at_ms)
            return account, _publish(Booking(account, partition, offset, 0, at_ms, facts, prices), command.book)
    raise Rejection("unknown_project", f"There is no project {command.project!r}")


def command_reply(booking: Booking, command: AnyCommand, already_decided: bool) -> Reply:
    """Decide a command on an open account. `already_decided`: what it claims was claimed before (see `claims`).

    A refusal is a reply, never an exception.
    """
    try:
        if isinstance(command, Admit):
            return _admit(booking, command, already_decided)
        if isinstance(command, Correct) and already_decided:
            raise Rejection("already_corrected", "This event was decided or corrected meanwhile; look again")
        return _DECISIONS[type(command)](booking, command)
    except Rejection as rejection:
        return refusal(rejection)


def claims(command: AnyCommand) -> list[bytes]:
    """The dedup hashes of what a command may do once only: bill an event, charge a job, make an event's nth correction.

    Where one of them was claimed by an earlier record, it is not done again. They are claimed by success (`claimed`).
    """
    if isinstance(command, Admit):
        usage = command.usage
        if command.hold_seconds and usage.job_id:
            return [usage.dedup_hash, holds.job_hash(usage.project, usage.environment, usage.job_id)]
        return [usage.dedup_hash]
    if isinstance(command, Correct):
        identity = f"{len(command.source)}:{command.source}{command.event_id}"
        mine = dedup_hash(command.project, f"meterline:correction:{command.sequence}", identity)
        if command.usage is not None and not command.given_back and not command.sequence:
            return [mine, dedup_hash(command.project, command.source, command.event_id)]
        return [mine]
    return []


def fingerprint(command: AnyCommand) -> bytes:
    """16 bytes over what a command asks, leaving out who waits for the reply and when it was sent."""
    neutral = msgspec.structs.replace(command, correlation="", reply_instance="", reply_partition=0)
    if isinstance(neutral, Admit):
        neutral = msgspec.structs.replace(neutral, usage=msgspec.structs.replace(neutral.usage, occurred_at_ms=0))
    return blake2b(msgspec.msgpack.encode(neutral), digest_size=16).digest()


def claimed(command: AnyCommand, reply: Reply) -> list[bytes]:
    """The dedup hashes that a command claims by its reply.

    A refused request did not run: the event that names it may still come, once it has. A hold claims nothing before it
    is captured (`Reply.claims`): a job that was released may be queued again.
    """
    if reply.status >= 300:
        return []
    if isinstance(command, Admit) and command.hold_seconds:
        return []
    return claims(command)


def decides(reply: Reply) -> bool:
    """Whether a reply settles what was asked. A request that the window stopped may be sent again under its key."""
    return reply.code != "rate_limited"


def reply_key(command: AnyCommand, reply: Reply | None = None) -> bytes:
    """16 bytes under which a command's reply is kept: its idempotency key, or else the request itself."""
    has_key = command.idempotency_key and (reply is None or decides(reply))
    text = f"key:{command.idempotency_key}" if has_key else f"request:{command.correlation}"
    return blake2b(text.encode(), digest_size=16, key=command.project.encode()[:64]).digest()


def keep_reply(account: Account, command: AnyCommand, offset: int, reply: Reply) -> None:
    """Remember a reply for a repeat of its command; the oldest goes once there are too many."""
    account.replies.append(StoredReply(reply_key(command, reply), fingerprint(command), offset, reply))
    if len(account.replies) > REPLIES_KEPT:
        del account.replies[: len(account.replies) - REPLIES_KEPT]


def _admit(booking: Booking, command: Admit, already_decided: bool) -> Reply:
    """The request window comes first: a request that it stops was none, and costs nothing. One that it lets through is
    counted, whatever comes of it."""
    if not 0 <= command.hold_seconds <= holds.HOLD_SECONDS_MAX:
        raise Rejection("invalid_request", f"A hold lasts from 1 to {holds.HOLD_SECONDS_MAX} seconds", "hold_seconds")
    usage, account = command.usage, booking.account
    first = len(booking.facts)
    code = detail = ""
    amount = 0
    placed: Hold | None = None
    plan = PLANS[account.plan]
    if account.window is None:
        account.window = rested(plan.requests_per_minute, plan.burst, booking.at_ms)
    rate = count_request(account.window, plan.requests_per_minute, plan.burst, booking.at_ms)
    if rate.retry_at_ms:
        seconds = -(-(rate.retry_at_ms - booking.at_ms) // 1000)
        code = "rate_limited"
        detail = f"Rate limit exceeded for project {account.project}. Retry after {seconds} seconds"
        fact_id = booking.state_usage("refusal", usage, reason=code)
    elif (placed := holds.open_for(account, usage, command.hold_seconds > 0)) is not None or already_decided:
        already_decided = True
        fact_id = duplicate(booking, usage)
        detail = "This event was decided before; nothing was charged for it now"
    elif command.hold_seconds:
        code, detail, placed = hold(booking, usage, command.hold_seconds)
        amount = sum(part.amount for part in placed.parts) if placed is not None else 0
    else:
        code, detail = charge(booking, usage)
        if not code:
            amount = -sum(fact.amount for fact in booking.facts[first:])
    if not already_decided and not rate.retry_at_ms:
        fact_id = entry_id(booking.partition, booking.offset, booking.facts[first].index)
    return Reply(
        CODES[code].status if code else 200,
        code,
        detail,
        amount,
        available(account, usage.environment),
        fact_id,
        placed.id if placed is not None else "",
        placed.expires_at_ms if placed is not None else 0,
        rate=rate,
    )


def _publish(booking: Booking, book: PriceBook) -> Reply:
    booking.account.books.append(AnnouncedBook(booking.offset, book))
    return Reply(200, "", "", 0, 0, booking.state("price_book", reason=book.version, price_version=book.version))


def _publish_prices(booking: Booking, command: PublishPrices) -> Reply:
    """A book that is there, to the letter, is there: announcing it again completes what was cut short."""
    if any(announced.book == command.book for announced in booking.account.books):
        return Reply(200, "", "It was announced before", 0, 0, "")
    check_book(command.book, booking.prices, command.after)
    return _publish(booking, command.book)


def _exists(booking: Booking, command: CreateProject) -> Reply:
    raise Rejection("project_exists", f"Project {command.project!r} exists")


_DECISIONS: Mapping[type, Callable[[Booking, Any], Reply]] = {
    CreateProject: _exists,
    TopUp: grants.top_up,
    RefundTopUp: grants.refund_top_up,
    SettleRecharge: grants.settle_recharge,
    SetAutoRecharge: recharge.set_auto_recharge,
    ChangePlan: projects.change_plan,
    CloseProject: projects.close,
    ReopenProject: lambda booking, _command: projects.reopen(booking),
    SetStanding: projects.set_standing,
    SetBadge: projects.set_badge,
    SetBillingAccount: projects.set_billing_account,
    OpenBillingAccount: projects.change_billing_account,
    CreateKey: projects.create_key,
    RevokeKey: projects.revoke_key,
    CaptureHold: holds.capture,
    ReleaseHold: holds.release,
    ExtendHold: holds.extend,
    SetItem: items.set_item,
    Correct: corrections.correct,
    PublishPrices: _publish_prices,
}
