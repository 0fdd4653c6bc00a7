"""Decisions: the rule that each command goes to, and the reply that comes of it.

A repeat of a command does not come here: `streams.core.fold` answers it with the kept reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schemas.accounts import Account
from schemas.commands import (
    Admit,
    AnyCommand,
    BillDelivery,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CountRefused,
    CountRequest,
    CreateKey,
    CreateProject,
    DeleteEndpoint,
    DisableEndpoint,
    EndPortals,
    EndRaise,
    Erase,
    ExtendHold,
    GrantPromotional,
    OpenBillingAccount,
    OpenPortal,
    PublishPrices,
    PutEndpoint,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    ReplayNotices,
    RevokeKey,
    RotateEndpoint,
    RotateKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetNoticeRules,
    SetStanding,
    SettleRecharge,
    TestEndpoint,
    TopUp,
    WithdrawPrices,
)
from schemas.facts import Fact
from schemas.problems import Rejection
from schemas.replies import Reply, refusal
from streams.core import (
    admission,
    corrections,
    crossings,
    deliveries,
    endpoints,
    erasures,
    grants,
    holds,
    items,
    limits,
    portals,
    price_announcements,
    projects,
    recharge,
)
from streams.core.booking import Booking
from streams.core.endpoints import PLATFORM_ID
from streams.core.past import check_open
from streams.core.price_list import PRICES_ID, Prices


def open_account(
    command: AnyCommand,
    partition: int,
    offset: int,
    at_ms: int,
    facts: list[Fact],
    prices: Prices,
    slot: int = 0,
) -> tuple[Account, Reply]:
    """Open the account that a command asks for, where there is none yet. Returns the account and the reply.

    `slot` is the command's place in its record. Raises Rejection where the command opens none.
    """

    def booking_of(account: Account) -> Booking:
        booking = Booking(account, partition, offset, slot, at_ms, facts, prices)
        booking.actor = command.actor
        return booking

    match command:
        case CreateProject():
            account = projects.new_project(command, offset, at_ms)
            booking = booking_of(account)
            reply = projects.open_project(booking)
            crossings.look(booking)
            return account, reply
        case OpenBillingAccount():
            account = projects.new_billing_account(command, offset, at_ms)
            return account, projects.open_billing_account(booking_of(account))
        case PublishPrices():
            account = projects.account_of_no_project(PRICES_ID, offset, at_ms)
            return account, price_announcements.publish(booking_of(account), command)
        case WithdrawPrices():
            account = projects.account_of_no_project(PRICES_ID, offset, at_ms)
            return account, price_announcements.withdraw(booking_of(account), command)
        case PutEndpoint() if command.project == PLATFORM_ID:
            account = projects.account_of_no_project(PLATFORM_ID, offset, at_ms)
            return account, endpoints.put(booking_of(account), command)
    raise Rejection("unknown_project", f"There is no project {command.project!r}")


def command_reply(booking: Booking, command: AnyCommand, already_decided: bool) -> Reply:
    """Decide a command on an open account. `already_decided` says that one of its claims was made before (see
    `claims`).

    A refusal is a reply, never an exception. What the command has crossed is stated after all else, except where it is
    one of TELL_NOTHING: then the next step states it.
    """
    reply = _reply(booking, command, already_decided)
    if type(command) not in TELL_NOTHING:
        crossings.look(booking)
    return reply


def _reply(booking: Booking, command: AnyCommand, already_decided: bool) -> Reply:
    try:
        if isinstance(command, Admit):
            return admission.admit(booking, command, already_decided)
        if isinstance(command, BillDelivery):
            return deliveries.bill(booking, command, already_decided)
        if isinstance(command, Correct) and already_decided:
            raise Rejection("already_corrected", "This event was decided or corrected meanwhile; look again")
        if can_charge_from_now_on(command):
            check_open(booking.account, booking.at_ms)
        return _DECISIONS[type(command)](booking, command)
    except Rejection as rejection:
        return refusal(rejection)


# What they cost raises no notice by itself.
TELL_NOTHING: frozenset[type] = frozenset({BillDelivery})

# They charge a use, or a job that was queued, and are judged as of it: `past.check_use`.
CHARGE_A_USE = frozenset({Admit, Correct, CaptureHold})
CHARGE_NOTHING = frozenset(
    {
        SetNoticeRules,
        CreateProject,
        CloseProject,
        ReopenProject,
        CreateKey,
        RevokeKey,
        RotateKey,
        RefundTopUp,
        SetStanding,
        SetBadge,
        Erase,
        EndPortals,
        CountRequest,
        CountRefused,
        SetLimits,
        RaiseLimits,
        EndRaise,
        ReleaseHold,
        ExtendHold,  # of a job that was queued while the project was open
        SettleRecharge,  # whose money is taken, or is not
        SetBillingAccount,
        OpenBillingAccount,
        PublishPrices,
        WithdrawPrices,
        PutEndpoint,
        RotateEndpoint,
        DeleteEndpoint,
        DisableEndpoint,
        TestEndpoint,
        ReplayNotices,
    }
)
# Charges what comes of earlier uses, in a closed project too.
CHARGES_ANYWAY = frozenset({BillDelivery})

_UNGUARDED = CHARGE_A_USE | CHARGE_NOTHING | CHARGES_ANYWAY


def can_charge_from_now_on(command: AnyCommand) -> bool:
    """Whether a command may have a project charged, credits or money, for what is used or bought from now on. A closed
    project refuses it then. A kind of command that is not named here may."""
    if isinstance(command, SetItem):
        return command.quantity != 0
    if isinstance(command, SetAutoRecharge):
        return command.is_on
    return type(command) not in _UNGUARDED


def _exists(booking: Booking, command: CreateProject) -> Reply:
    raise Rejection("project_exists", f"Project {command.project!r} exists")


_DECISIONS: Mapping[type, Callable[[Booking, Any], Reply]] = {
    CreateProject: _exists,
    TopUp: grants.top_up,
    RefundTopUp: grants.refund_top_up,
    GrantPromotional: grants.grant_promotional,
    SettleRecharge: grants.settle_recharge,
    SetAutoRecharge: recharge.set_auto_recharge,
    ChangePlan: projects.change_plan,
    CloseProject: projects.close,
    ReopenProject: lambda booking, _command: projects.reopen(booking),
    SetStanding: projects.set_standing,
    SetBadge: projects.set_badge,
    Erase: erasures.erase,
    OpenPortal: portals.open_link,  # charges nothing, but a closed project shows nothing to anybody's customers
    EndPortals: portals.end_all,
    SetNoticeRules: crossings.set_rules,
    SetBillingAccount: projects.set_billing_account,
    OpenBillingAccount: projects.change_billing_account,
    CreateKey: projects.create_key,
    RevokeKey: projects.revoke_key,
    RotateKey: projects.rotate_key,
    CountRequest: admission.count,
    CountRefused: admission.count_refused,
    SetLimits: limits.set_limits,
    RaiseLimits: limits.raise_limits,
    EndRaise: limits.end_raise,
    CaptureHold: holds.capture,
    ReleaseHold: holds.release,
    ExtendHold: holds.extend,
    SetItem: items.set_item,
    Correct: corrections.correct,
    PublishPrices: price_announcements.publish,
    WithdrawPrices: price_announcements.withdraw,
    PutEndpoint: endpoints.put,
    RotateEndpoint: endpoints.rotate,
    DeleteEndpoint: endpoints.delete,
    DisableEndpoint: endpoints.disable,
    TestEndpoint: endpoints.test,
    ReplayNotices: endpoints.replay,
}
