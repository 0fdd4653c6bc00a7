"""Past balances: an account's balance at an earlier time, from the history."""

from __future__ import annotations

from schemas.accounts import Account, Grant
from streams.clickhouse.client import ClickHouse
from streams.core.grants import burn_down
from streams.core.plans import PLANS, renewal_after
from streams.history.facts import AT, EFFECTIVE_AT, kind_in


def account_at(
    clickhouse: ClickHouse, project: str, at_ms: int, opened: tuple[int, int] | None = None
) -> Account | None:
    """A project's account as it was at a time, with its grants in burn-down order; None where it was not yet open.

    `opened` is what `opened_at` gave, for callers that have asked already.
    The account has its grants with their held credits, its plan, sign-up, renewal and whether it was closed. Its name,
    keys, holds, items and auto-recharge are left out.
    """
    opened = opened or opened_at(clickhouse, project)
    if opened is None or opened[0] > at_ms:
        return None
    signed_up_at_ms, opened_offset = opened
    plan, closed_at_ms = _state_at(clickhouse, project, at_ms)
    last = clickhouse.query(
        "SELECT toInt64(max(offset)), toUnixTimestamp64Milli(max(booked_at)) FROM facts "
        f"WHERE project = {{project:String}} AND booked_at <= {AT}",
        {"project": project, "at": at_ms},
    )[0]
    grants = [
        grant
        for grant in grants_of(clickhouse, project, at_ms, signed_up_at_ms)
        if grant.remaining or grant.expires_at_ms > at_ms
    ]
    return Account(
        project=project,
        name="",
        plan=plan,
        allowance=PLANS[plan].allowance,
        signed_up_at_ms=signed_up_at_ms,
        renews_at_ms=renewal_after(signed_up_at_ms, at_ms),
        grants=grants,
        keys=[],
        opened_offset=opened_offset,
        last_offset=last[0],
        last_at_ms=last[1],
        closed_at_ms=closed_at_ms,
    )


def opened_at(clickhouse: ClickHouse, project: str) -> tuple[int, int] | None:
    """The (Unix milliseconds, intake offset) that a project was opened at; None where it was not opened."""
    rows = clickhouse.query(
        "SELECT toUnixTimestamp64Milli(booked_at), offset FROM facts WHERE project = {project:String} "
        f"AND {kind_in('project')} AND reason IN ({_PLAN_NAMES}) ORDER BY offset LIMIT 1",
        {"project": project},
    )
    return (rows[0][0], rows[0][1]) if rows else None


def grants_of(clickhouse: ClickHouse, project: str, at_ms: int, signed_up_at_ms: int) -> list[Grant]:
    """The grants that a project ever had, as they were at a time, in burn-down order; used up and expired ones too."""
    rows = clickhouse.query(
        "SELECT grant_id, any(environment), argMin(amount, (offset, position)), toInt64(sum(amount)), "
        f"toInt64(sum(held)), toUnixTimestamp64Milli(min({EFFECTIVE_AT})), "
        f"max(if({kind_in('grant')}, JSONExtractInt(metadata, 'expires_at_ms'), 0)) FROM facts "
        f"WHERE project = {{project:String}} AND grant_id != '' AND {EFFECTIVE_AT} <= {AT} "
        "GROUP BY grant_id ORDER BY min((offset, position))",
        {"project": project, "at": at_ms},
    )
    grants = []
    for grant_id, environment, granted, remaining, held, granted_at_ms, stated_end_ms in rows:
        kind = grant_id.partition("-")[0]
        # A bundle does not expire. Credits that an operator gave end when the grant says so; any other grant, one that
        # a correction made too, ends with its month.
        expires_at_ms = 0 if kind == "top_up" else stated_end_ms or renewal_after(signed_up_at_ms, granted_at_ms)
        grants.append(Grant(grant_id, kind, environment, granted, remaining, granted_at_ms, expires_at_ms, held))
    return sorted(grants, key=burn_down)


def plan_at(clickhouse: ClickHouse, project: str, at_ms: int) -> str:
    """The plan that a project was on at a time."""
    return _state_at(clickhouse, project, at_ms)[0]


_PLAN_NAMES = ", ".join(f"'{name}'" for name in PLANS)


def _state_at(clickhouse: ClickHouse, project: str, at_ms: int) -> tuple[str, int]:
    """The plan that a project was on at a time, and since when it was closed, or 0."""
    # A change of plan that waits for the renewal is stated twice: when it is asked for, and when it comes about.
    rows = clickhouse.query(
        "SELECT reason, toUnixTimestamp64Milli(booked_at) FROM facts "
        f"WHERE project = {{project:String}} AND {kind_in('project', 'plan')} "
        f"AND occurred_at <= booked_at AND occurred_at <= {AT} ORDER BY offset, position",
        {"project": project, "at": at_ms},
    )
    plan, closed_at_ms = "free", 0
    for reason, booked_at_ms in rows:
        if reason in PLANS:
            plan = reason
        elif reason == "closed":
            closed_at_ms = booked_at_ms
        elif reason == "reopened":
            closed_at_ms = 0
    return plan, closed_at_ms
