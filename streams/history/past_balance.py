"""Past balances: an account's balance at an earlier time, from the history. Questions are about many projects at once,
since each takes the engine some ten milliseconds, however little it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.accounts import Account, Grant
from streams.clickhouse.client import ClickHouse
from streams.core.grants import burn_down
from streams.core.past import note_past
from streams.core.plans import PLANS, renewal_after
from streams.history.facts import AT, EFFECTIVE_AT, UNTIL, kind_in

# When each of some projects is asked about, in Unix milliseconds; and when and with which offset each was opened.
Times = Mapping[str, int]
Opened = Mapping[str, tuple[int, int]]


def account_at(clickhouse: ClickHouse, project: str, at_ms: int) -> Account | None:
    """A project's account as it was at a time, as `accounts_at` gives it, and with what it was last changed by; None
    where it was not yet open."""
    opened = openings(clickhouse, [project])
    if project not in opened or opened[project][0] > at_ms:
        return None
    times = {project: at_ms}
    account = accounts_at(clickhouse, times, opened, grants_at(clickhouse, times, opened))[project]
    ((account.last_offset, account.last_at_ms),) = clickhouse.query(
        "SELECT toInt64(max(offset)), toUnixTimestamp64Milli(max(booked_at)) FROM facts "
        f"WHERE project = {{project:String}} AND booked_at <= {AT}",
        {"project": project, "at": at_ms},
    )
    return account


def accounts_at(
    clickhouse: ClickHouse, times: Times, opened: Opened, grants: Mapping[str, Sequence[Grant]]
) -> dict[str, Account]:
    """The accounts of projects as they were, each at its time, when it was open. `grants` are theirs by then
    (`grants_at`).

    An account has its grants with their held credits, in burn-down order, its plan, sign-up, renewal, whether it was
    closed, and its past up to then. Its name, keys, holds, items, auto-recharge and last change are left out.
    """
    changes = _changes_until(clickhouse, times)
    accounts = {}
    for project, at_ms in times.items():
        signed_up_at_ms, opened_offset = opened[project]
        account = Account(
            project=project,
            name="",
            plan="free",
            allowance=0,
            signed_up_at_ms=signed_up_at_ms,
            renews_at_ms=renewal_after(signed_up_at_ms, at_ms),
            grants=[grant for grant in grants[project] if grant.remaining or grant.expires_at_ms > at_ms],
            keys=[],
            opened_offset=opened_offset,
            last_offset=opened_offset,
            last_at_ms=signed_up_at_ms,
        )
        for what, changed_at_ms in changes[project]:
            change(account, what, changed_at_ms)
        account.allowance = PLANS[account.plan].allowance
        accounts[project] = account
    return accounts


def change(account: Account, what: str, at_ms: int) -> None:
    """Change a project as a fact of its history says: `what` is the plan that it is on from then on, `closed` or
    `reopened`; any other changes nothing."""
    if what in PLANS and what != account.plan:
        note_past(account, at_ms)
        account.plan = what
    elif what in ("closed", "reopened"):
        note_past(account, at_ms)
        account.closed_at_ms = at_ms if what == "closed" else 0


def openings(clickhouse: ClickHouse, projects: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The (Unix milliseconds, intake offset) that projects were opened at, without those that were not opened."""
    rows = clickhouse.query(
        "SELECT project, toUnixTimestamp64Milli(argMin(booked_at, offset)), min(offset) FROM facts "
        f"WHERE {_OF_PROJECTS} AND {kind_in('project')} AND reason IN ({_PLAN_NAMES}) GROUP BY project",
        {"projects": projects},
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def grants_of(clickhouse: ClickHouse, project: str, at_ms: int, signed_up_at_ms: int) -> list[Grant]:
    """The grants that a project ever had, as they were at a time, in burn-down order; used up and expired ones too."""
    return grants_at(clickhouse, {project: at_ms}, {project: (signed_up_at_ms, 0)})[project]


def grants_at(clickhouse: ClickHouse, times: Times, opened: Opened) -> dict[str, list[Grant]]:
    """The grants that projects ever had, as they were at the time of each, as `grants_of` gives them."""
    at, parameters = _asked_at(times)
    return _grants(clickhouse, list(times), f"{EFFECTIVE_AT} <= {at}", parameters, opened)


def grants_made(
    clickhouse: ClickHouse, projects: Sequence[str], since_ms: int, until_ms: int, opened: Opened
) -> dict[str, list[Grant]]:
    """The grants that projects were given in (since, until], by grants or corrections, with their terms; what remains
    of them is not told. Older grants may be among them, with other terms."""
    # A grant's first fact is its grant, or the correction that made it.
    made = f"{kind_in('grant', 'correction')} AND booked_at > {AT} AND {EFFECTIVE_AT} <= {UNTIL}"
    return _grants(clickhouse, projects, made, {"at": since_ms, "until": until_ms}, opened)


def plan_at(clickhouse: ClickHouse, project: str, at_ms: int) -> str:
    """The plan that a project was on at a time."""
    changes = _changes_until(clickhouse, {project: at_ms})[project]
    return [what for what, _ in changes if what in PLANS][-1] if changes else "free"


_PLAN_NAMES = ", ".join(f"'{name}'" for name in PLANS)
_OF_PROJECTS = "project IN {projects:Array(String)}"


def _asked_at(times: Times) -> tuple[str, dict[str, Any]]:
    """SQL for the time at which each project is asked about, and the parameters of a question about them."""
    projects, each = list(times), list(times.values())
    if len(set(each)) < 2:
        return AT, {"projects": projects, "at": max(each, default=0)}
    at = "transform(project, {projects:Array(String)}, {times:Array(Int64)}, toInt64(0))"
    return f"fromUnixTimestamp64Milli({at}, 'UTC')", {"projects": projects, "times": each}


def _grants(
    clickhouse: ClickHouse, projects: Sequence[str], condition: str, parameters: dict[str, Any], opened: Opened
) -> dict[str, list[Grant]]:
    rows = clickhouse.query(
        "SELECT project, grant_id, any(environment), argMin(amount, (offset, position)), toInt64(sum(amount)), "
        f"toInt64(sum(held)), toUnixTimestamp64Milli(min({EFFECTIVE_AT})), "
        f"max(if({kind_in('grant')}, JSONExtractInt(metadata, 'expires_at_ms'), 0)), sumIf(cents, {kind_in('grant')} "
        "AND JSONHas(metadata, 'by_contract')) "
        "FROM facts "
        f"WHERE {_OF_PROJECTS} AND grant_id != '' AND {condition} "
        "GROUP BY project, grant_id ORDER BY project, min((offset, position))",
        parameters | {"projects": projects},
    )
    grants: dict[str, list[Grant]] = {project: [] for project in projects}
    for project, grant_id, environment, granted, remaining, held, granted_at_ms, stated_end_ms, contract_cents in rows:
        kind = grant_id.partition("-")[0]
        # A bundle does not expire. Credits that an operator gave end when the grant says so; any other grant, one that
        # a correction made too, ends with its month.
        expires_at_ms = 0 if kind == "top_up" else stated_end_ms or renewal_after(opened[project][0], granted_at_ms)
        terms = granted, remaining, granted_at_ms, expires_at_ms, held, contract_cents
        grants[project].append(Grant(grant_id, kind, environment, *terms))
    for of_one in grants.values():
        of_one.sort(key=burn_down)
    return grants


def _changes_until(clickhouse: ClickHouse, times: Times) -> dict[str, list[tuple[str, int]]]:
    """The changes of projects up to the time of each, their openings too, in order: each with the plan, `closed` or
    `reopened`, and when it came about."""
    at, parameters = _asked_at(times)
    # A change of plan that waits for the renewal is stated twice: when it is asked for, and when it comes about.
    rows = clickhouse.query(
        "SELECT project, reason, toUnixTimestamp64Milli(occurred_at) FROM facts "
        f"WHERE {_OF_PROJECTS} AND {kind_in('project', 'plan')} "
        f"AND occurred_at <= booked_at AND occurred_at <= {at} ORDER BY project, offset, position",
        parameters,
    )
    changes: dict[str, list[tuple[str, int]]] = {project: [] for project in times}
    for project, what, changed_at_ms in rows:
        changes[project].append((what, changed_at_ms))
    return changes
