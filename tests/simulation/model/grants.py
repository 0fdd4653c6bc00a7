"""Credits that come: the bills of past months are paid from them at once; those that end; and those that an
operator gives."""

from __future__ import annotations

from schemas.commands import GrantPromotional
from tests.simulation.model.accounts import Grant, Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.burn_down import in_burn_down_order
from tests.simulation.model.items import pay_bills
from tests.simulation.model.partition import Partition
from tests.simulation.model.plans import CREDIT
from tests.simulation.model.times import DAY_MS


def give(
    partition: Partition,
    project: Project,
    kind: str,
    environment: str,
    amount: int,
    at_ms: int,
    expires_at_ms: int | None,
    cents: int = 0,
) -> None:
    grant_id = f"{kind}-{partition.offset}-{partition.index}"
    project.grants.append(Grant(grant_id, kind, environment, amount, at_ms, expires_at_ms))
    partition.state(
        project,
        "grant",
        environment=environment,
        amount=amount,
        grant_id=grant_id,
        reason=kind,
        occurred_at_ms=at_ms,
        cents=cents,
    )
    pay_bills(partition, project, at_ms)


def give_promotional(partition: Partition, project: Project, command: GrantPromotional) -> Answer:
    """Promotional credits, which an operator gives for a reason and for a time."""
    now_ms = partition.now(project)
    if project.closed_ms is not None:
        raise Refused("project_closed")
    is_amount = 1 <= command.amount <= 10_000_000 * CREDIT
    is_reason = command.reason.strip() != "" and len(command.reason) <= 200
    is_end = now_ms < command.expires_at_ms <= now_ms + 1830 * DAY_MS
    running = [each for each in project.grants if each.kind == "promotional" and (each.left or not each.is_over)]
    if not (is_amount and is_reason and is_end) or len(running) >= 500:
        raise Refused("invalid_request")
    index = partition.index
    ends_ms = command.expires_at_ms
    give(partition, project, "promotional", command.environment, command.amount, now_ms, ends_ms)
    return partition.answer(project, command.environment, command.amount, index)


def end_grants(partition: Partition, project: Project, due_ms: int) -> None:
    """Grants that end: the rest of them expires, but for what is held."""
    for grant in in_burn_down_order(project.grants):
        if grant.has_expired(due_ms) and not grant.is_over:
            grant.is_over = True
            free = grant.left - grant.held
            if free:
                grant.left -= free
                partition.state_expiry(project, grant, free, due_ms)
