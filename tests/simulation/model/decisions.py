"""Decisions: what each command does to a project that is there."""

from __future__ import annotations

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
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.corrections import correct
from tests.simulation.model.endpoints import bill_delivery, do_to_endpoint, put_endpoint
from tests.simulation.model.grants import give_promotional
from tests.simulation.model.holds import capture, extend, release
from tests.simulation.model.items import set_item
from tests.simulation.model.limits import end_raise_now, raise_limits, set_limits
from tests.simulation.model.notices import set_rules
from tests.simulation.model.partition import Partition
from tests.simulation.model.portals import open_or_end_portals
from tests.simulation.model.prices import publish, why_not, withdraw_once
from tests.simulation.model.projects import change_plan, close, put_on, reopen, set_badge, set_key
from tests.simulation.model.purchases import refund, settle_recharge, top_up
from tests.simulation.model.recharge import set_recharge
from tests.simulation.model.uses import admit, count_refused, count_request


def decide(partition: Partition, project: Project, command: AnyCommand) -> Answer:
    match command:
        case CreateProject():
            raise Refused("project_exists")
        case CloseProject():
            return close(partition, project)
        case ReopenProject():
            return reopen(partition, project)
        case TopUp():
            return top_up(partition, project, command)
        case RefundTopUp():
            return refund(partition, project, command.grant_id)
        case GrantPromotional():
            return give_promotional(partition, project, command)
        case ChangePlan():
            return change_plan(partition, project, command)
        case SetStanding():
            project.is_in_good_standing = command.is_good
            return partition.done(project, "standing", reason="good" if command.is_good else "bad")
        case Erase():
            return partition.done(project, "erasure", reason="customer" if command.customer else "project")
        case OpenPortal() | EndPortals():
            return open_or_end_portals(partition, project, command)
        case SetNoticeRules():
            return set_rules(partition, project, command)
        case SetBadge():
            return set_badge(partition, project, command)
        case SetBillingAccount():
            return put_on(partition, project, command)
        case OpenBillingAccount():
            if not command.is_change:
                raise Refused("billing_account_exists")
            return partition.done(project, "billing_account", reason="changed")
        case CreateKey() | RevokeKey() | RotateKey():
            return set_key(partition, project, command)
        case Admit():
            return admit(partition, project, command)
        case CountRequest():
            return count_request(partition, project, command)
        case CountRefused():
            return count_refused(partition, project, command)
        case SetLimits():
            return set_limits(partition, project, command)
        case RaiseLimits():
            return raise_limits(partition, project, command)
        case EndRaise():
            return end_raise_now(partition, project, command)
        case CaptureHold():
            return capture(partition, project, command)
        case ReleaseHold():
            return release(partition, project, command)
        case ExtendHold():
            return extend(partition, project, command)
        case SetItem():
            return set_item(partition, project, command)
        case SetAutoRecharge():
            return set_recharge(partition, project, command)
        case SettleRecharge():
            return settle_recharge(partition, project, command)
        case Correct():
            return correct(partition, project, command)
        case PublishPrices():
            if command.book in partition.books[1:] + partition.withdrawn:
                return Answer(200, "", 0, 0, "")
            if code := why_not(partition, command.book, command.after):
                raise Refused(code)
            return publish(partition, project, command)
        case WithdrawPrices():
            return withdraw_once(partition, project, command)
    return _decide_on_endpoint(partition, project, command)


def _decide_on_endpoint(partition: Partition, project: Project, command: AnyCommand) -> Answer:
    match command:
        case PutEndpoint():
            return put_endpoint(partition, project, command)
        case RotateEndpoint() | DeleteEndpoint() | DisableEndpoint() | TestEndpoint() | ReplayNotices():
            return do_to_endpoint(partition, project, command)
        case BillDelivery():
            return bill_delivery(partition, project, command)
    raise AssertionError(f"the model does not know {command}")
