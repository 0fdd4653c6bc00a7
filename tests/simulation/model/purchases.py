"""Credits that are bought, by hand or by auto-recharge, and refunded."""

from __future__ import annotations

from fractions import Fraction

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
    if command.bundle_usd:
        is_known, amount, cents = command.bundle_usd in BUNDLES, 0, 0
    else:
        amount, cents = command.amount, command.cents
        is_known = 1 <= amount <= 10**9 * CREDIT and 1 <= cents <= 10**9
    if not is_known:
        raise Refused("invalid_request")
    if was_booked(partition, command):
        raise Refused("reference_used")
    grant_id = f"top_up-{partition.offset}-{partition.index}"
    answer = buy(partition, project, command, command.environment, command.bundle_usd, amount, cents)
    # What is granted may have gone at once, for months that were not paid.
    for grant in project.grants:
        if grant.id == grant_id:
            grant.contract_cents = cents
    return answer


def was_booked(partition: Partition, command: TopUp | SettleRecharge) -> bool:
    """Whether the payment of a purchase was booked before."""
    return bool(command.reference) and partition.is_seen(("payment", command.project, command.reference))


def buy(
    partition: Partition,
    project: Project,
    command: TopUp | SettleRecharge,
    environment: str,
    usd: int,
    amount: int = 0,
    cents: int = 0,
) -> Answer:
    """Buy a bundle; where `usd` is 0, an amount by contract."""
    index = partition.index
    if usd:
        amount, cents = BUNDLES[usd], usd * 100
    if command.reference:
        partition.mark(("payment", command.project, command.reference))
    give(partition, project, "top_up", environment, amount, partition.now(project), None, cents)
    return partition.answer(project, environment, amount, index)


def refund(partition: Partition, project: Project, grant_id: str) -> Answer:
    for grant in project.grants:
        if grant.id == grant_id and grant.kind == "top_up" and grant.left:
            is_old = partition.now(project) > grant.granted_at_ms + 30 * DAY_MS
            is_used = grant.left < grant.given - grant.given // 4
            if is_old or is_used or grant.held or not project.is_in_good_standing:
                raise Refused("not_refundable")
            project.grants.remove(grant)
            price = Fraction(grant.contract_cents, grant.given) if grant.contract_cents else Fraction(1, 2 * CREDIT)
            index = partition.index
            partition.state(
                project,
                "refund",
                environment=grant.environment,
                amount=-grant.left,
                grant_id=grant.id,
                reason="top_up",
                cents=-int(grant.left * price),
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
