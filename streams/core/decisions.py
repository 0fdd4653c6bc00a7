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
    CountRequest,
    CreateKey,
    CreateProject,
    EndRaise,
    ExtendHold,
    OpenBillingAccount,
    PublishPrices,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    RevokeKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetStanding,
    SettleRecharge,
    TopUp,
)
from schemas.ledger import Account, AnnouncedBook, Fact, Reply, StoredReply, refusal
from schemas.prices import PriceBook
from schemas.problems import Rejection
from streams.core import admission, corrections, grants, holds, items, limits, projects, recharge
from streams.core.acceptance import dedup_hash
from streams.core.booking import FACTS_PER_SLOT, Booking
from streams.core.price_list import PRICES_ID, Prices, check_book

REPLIES_KEPT = 32

_encode = msgspec.msgpack.Encoder().encode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def open_account(
    command: AnyCommand,
    partition: int,
    offset: int,
    at_ms: int,
    facts: list[Fact],
    prices: Prices,
    slot: int = 0,
) -> tuple[Account, Reply]:
    """The account that a command opens, where there is none yet; `slot` is its place in its record. Raises
    Rejection."""

    def booking_of(account: Account) -> Booking:
        booking = Booking(account, partition, offset, slot, at_ms, facts, prices)
        booking.actor = command.actor
        return booking

    match command:
        case CreateProject():
            account = projects.new_project(command, offset, at_ms)
            return account, projects.open_project(booking_of(account))
        case OpenBillingAccount():
            account = projects.new_billing_account(command, offset, at_ms)
            return account, projects.open_billing_account(booking_of(account))
        case PublishPrices():
            check_book(command.book, prices, command.after)
            account = Account(PRICES_ID, "", "free", 0, at_ms, projects.NEVER_MS, [], [], [], offset, -1, at_ms)
            return account, _publish(booking_of(account), command.book)
    raise Rejection("unknown_project", f"There is no project {command.project!r}")


def command_reply(booking: Booking, command: AnyCommand, already_decided: bool) -> Reply:
    """Decide a command on an open account. `already_decided`: what it claims was claimed before (see `claims`).

    A refusal is a reply, never an exception.
    """
    try:
        if isinstance(command, Admit):
            return admission.admit(booking, command, already_decided)
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
    neutral = msgspec.structs.replace(command, correlation="", reply_instance="", reply_partition=0, actor="")
    if isinstance(neutral, Admit):
        neutral = msgspec.structs.replace(neutral, usage=msgspec.structs.replace(neutral.usage, occurred_at_ms=0))
    return blake2b(_encode(neutral), digest_size=16).digest()


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


def is_reply_kept(command: AnyCommand) -> bool:
    """Whether a repeat of this command is answered as it was. A counted request is not worth an account's room: asking
    again is another request."""
    return not isinstance(command, CountRequest)


def kept_reply(stored: StoredReply) -> Reply:
    """The reply that was kept."""
    return _decode_reply(stored.reply)


def keep_reply(account: Account, command: AnyCommand, offset: int, reply: Reply) -> None:
    """Remember a reply for a repeat of its command; the oldest goes once there are too many."""
    stored = StoredReply(reply_key(command, reply), fingerprint(command), offset, msgspec.Raw(_encode(reply)))
    account.replies.append(stored)
    if len(account.replies) > REPLIES_KEPT:
        del account.replies[: len(account.replies) - REPLIES_KEPT]


def _publish(booking: Booking, book: PriceBook) -> Reply:
    slot = booking.next_index // FACTS_PER_SLOT
    booking.account.books.append(AnnouncedBook(booking.offset, book, slot))
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
    CountRequest: admission.count,
    SetLimits: limits.set_limits,
    RaiseLimits: limits.raise_limits,
    EndRaise: limits.end_raise,
    CaptureHold: holds.capture,
    ReleaseHold: holds.release,
    ExtendHold: holds.extend,
    SetItem: items.set_item,
    Correct: corrections.correct,
    PublishPrices: _publish_prices,
}
