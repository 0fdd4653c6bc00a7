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
from streams.history.facts import AT, EFFECTIVE_AT, kind_in

# When each of some projects is asked about, in Unix milliseconds; and when and with which offset each was opened.
Times = Mapping[str, int]
Opened = Mapping[str, tuple[int, int]]


def account_at(clickhouse: ClickHouse, project: str, at_ms: int) -> Account | None:
    """A project's account as it was at a time; None where it was not yet open. `accounts_at` says what it has."""
    return accounts_at(clickhouse, {project: at_ms}).get(project)


def accounts_at(clickhouse: ClickHouse, times: Times, opened: Opened | None = None) -> dict[str, Account]:
    """The accounts of projects as they were, each at its time, with their grants in burn-down order; without those that
    were not yet open.

    `opened` is what `openings` gave, for callers that have asked already.
    An account has its grants with their held credits, its plan, sign-up, renewal, whether it was closed, and its past
    up to then. Its name, keys, holds, items and auto-recharge are left out.
    """
    opened = openings(clickhouse, list(times)) if opened is None else opened
    times = {project: at_ms for project, at_ms in times.items() if project in opened and opened[project][0] <= at_ms}
    if not times:
        return {}
    last = _last(clickhouse, times)
    grants = grants_of_all(clickhouse, times, opened)
    changes = _changes_until(clickhouse, times)
    accounts = {}
    for project, at_ms in times.items():
        signed_up_at_ms, opened_offset = opened[project]
        last_offset, last_at_ms = last[project]
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
            last_offset=last_offset,
            last_at_ms=last_at_ms,
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
    return grants_of_all(clickhouse, {project: at_ms}, {project: (signed_up_at_ms, 0)})[project]


def grants_of_all(clickhouse: ClickHouse, times: Times, opened: Opened) -> dict[str, list[Grant]]:
    """The grants that projects ever had, each as `grants_of` gives them for its time."""
    at, parameters = _asked_at(times)
    rows = clickhouse.query(
        "SELECT project, grant_id, any(environment), argMin(amount, (offset, position)), toInt64(sum(amount)), "
        f"toInt64(sum(held)), toUnixTimestamp64Milli(min({EFFECTIVE_AT})), "
        f"max(if({kind_in('grant')}, JSONExtractInt(metadata, 'expires_at_ms'), 0)), sumIf(cents, {kind_in('grant')} "
        "AND JSONHas(metadata, 'by_contract')) "
        "FROM facts "
        f"WHERE {_OF_PROJECTS} AND grant_id != '' AND {EFFECTIVE_AT} <= {at} "
        "GROUP BY project, grant_id ORDER BY project, min((offset, position))",
        parameters,
    )
    grants: dict[str, list[Grant]] = {project: [] for project in times}
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


def plan_at(clickhouse: ClickHouse, project: str, at_ms: int) -> str:
    """The plan that a project was on at a time."""
    changes = _changes_until(clickhouse, {project: at_ms})[project]
    return [what for what, _ in changes if what in PLANS][-1] if changes else "free"


_PLAN_NAMES = ", ".join(f"'{name}'" for name in PLANS)
_OF_PROJECTS = "project IN {projects:Array(String)}"


def _asked_at(times: Times) -> tuple[str, dict[str, Any]]:
    """SQL for the time at which each project is asked about, and the parameters of a question about them."""
    projects, each = list(times), list(times.values())
    if len(set(each)) == 1:
        return AT, {"projects": projects, "at": each[0]}
    at = "transform(project, {projects:Array(String)}, {times:Array(Int64)}, toInt64(0))"
    return f"fromUnixTimestamp64Milli({at}, 'UTC')", {"projects": projects, "times": each}


def _last(clickhouse: ClickHouse, times: Times) -> dict[str, tuple[int, int]]:
    """The highest offset and booking time that projects' facts have, up to the time of each."""
    at, parameters = _asked_at(times)
    rows = clickhouse.query(
        "SELECT project, toInt64(max(offset)), toUnixTimestamp64Milli(max(booked_at)) FROM facts "
        f"WHERE {_OF_PROJECTS} AND booked_at <= {at} GROUP BY project",
        parameters,
    )
    return {row[0]: (row[1], row[2]) for row in rows}


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
