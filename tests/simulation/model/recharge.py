"""Auto-recharge: its terms, and when a purchase is asked for."""

from __future__ import annotations

from schemas.commands import SetAutoRecharge
from tests.simulation.model.accounts import Project, Recharge
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import must_be_open
from tests.simulation.model.plans import BUNDLES
from tests.simulation.model.times import month_of


def recharge_if_low(partition: Partition, project: Project) -> None:
    recharge, now_ms = project.recharge, partition.now(project)
    if recharge is None or not recharge.is_on or recharge.pending or project.closed_ms is not None:
        return
    if now_ms < recharge.paused_until_ms or project.available("production") >= recharge.threshold:
        return
    month, cents = month_of(now_ms), recharge.bundle_usd * 100
    if recharge.spent.get(month, 0) + cents > recharge.cap_cents:
        if month not in recharge.capped:
            recharge.capped.add(month)
            partition.state(project, "recharge", environment="production", reason="cap_reached")
        return
    recharge.spent[month] = recharge.spent.get(month, 0) + cents
    recharge.pending = (f"recharge-{partition.entry_id(partition.index)}", cents, month)
    partition.state(project, "recharge", environment="production", reason="requested")


def set_recharge(partition: Partition, project: Project, command: SetAutoRecharge) -> Answer:
    if command.is_on:
        must_be_open(project)
    cents = command.bundle_usd * 100
    is_right = (
        command.bundle_usd in BUNDLES
        and 0 < command.threshold <= BUNDLES[command.bundle_usd]
        and cents <= command.cap_cents <= 10_000_000
        and command.payment_method
    )
    if command.is_on and not is_right:
        raise Refused("invalid_request")
    terms = (command.threshold, command.bundle_usd, command.cap_cents, command.payment_method)
    recharge = project.recharge or Recharge()
    if recharge.is_on == command.is_on and (not command.is_on or terms == recharge.terms):
        return Answer(200, "", 0, project.available("production"), "")
    project.recharge = recharge
    recharge.is_on = command.is_on
    if command.is_on:
        recharge.terms = terms
        recharge.threshold, recharge.bundle_usd = command.threshold, command.bundle_usd
        recharge.cap_cents = command.cap_cents
        recharge.failures, recharge.paused_until_ms = 0, 0
        recharge.capped.clear()
    answer = partition.done(project, "recharge", "production", reason="on" if command.is_on else "off")
    recharge_if_low(partition, project)
    return answer
