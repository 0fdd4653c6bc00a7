"""Bundles that are bought, by hand or by auto-recharge, and refunded."""

from __future__ import annotations

from schemas.commands import SettleRecharge, TopUp
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.grants import give
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import must_be_open
from tests.simulation.model.plans import BUNDLES, CREDIT
from tests.simulation.model.times import DAY_MS, HOUR_MS


def top_up(partition: Partition, project: Project, command: TopUp) -> Answer:
    must_be_open(project)
    if command.bundle_usd not in BUNDLES:
        raise Refused("invalid_request")
    if was_booked(partition, command):
        raise Refused("reference_used")
    return buy(partition, project, command, command.environment, command.bundle_usd)


def was_booked(partition: Partition, command: TopUp | SettleRecharge) -> bool:
    """Whether the payment of a purchase was booked before."""
    return bool(command.reference) and partition.is_seen(("payment", command.project, command.reference))


def buy(partition: Partition, project: Project, command: TopUp | SettleRecharge, environment: str, usd: int) -> Answer:
    index = partition.index
    if command.reference:
        partition.mark(("payment", command.project, command.reference))
    give(partition, project, "top_up", environment, BUNDLES[usd], partition.now(project), None, usd * 100)
    return partition.answer(project, environment, BUNDLES[usd], index)


def refund(partition: Partition, project: Project, grant_id: str) -> Answer:
    for grant in project.grants:
        if grant.id == grant_id and grant.kind == "top_up" and grant.left:
            is_old = partition.now(project) > grant.granted_at_ms + 30 * DAY_MS
            is_used = grant.left < grant.given - grant.given // 4
            if is_old or is_used or grant.held or not project.is_in_good_standing:
                raise Refused("not_refundable")
            project.grants.remove(grant)
            index = partition.index
            partition.state(
                project,
                "refund",
                environment=grant.environment,
                amount=-grant.left,
                grant_id=grant.id,
                reason="top_up",
                cents=-(grant.left // (2 * CREDIT)),
            )
            return partition.answer(project, grant.environment, grant.left, index)
    raise Refused("unknown_grant")


def settle_recharge(partition: Partition, project: Project, command: SettleRecharge) -> Answer:
    recharge = project.recharge
    if recharge is None or recharge.pending is None or recharge.pending[0] != command.recharge_id:
        raise Refused("recharge_settled")
    _, cents, month = recharge.pending
    recharge.pending = None
    if command.is_paid:
        recharge.failures, recharge.paused_until_ms = 0, 0
        if was_booked(partition, command):
            return partition.done(project, "recharge", "production", reason="booked")
        return buy(partition, project, command, "production", cents // 100)
    recharge.spent[month] -= cents
    recharge.failures += 1
    hours = min(24, 2 ** (recharge.failures - 1))
    recharge.paused_until_ms = partition.now(project) + hours * HOUR_MS
    answer = partition.done(project, "recharge", "production", reason="failed")
    if recharge.failures >= 5:
        recharge.is_on = False
        partition.state(project, "recharge", environment="production", reason="off")
    return answer
