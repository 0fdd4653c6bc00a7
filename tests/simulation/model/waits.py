"""Waits: time passes on a copy of a project, from one instant at which anything changes to the next, until a request
that was stopped passes."""

from __future__ import annotations

import copy
from collections.abc import Callable

from tests.simulation.model.accounts import Project
from tests.simulation.model.partition import Partition
from tests.simulation.model.passing_time import settle
from tests.simulation.model.times import MINUTE_MS

SECOND_MS = 1_000


def passes_at(
    partition: Partition,
    project: Project,
    is_stopped: Callable[[Partition, Project, int], bool],
    occurred_at_ms: int = 0,
) -> int:
    """The first time from which on, for a second, a request would not be stopped if nothing else comes. `is_stopped`
    is told how much later than now it would come; what it asks for occurs that much later than `occurred_at_ms`."""
    began_ms = partition.now(project)
    ahead, known = copy.copy(partition), copy.deepcopy(project, {id(project.answers): {}})
    ahead.lines = []
    ahead.at_ms, since_ms = began_ms, -1
    while since_ms < 0 or ahead.at_ms < since_ms + SECOND_MS:
        settle(ahead, known)
        if is_stopped(ahead, known, ahead.at_ms - began_ms):
            since_ms = -1
        elif since_ms < 0:
            since_ms = ahead.at_ms
        of_its_time_ms = [book.effective_at_ms for book in partition.books] + [at for at, _, _ in known.states]
        if known.next_plan:
            of_its_time_ms.append(known.renews_at_ms())
        as_it_ages_ms = [began_ms + at - occurred_at_ms for at in of_its_time_ms]
        ahead.at_ms = min(at for at in (*instants(known, since_ms), *as_it_ages_ms) if at > ahead.at_ms)
    return since_ms


def instants(known: Project, since_ms: int) -> list[int]:
    """The times at which time alone changes what a request may wait for, and the end of the second that it passes
    in."""
    assert known.window is not None
    aging = [at + MINUTE_MS for at in known.window.requests] + [at + MINUTE_MS for at, _ in known.window.costs]
    return [known.due_at_ms(), *aging, *([since_ms + SECOND_MS] if since_ms >= 0 else [])]
