"""Corrections: charges given back, and events charged anew or late."""

from __future__ import annotations

from typing import Any

from schemas.commands import Correct, GivenBack
from tests.simulation.model.accounts import Grant, Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.burn_down import spend
from tests.simulation.model.holds import hold_of
from tests.simulation.model.identities import claims_of
from tests.simulation.model.items import pay_bills
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import plan_when_used
from tests.simulation.model.plans import RANK
from tests.simulation.model.prices import book_at
from tests.simulation.model.recharge import recharge_if_low


def correct(partition: Partition, project: Project, command: Correct) -> Answer:
    usage, index = command.usage, partition.index
    event = ("event", command.project, command.source, command.event_id)
    is_known = partition.refused_at.get(event) == command.refused_offset
    if any(partition.is_seen(claim) and not (claim == event and is_known) for claim in claims_of(command)):
        raise Refused("already_corrected")
    if usage is None and not command.given_back:
        raise Refused("invalid_request")
    costs: list[tuple[str, int]] = []
    version = ""
    if usage is not None:
        if not command.given_back and hold_of(project, usage):
            raise Refused("event_held")
        book = book_at(partition, usage.occurred_at_ms)
        version = book.version
        names = [name for name in (usage.operation, usage.surcharge) if name]
        rank = RANK[plan_when_used(project, usage.occurred_at_ms)]
        if any(RANK[book.plan_required.get(name, "free")] > rank for name in names):
            raise Refused("plan_required")
        if any(name not in book.rates for name in names):
            raise Refused("unknown_operation")
        costs = [(name, book.rates[name] * usage.quantity) for name in names]
        back = sum(each.amount for each in command.given_back if each.grant.environment == usage.environment)
        if sum(cost for _, cost in costs) > project.available(usage.environment) + back:
            raise Refused("out_of_credits")
    told: dict[str, Any] = {"source": command.source, "event_id": command.event_id}
    change = 0
    for each in command.given_back:
        grant = to_give_back_to(partition, project, each)
        grant.left += each.amount
        change += each.amount
        fields = {"operation": each.operation, "quantity": -each.quantity, "amount": each.amount} | told
        fields |= {"grant_id": grant.id, "environment": grant.environment, "reason": "given_back"}
        fields["price_version"] = each.price_version
        partition.state(project, "correction", usage, **fields)
    if usage is not None:
        for name, cost in costs:
            fields = {"operation": name, "price_version": version} | told
            fields["reason"] = "charged"
            change -= spend(partition, project, "correction", usage, usage.quantity, cost, **fields)
    pay_bills(partition, project, partition.now(project))
    recharge_if_low(partition, project)
    environment = usage.environment if usage is not None else command.given_back[0].grant.environment
    return partition.answer(project, environment, change, index)


def to_give_back_to(partition: Partition, project: Project, each: GivenBack) -> Grant:
    past, now_ms = each.grant, partition.now(project)
    for grant in project.grants:
        if grant.id == past.id and not grant.has_expired(now_ms):
            return grant
    if past.expires_at_ms and past.expires_at_ms <= now_ms:
        grant_id = f"promotional-{partition.offset}-{partition.index}"
        ends_ms = project.renews_at_ms()
        grant = Grant(grant_id, "promotional", past.environment, each.amount, now_ms, ends_ms)
    else:
        ends = past.expires_at_ms or None
        grant = Grant(past.id, past.kind, past.environment, past.granted, past.granted_at_ms, ends)
        grant.contract_cents = past.contract_cents
    grant.left = 0
    project.grants.append(grant)
    return grant
