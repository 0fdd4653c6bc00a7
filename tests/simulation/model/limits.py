"""Limits that change: contracts, trials, and raises for a while."""

from __future__ import annotations

from schemas.accounts import Limits
from schemas.commands import EndRaise, RaiseLimits, SetLimits
from schemas.events import Usage
from tests.simulation.model.accounts import Project, Raise
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.partition import Partition
from tests.simulation.model.plans import CREDIT
from tests.simulation.model.times import DAY_MS
from tests.simulation.model.windows import Window

RAISES_MAX = 20
RAISE_DAYS_MAX = 366
LIMITS_MAX = (1_000_000, 2_000_000, 1_000_000_000 * CREDIT)


def try_limits(partition: Partition, project: Project, usage: Usage, cost: int) -> str:
    """Count a use under the limits on trial: the code they would have refused it with, or ""."""
    if project.trial is None:
        return ""
    limits, window = project.limits().under(project.trial[0]), project.trial[1]
    window.move_to(partition.now(project), limits)
    code = ""
    if not window.take(limits):
        code = "rate_limited"
    elif cost > limits.cost:
        code = "over_cost_ceiling"
    elif window.wait_for_cost(limits, cost):
        code = "rate_limited"
    else:
        window.add_cost(cost)
    if code:
        partition.state_use(project, "shadow", usage, reason=code)
    return code


def limits_change(partition: Partition, project: Project, at_ms: int) -> None:
    """Bring the windows to the time of a change: until then the old limits held."""
    if project.window is not None:
        project.window.move_to(at_ms, project.limits())
    if project.trial is not None:
        project.trial[1].move_to(at_ms, project.limits().under(project.trial[0]))


def set_limits(partition: Partition, project: Project, command: SetLimits) -> Answer:
    said = limits_said(command.limits)
    limits_change(partition, project, partition.now(project))
    if command.is_shadow:
        project.trial = (command.limits, Window(partition.now(project))) if any(said) else None
    else:
        project.contract = command.limits if any(said) else None
    return partition.done(project, "limits", reason="shadow" if command.is_shadow else "set")


def raise_limits(partition: Partition, project: Project, command: RaiseLimits) -> Answer:
    now_ms = partition.now(project)
    starts_ms, ends_ms = max(now_ms, command.starts_at_ms), command.ends_at_ms
    if not any(limits_said(command.limits)) or not starts_ms < ends_ms <= now_ms + RAISE_DAYS_MAX * DAY_MS:
        raise Refused("invalid_request")
    if len(project.raises) == RAISES_MAX:
        raise Refused("too_many_raises")
    planned = Raise(partition.entry_id(partition.index), command.limits, starts_ms, ends_ms)
    answer = partition.done(project, "limits", reason="raise_planned")
    project.raises.append(planned)
    if starts_ms == now_ms:
        begin_raise(partition, project, planned)
    return answer


def begin_raise(partition: Partition, project: Project, each: Raise) -> None:
    limits_change(partition, project, each.starts_ms)
    each.is_on = True
    partition.state(project, "limits", reason="raise_begun", occurred_at_ms=each.starts_ms)


def end_raise(partition: Partition, project: Project, each: Raise, at_ms: int) -> None:
    limits_change(partition, project, at_ms)
    project.raises.remove(each)
    partition.state(project, "limits", reason="raise_ended", occurred_at_ms=at_ms)


def end_raise_now(partition: Partition, project: Project, command: EndRaise) -> Answer:
    for each in project.raises:
        if each.id == command.raise_id:
            index = partition.index
            end_raise(partition, project, each, partition.now(project))
            return partition.answer(project, "production", 0, index)
    raise Refused("unknown_raise")


def limits_said(limits: Limits) -> tuple[int, int, int]:
    """Limits as numbers, where they may be set."""
    said = (limits.requests_per_minute, limits.burst, limits.cost_ceiling)
    if any(not 0 <= limit <= most for limit, most in zip(said, LIMITS_MAX, strict=True)):
        raise Refused("invalid_request")
    return said
