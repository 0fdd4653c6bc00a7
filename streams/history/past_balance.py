"""Past balances: an account's balance at an earlier time, from the history."""

from __future__ import annotations

from schemas.accounts import Account, Grant
from streams.clickhouse.client import ClickHouse
from streams.core.grants import burn_down
from streams.core.past import note_past
from streams.core.plans import PLANS, renewal_after
from streams.history.facts import AT, EFFECTIVE_AT, kind_in


def account_at(
    clickhouse: ClickHouse, project: str, at_ms: int, opened: tuple[int, int] | None = None
) -> Account | None:
    """A project's account as it was at a time, with its grants in burn-down order; None where it was not yet open.

    `opened` is what `opened_at` gave, for callers that have asked already.
    The account has its grants with their held credits, its plan, sign-up, renewal, whether it was closed, and its past
    up to then. Its name, keys, holds, items and auto-recharge are left out.
    """
    opened = opened or opened_at(clickhouse, project)
    if opened is None or opened[0] > at_ms:
        return None
    signed_up_at_ms, opened_offset = opened
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
    account = Account(
        project=project,
        name="",
        plan="free",
        allowance=0,
        signed_up_at_ms=signed_up_at_ms,
        renews_at_ms=renewal_after(signed_up_at_ms, at_ms),
        grants=grants,
        keys=[],
        opened_offset=opened_offset,
        last_offset=last[0],
        last_at_ms=last[1],
    )
    for what, changed_at_ms in _changes_until(clickhouse, project, at_ms):
        change(account, what, changed_at_ms)
    account.allowance = PLANS[account.plan].allowance
    return account


def change(account: Account, what: str, at_ms: int) -> None:
    """Change a project as a fact of its history says: `what` is the plan that it is on from then on, `closed` or
    `reopened`; any other changes nothing."""
    if what in PLANS and what != account.plan:
        note_past(account, at_ms)
        account.plan = what
    elif what in ("closed", "reopened"):
        note_past(account, at_ms)
        account.closed_at_ms = at_ms if what == "closed" else 0


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
        f"max(if({kind_in('grant')}, JSONExtractInt(metadata, 'expires_at_ms'), 0)), sumIf(cents, {kind_in('grant')} "
        "AND JSONHas(metadata, 'by_contract')) "
        "FROM facts "
        f"WHERE project = {{project:String}} AND grant_id != '' AND {EFFECTIVE_AT} <= {AT} "
        "GROUP BY grant_id ORDER BY min((offset, position))",
        {"project": project, "at": at_ms},
    )
    grants = []
    for grant_id, environment, granted, remaining, held, granted_at_ms, stated_end_ms, contract_cents in rows:
        kind = grant_id.partition("-")[0]
        # A bundle does not expire. Credits that an operator gave end when the grant says so; any other grant, one that
        # a correction made too, ends with its month.
        expires_at_ms = 0 if kind == "top_up" else stated_end_ms or renewal_after(signed_up_at_ms, granted_at_ms)
        terms = granted, remaining, granted_at_ms, expires_at_ms, held, contract_cents
        grants.append(Grant(grant_id, kind, environment, *terms))
    return sorted(grants, key=burn_down)


def plan_at(clickhouse: ClickHouse, project: str, at_ms: int) -> str:
    """The plan that a project was on at a time."""
    changes = _changes_until(clickhouse, project, at_ms)
    return [what for what, _ in changes if what in PLANS][-1] if changes else "free"


_PLAN_NAMES = ", ".join(f"'{name}'" for name in PLANS)


def _changes_until(clickhouse: ClickHouse, project: str, at_ms: int) -> list[tuple[str, int]]:
    """The changes of a project up to a time, its opening too, in order: each with the plan, `closed` or `reopened`, and
    when it came about."""
    # A change of plan that waits for the renewal is stated twice: when it is asked for, and when it comes about.
    rows = clickhouse.query(
        "SELECT reason, toUnixTimestamp64Milli(occurred_at) FROM facts "
        f"WHERE project = {{project:String}} AND {kind_in('project', 'plan')} "
        f"AND occurred_at <= booked_at AND occurred_at <= {AT} ORDER BY offset, position",
        {"project": project, "at": at_ms},
    )
    return [(row[0], row[1]) for row in rows]
