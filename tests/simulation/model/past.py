"""Past states of a project: not there yet, open on a plan, or closed, when something was used."""

from __future__ import annotations

from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Refused

CHANGES_KNOWN = 64


def changed(project: Project, at_ms: int) -> None:
    """From now on a project is on this plan, and open or closed. What it was for no time does not count."""
    if project.states[-1][0] == at_ms:
        del project.states[-1]
    project.states.append((at_ms, project.plan, project.closed_ms is not None))


def plan_when_used(project: Project, used_ms: int) -> str:
    """The plan of a project when something was used. Raises Refused where it was not there, or not open."""
    known = project.states if len(project.states) <= CHANGES_KNOWN + 1 else project.states[-CHANGES_KNOWN:]
    if used_ms < known[0][0]:
        raise Refused("time_out_of_range")
    _, plan, is_closed = [state for state in known if state[0] <= used_ms][-1]
    if is_closed:
        raise Refused("project_closed")
    if project.next_plan and used_ms >= project.renews_at_ms():
        return project.next_plan[0]
    return plan


def must_be_open(project: Project) -> None:
    """Refuse what would have a closed project pay for anything from now on."""
    if project.closed_ms is not None:
        raise Refused("project_closed")
