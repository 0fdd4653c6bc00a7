"""Past limits: a project's limits at an earlier moment, and the requests of the minute before it, from the history.

Usage events that came by HTTP look like admissions here and are counted, though no limit counted them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.accounts import Account, Grant, LimitRaise, Limits, Window
from schemas.events import Usage
from schemas.facts import LIMITED_AT_EDGE, Fact
from streams.clickhouse.client import ClickHouse
from streams.core.booking import FACTS_PER_SLOT, parse_credits
from streams.core.ledger import reschedule
from streams.core.limits import limits_of, over
from streams.core.plans import PLANS
from streams.core.price_list import Prices
from streams.core.projects import NEVER_MS
from streams.core.waits import passes_at_ms
from streams.core.windows import (
    TOKEN,
    WINDOW_MS,
    add_cost,
    advance,
    cost_left,
    count_requests,
    request_retry_at_ms,
    rested,
)
from streams.history.facts import USED, Mark, kind_in
from streams.history.receipt_figures import cost_of

# The facts of requests that the window let through. A refusal by the window bears no price book.
_PASSED = (
    f"key_id != '' AND ({kind_in('request')} OR {USED} "
    f"OR ({kind_in('refusal')} AND source != '' AND (reason != 'rate_limited' OR price_version != '')))"
)

# A window with many requests counts some as later than they came, by less than a second. Which, depends on what it held
# when they came, and so a little on what came minutes ago: five of them leave hardly a wait that differs.
_REPLAYED_MS = 5 * WINDOW_MS
_PLENTY = 1 << 62
_BOUNDLESS = Limits(_PLENTY, 2 * _PLENTY, _PLENTY)


@dataclass(frozen=True, slots=True)
class PastLimits:
    """The limits in force at a moment and where they came from. `shadow` has the limits on trial, laid over those in
    force. `account` has what decides on limits, planned raises among it; `changes` are the limits that held, each with
    the time from which on."""

    plan: str
    contract: Limits | None
    raises: list[str]
    in_force: Limits
    shadow: Limits | None
    account: Account
    changes: list[tuple[int, Limits]]


@dataclass(frozen=True, slots=True)
class PastMinute:
    """The requests that passed in the 60 seconds before a moment, and the microcredits that they cost or held.

    `retry_after_ms` is how long after the moment the refused request would have passed, had it been paid for; 0 where
    the history does not show why it was refused.
    """

    requests: int
    cost: int
    retry_after_ms: int


def limits_at(clickhouse: ClickHouse, project: str, mark: Mark, at_ms: int) -> PastLimits:
    """The limits of a project just before the fact at `mark`, which was booked at `at_ms`."""
    account = Account(
        project=project,
        name="",
        plan="free",
        allowance=0,
        signed_up_at_ms=0,
        renews_at_ms=NEVER_MS,
        grants=[],
        keys=[],
        opened_offset=0,
        last_offset=0,
        last_at_ms=at_ms,
    )
    # A change of plan that waits for the renewal is stated twice: when it is asked for, and when it comes about.
    rows = clickhouse.query(
        "SELECT concat(toString(partition), '-', toString(offset), '-', toString(position)), reason, metadata, "
        f"toUnixTimestamp64Milli(occurred_at) FROM facts WHERE project = {{project:String}} AND ({kind_in('limits')} "
        f"OR ({kind_in('project', 'plan')} AND occurred_at <= booked_at)) "
        "AND (offset, position) < ({offset:UInt64}, {position:UInt32}) ORDER BY offset, position",
        {"project": project, "offset": mark[0], "position": mark[1]},
    )
    shadow: Limits | None = None
    raises: dict[str, LimitRaise] = {}
    changes: list[tuple[int, Limits]] = []
    for fact_id, reason, metadata, changed_ms in rows:
        said = msgspec.json.decode(metadata) if metadata else {}
        limits = _limits(said)
        match reason:
            case "set":
                account.limits = limits
            case "shadow":
                shadow = limits
            case "raise_planned" if limits is not None:
                raises[fact_id] = LimitRaise(fact_id, limits, said["starts_at_ms"], said["ends_at_ms"])
            case "raise_begun" if limits is not None:
                name = said["raise_id"]
                raises.setdefault(name, LimitRaise(name, limits, 0, NEVER_MS)).is_on = True
            case "raise_ended":
                raises.pop(said["raise_id"], None)
            case plan if plan in PLANS:
                account.plan = plan
        account.raises = list(raises.values())
        changes.append((changed_ms, limits_of(account)))
    reschedule(account)
    in_force = limits_of(account)
    return PastLimits(
        account.plan,
        account.limits,
        [each.id for each in account.raises if each.is_on],
        in_force,
        None if shadow is None else over(in_force, shadow),
        account,
        changes,
    )


def minute_before(clickhouse: ClickHouse, prices: Prices, past: PastLimits, mark: Mark, fact: Fact) -> PastMinute:
    """The minute before the fact at `mark`, counted as the window counts it, and how long a request waits that `fact`
    says was limited."""
    at_ms, limits = fact.booked_at_ms, past.in_force
    rows = clickhouse.query(
        "SELECT at, count(), toInt64(sum(cost)) FROM "
        "(SELECT toUnixTimestamp64Milli(min(booked_at)) AS at, "
        f"sumIf(-amount, {kind_in('charge')}) + sumIf(held, {kind_in('hold')}) AS cost FROM facts "
        "WHERE project = {project:String} AND booked_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC') "
        f"AND (offset, position) < ({{offset:UInt64}}, {{position:UInt32}}) AND {_PASSED} "
        f"GROUP BY offset, intDiv(position, {FACTS_PER_SLOT})) GROUP BY at ORDER BY at",
        {"project": fact.project, "since": at_ms - _REPLAYED_MS, "offset": mark[0], "position": mark[1]},
    )
    window = rested(at_ms - _REPLAYED_MS)
    held, changes = limits, deque(past.changes)
    for came_ms, requests, spent in [*rows, (at_ms, 0, 0)]:
        while changes and changes[0][0] <= came_ms:
            changed_ms, changed = changes.popleft()
            advance(window, held, changed_ms)
            held = changed
        passed = count_requests(window, held, came_ms, requests)
        # All of them passed, whatever this replay says.
        count_requests(window, _BOUNDLESS, came_ms, requests - passed)
        add_cost(window, came_ms, spent)
    requests, cost = window.requests, window.cost
    return PastMinute(requests, cost, _wait_ms(prices, past.account, window, limits, fact) if _waits(fact) else 0)


def _waits(fact: Fact) -> bool:
    return fact.kind == "refusal" and fact.reason in ("rate_limited", LIMITED_AT_EDGE)


def _wait_ms(prices: Prices, account: Account, window: Window, limits: Limits, fact: Fact) -> int:
    """How long a limited request waited: for the window, and for the ceiling where it costs something."""
    at_ms = fact.booked_at_ms
    if fact.price_version:
        # The ceiling refused it: the window had let it through, and counted it.
        count_requests(window, limits, at_ms, 1)
        if cost_left(window, limits) >= (cost_of(prices, fact) or 0):
            return 0
    else:
        # The project had no burst tokens left, or the request would have passed.
        window.spent = max(0, limits.burst - limits.requests_per_minute) * TOKEN
        if not request_retry_at_ms(window, limits):
            return 0
    account.window = window
    account.grants = [Grant("", "top_up", fact.environment, _PLENTY, _PLENTY, 0, 0)]
    usage = None
    if fact.source:
        usage = Usage(
            project=fact.project,
            dedup_hash=b"",
            source=fact.source,
            event_id=fact.event_id,
            operation=fact.operation,
            quantity=fact.quantity,
            surcharge=fact.surcharge,
            environment=fact.environment,
            occurred_at_ms=fact.occurred_at_ms,
            job_id="",
            key_id="",
            metadata="",
        )
    return max(0, passes_at_ms(account, prices, at_ms, usage) - at_ms)


def _limits(said: dict[str, Any]) -> Limits | None:
    """The limits that a `limits` fact names, or None where it names none."""
    limits = Limits(
        said.get("requests_per_minute", 0),
        said.get("burst", 0),
        parse_credits(said["cost_ceiling"], "cost_ceiling") if "cost_ceiling" in said else 0,
    )
    return limits if limits != Limits(0, 0, 0) else None
