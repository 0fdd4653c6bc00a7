"""Credits that come: the bills of past months are paid from them at once."""

from __future__ import annotations

from tests.simulation.model.accounts import Grant, Project
from tests.simulation.model.items import pay_bills
from tests.simulation.model.partition import Partition


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
