"""Notices: thresholds that the available credits fall to, and rise above again."""

from __future__ import annotations

from schemas.commands import SetNoticeRules
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.partition import Partition

# A threshold is (is it in percent, how much).
EMPTY, FIFTH = (False, 0), (True, 20)


def look(partition: Partition, project: Project, at_ms: int | None = None) -> None:
    """State what has changed since the last look."""
    for grant in project.grants:
        if grant.environment not in project.below and project.available(grant.environment):
            project.below[grant.environment] = reached(project, grant.environment)
    for environment, before in project.below.items():
        now = reached(project, environment)
        fresh = sorted(now - before, key=lambda each: amount_of(project, environment, each), reverse=True)
        for threshold in fresh:
            project.told.add(environment)
            reason = "credits_exhausted" if threshold == EMPTY else "credits_low"
            partition.state(project, "notice", environment=environment, reason=reason, occurred_at_ms=at_ms)
        if environment in project.told and not now:
            project.told.discard(environment)
            partition.state(
                project, "notice", environment=environment, reason="credits_recovered", occurred_at_ms=at_ms
            )
        project.below[environment] = now


def amount_of(project: Project, environment: str, threshold: tuple[bool, int]) -> int:
    is_percent, amount = threshold
    monthly = project.allowance if environment == "production" else 0
    return monthly * amount // 100 if is_percent else amount


def reached(project: Project, environment: str) -> set[tuple[bool, int]]:
    """The thresholds that no more is available than."""
    left = project.available(environment)
    every = {FIFTH, *project.rules.get(environment, [])}
    amounts = {each: amount_of(project, environment, each) for each in every}
    return {each for each, amount in amounts.items() if amount and left <= amount} | ({EMPTY} if not left else set())


def set_rules(partition: Partition, project: Project, command: SetNoticeRules) -> Answer:
    asked = command.rules
    ranges = [1 <= amount <= (100 if is_percent else 10**15) for is_percent, amount in asked]
    if len(asked) > 10 or len(set(asked)) < len(asked) or FIFTH in asked or not all(ranges):
        raise Refused("invalid_request")
    environment = command.environment
    known = set(project.rules.get(environment, []))
    project.rules[environment] = list(asked)
    if environment in project.below:
        now = reached(project, environment)
        project.below[environment] |= now & (set(asked) - known)
        if not now:
            project.told.discard(environment)
    return partition.done(project, "notice", environment, reason="rules")
