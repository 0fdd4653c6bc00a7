"""Grants pay in burn-down order: the allowance, then promotional credits, the earliest end first, then bundles, the
oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from schemas.events import Usage
from tests.simulation.model.accounts import Grant, Project
from tests.simulation.model.partition import Partition

BURN_DOWN = ("allowance", "promotional", "top_up")


def spend(
    partition: Partition, project: Project, kind: str, usage: Usage, quantity: int, amount: int, **fields: Any
) -> int:
    """One line: an entry on each grant that pays for it, or one without a grant where it costs nothing."""
    if not amount:
        partition.state(project, kind, usage, quantity=quantity, **fields)
    for grant, drawn in draw(partition, project, usage.environment, amount):
        grant.left -= drawn
        partition.state(project, kind, usage, quantity=quantity, amount=-drawn, grant_id=grant.id, **fields)
        quantity = 0
    return amount


def draw(partition: Partition, project: Project, environment: str, amount: int) -> Iterator[tuple[Grant, int]]:
    for grant in in_burn_down_order(project.grants):
        drawn = min(amount, grant.left - grant.held) if grant.environment == environment else 0
        if drawn:
            amount -= drawn
            yield grant, drawn


def in_burn_down_order(grants: list[Grant]) -> list[Grant]:
    def turn(grant: Grant) -> tuple[int, int, int]:
        ends_ms = grant.expires_at_ms if grant.kind == "promotional" else None
        return BURN_DOWN.index(grant.kind), ends_ms or 0, grant.granted_at_ms

    return sorted(grants, key=turn)
