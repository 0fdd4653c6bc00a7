"""Passing time: expired holds, months that end, raises that begin and end, grants that end, renewals."""

from __future__ import annotations

from tests.simulation.model.accounts import Project
from tests.simulation.model.grants import end_grants
from tests.simulation.model.holds import let_go
from tests.simulation.model.items import count_hours, pay_bills
from tests.simulation.model.limits import begin_raise, end_raise
from tests.simulation.model.notices import look
from tests.simulation.model.partition import Partition
from tests.simulation.model.projects import renew
from tests.simulation.model.recharge import recharge_if_low
from tests.simulation.model.spending import look_at_spending
from tests.simulation.model.times import month_end_after


def settle(partition: Partition, project: Project) -> None:
    is_anything_due = project.due_at_ms() <= partition.now(project)
    while project.due_at_ms() <= partition.now(project):
        due_ms, what, which = project.next_due()
        if what == 0:
            let_go(partition, project, project.holds[which], "expired", due_ms)
        elif what == 1:
            for operation, item in project.items.items():
                count_hours(partition, operation, item, due_ms)
                for bill in item.bills:
                    bill.month_end_ms = bill.month_end_ms or due_ms
            project.month_end_ms = month_end_after(due_ms)
            pay_bills(partition, project, due_ms)
        elif what == 2 and project.raises[which].is_on:
            end_raise(partition, project, project.raises[which], due_ms)
        elif what == 2:
            begin_raise(partition, project, project.raises[which])
        elif what == 3:
            look_at_spending(partition, project, due_ms)
        elif what == 4:
            end_grants(partition, project, due_ms)
        else:
            renew(partition, project, due_ms)
        if project.due_at_ms() != due_ms:
            look(partition, project, due_ms)
    if is_anything_due:
        recharge_if_low(partition, project)
