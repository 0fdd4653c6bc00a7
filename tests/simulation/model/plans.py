"""Plans and bundles: what each grants and costs."""

from __future__ import annotations

from schemas.commands import ChangePlan, CreateProject

CREDIT = 1_000_000
# From the lowest to the highest: what each grants, in credits a month, and costs, in dollars a month.
PLANS = {"free": (250, 0), "hobby": (5_000, 25), "build": (25_000, 119), "scale": (100_000, 399), "enterprise": (0, 0)}
RANK = {plan: rank for rank, plan in enumerate(PLANS)}
BUNDLES = {20: 4_000 * CREDIT, 100: 20_000 * CREDIT, 500: 100_000 * CREDIT}


def terms(command: CreateProject | ChangePlan) -> tuple[int, int]:
    """The terms of a plan: (microcredits, cents) a month."""
    if command.plan == "enterprise":
        return command.contract_allowance, command.contract_cents
    credits, dollars = PLANS[command.plan]
    return credits * CREDIT, dollars * 100
