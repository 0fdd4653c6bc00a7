"""Projects: open or closed, on which plan, with which keys, in which month."""

from __future__ import annotations

from schemas.commands import ChangePlan, CreateKey, RevokeKey, RotateKey, SetBadge, SetBillingAccount
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.grants import give
from tests.simulation.model.items import count_hours, drop_items
from tests.simulation.model.limits import limits_change
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import changed, must_be_open
from tests.simulation.model.plans import PLANS, RANK, terms
from tests.simulation.model.times import DAY_MS, month_of

_NEVER_MS = 1 << 52


def close(partition: Partition, project: Project) -> Answer:
    must_be_open(project)
    project.closed_ms = partition.now(project)
    changed(project, project.closed_ms)
    for operation, item in project.items.items():
        count_hours(partition, operation, item, project.closed_ms)
        item.quantity = 0
    drop_items(project)
    return partition.done(project, "project", reason="closed")


def reopen(partition: Partition, project: Project) -> Answer:
    if project.closed_ms is None:
        raise Refused("project_open")
    project.closed_ms = None
    index, amount, now_ms = partition.index, 0, partition.now(project)
    changed(project, now_ms)
    partition.state(project, "project", reason="reopened")
    if project.renewals not in project.months_begun:
        amount = project.allowance
        begin_month(partition, project, now_ms)
    return partition.answer(project, "production", amount, index)


def change_plan(partition: Partition, project: Project, command: ChangePlan) -> Answer:
    must_be_open(project)
    if command.plan not in PLANS:
        raise Refused("invalid_request")
    index, now_ms = partition.index, partition.now(project)
    allowance, cents = terms(command)
    more, dearer = allowance - project.allowance, cents - project.cents
    if more < 0 or RANK[command.plan] < RANK[project.plan]:
        project.next_plan = (command.plan, allowance, cents)
        partition.state(project, "plan", reason=command.plan, occurred_at_ms=project.renews_at_ms())
        return partition.answer(project, "production", 0, index)
    limits_change(partition, project, now_ms)
    before = project.plan
    project.plan, project.allowance, project.cents, project.next_plan = command.plan, allowance, cents, None
    if project.plan != before:
        changed(project, now_ms)
    partition.state(project, "plan", reason=command.plan)
    if dearer > 0:
        partition.state(project, "subscription", reason=command.plan, cents=dearer)
    if more:
        give(partition, project, "allowance", "production", more, now_ms, project.renews_at_ms())
    return partition.answer(project, "production", more, index)


def set_badge(partition: Partition, project: Project, command: SetBadge) -> Answer:
    if command.is_off and project.plan == "free":
        raise Refused("plan_required")
    project.badge_off = command.is_off
    return partition.done(project, "project", reason="badge_off" if command.is_off else "badge_on")


def put_on(partition: Partition, project: Project, command: SetBillingAccount) -> Answer:
    """Put a project on an invoice; what this month billed follows if it is to be there from its start."""
    index, to = partition.index, command.billing_account
    project.billing_account = to
    partition.state(project, "billing_account", reason="joined")
    if command.is_from_month_start:
        for account, cents in sorted(billed(project, partition.now(project)).items()):
            if account != to:
                project.billing_account = account
                partition.state(project, "transfer", reason="moved_out", cents=-cents)
                project.billing_account = to
                partition.state(project, "transfer", reason="moved_in", cents=cents)
    return partition.answer(project, "production", 0, index)


def billed(project: Project, now_ms: int) -> dict[str, int]:
    """The cents that a project was billed in this month on each invoice."""
    sums = project.billed.items()
    return {account: cents for (month, account), cents in sums if cents and month == month_of(now_ms)}


def set_key(partition: Partition, project: Project, command: CreateKey | RevokeKey | RotateKey) -> Answer:
    if isinstance(command, RotateKey):
        return _rotate_key(partition, project, command)
    key_id = command.key_id
    if isinstance(command, CreateKey):
        if key_id in project.keys:
            raise Refused("key_exists")
        if len(project.keys) == 100:
            raise Refused("invalid_request")
        project.keys[key_id] = command.environment
        return partition.done(project, "key", command.environment, reason="created", key_id=key_id)
    if key_id not in project.keys:
        raise Refused("unknown_key")
    project.key_ends[key_id] = min(project.key_ends.get(key_id, partition.at_ms), partition.at_ms)
    return partition.done(project, "key", project.keys[key_id], reason="revoked", key_id=key_id)


def _rotate_key(partition: Partition, project: Project, command: RotateKey) -> Answer:
    old, new = command.key_id, command.new_key_id
    if not 0 <= command.grace_ms <= 30 * DAY_MS:
        raise Refused("invalid_request")
    if old not in project.keys or project.key_ends.get(old, _NEVER_MS) <= partition.at_ms:
        raise Refused("unknown_key")
    if new in project.keys:
        raise Refused("key_exists")
    if len(project.keys) == 100:
        raise Refused("invalid_request")
    environment = project.keys[new] = project.keys[old]
    project.key_ends[old] = min(project.key_ends.get(old, _NEVER_MS), partition.at_ms + command.grace_ms)
    answer = partition.done(project, "key", environment, reason="created", key_id=new)
    partition.state(project, "key", environment=environment, reason="rotated", key_id=old)
    return answer


def renew(partition: Partition, project: Project, due_ms: int) -> None:
    project.renewals += 1
    if project.next_plan:
        limits_change(partition, project, due_ms)
        before = project.plan
        (project.plan, project.allowance, project.cents), project.next_plan = project.next_plan, None
        if project.plan != before:
            changed(project, due_ms)
        partition.state(project, "plan", reason=project.plan, occurred_at_ms=due_ms)
    if project.closed_ms is None:
        begin_month(partition, project, due_ms)


def begin_month(partition: Partition, project: Project, at_ms: int) -> None:
    project.months_begun.add(project.renewals)
    if project.cents:
        partition.state(project, "subscription", reason=project.plan, occurred_at_ms=at_ms, cents=project.cents)
    if project.allowance:
        give(partition, project, "allowance", "production", project.allowance, at_ms, project.renews_at_ms())
