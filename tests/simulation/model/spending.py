"""Spending: what was spent in the last 24 hours, and whether what is left lasts until the renewal."""

from __future__ import annotations

from tests.simulation.model.accounts import Project
from tests.simulation.model.partition import Partition
from tests.simulation.model.times import DAY_MS


def look_at_spending(partition: Partition, project: Project, due_ms: int) -> None:
    """Look at each environment that was charged in the hour that is over."""
    for environment in project.below:
        if project.looks.get(environment, due_ms + 1) > due_ms:
            continue
        del project.looks[environment]
        of_day = [each for each in project.spent if each[0] == environment and due_ms - DAY_MS <= each[1] < due_ms]
        spent, left = sum(amount for _, _, amount in of_day), project.available(environment)
        if not left:
            continue
        hours_are_few = spent * (project.renews_at_ms() - due_ms) > left * DAY_MS
        if project.closed_ms is None and hours_are_few:
            if environment not in project.dry:
                project.dry.add(environment)
                partition.state(
                    project, "notice", environment=environment, reason="time_to_empty", occurred_at_ms=due_ms
                )
        else:
            project.dry.discard(environment)
