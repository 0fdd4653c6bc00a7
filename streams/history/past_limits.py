"""Past limits: a project's limits at an earlier moment, and the requests of the minute before it, from the history.

Usage events that came by HTTP look like admissions here and are counted, though no limit counted them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.accounts import Account, LimitRaise, Limits
from streams.clickhouse.client import ClickHouse
from streams.core.booking import FACTS_PER_SLOT, parse_credits
from streams.core.limits import limits_of, over
from streams.core.windows import (
    WINDOW_MS,
    add_cost,
    advance,
    cost_left,
    cost_retry_at_ms,
    count_requests,
    request_retry_at_ms,
    rested,
)
from streams.history.facts import USED, Mark, kind_in
from streams.history.past_balance import plan_at

# The facts of requests that the window let through. A refusal by the window bears no price book.
_PASSED = (
    f"key_id != '' AND ({kind_in('request')} OR {USED} "
    f"OR ({kind_in('refusal')} AND source != '' AND (reason != 'rate_limited' OR price_version != '')))"
)

# A window with many requests counts some as later than they came, by less than a second. Which, depends on what it held
# when they came, and so a little on what came minutes ago: five of them leave hardly a wait that differs.
_REPLAYED_MS = 5 * WINDOW_MS
_BOUNDLESS = Limits(*[1 << 62] * 3)


@dataclass(frozen=True, slots=True)
class PastLimits:
    """The limits in force at a moment and where they came from. `shadow` has the limits on trial, laid over those in
    force."""

    plan: str
    contract: Limits | None
    raises: list[str]
    in_force: Limits
    shadow: Limits | None


@dataclass(frozen=True, slots=True)
class PastMinute:
    """The requests that passed in the 60 seconds before a moment, and the microcredits that they cost or held.

    `retry_after_ms` is how long after the moment the refused request would have passed; 0 where the history does not
    show why it was refused.
    """

    requests: int
    cost: int
    retry_after_ms: int


def limits_at(clickhouse: ClickHouse, project: str, mark: Mark, at_ms: int) -> PastLimits:
    """The limits of a project just before the fact at `mark`, which was booked at `at_ms`."""
    rows = clickhouse.query(
        f"SELECT reason, metadata FROM facts WHERE project = {{project:String}} AND {kind_in('limits')} "
        "AND (offset, position) < ({offset:UInt64}, {position:UInt32}) ORDER BY offset, position",
        {"project": project, "offset": mark[0], "position": mark[1]},
    )
    contract: Limits | None = None
    shadow: Limits | None = None
    raises: dict[str, Limits] = {}
    for reason, metadata in rows:
        said = msgspec.json.decode(metadata) if metadata else {}
        limits = _limits(said)
        match reason:
            case "set":
                contract = limits
            case "shadow":
                shadow = limits
            case "raise_begun" if limits is not None:
                raises[said["raise_id"]] = limits
            case "raise_ended":
                raises.pop(said["raise_id"], None)
    plan = plan_at(clickhouse, project, at_ms)
    account = Account(
        project=project,
        name="",
        plan=plan,
        allowance=0,
        signed_up_at_ms=0,
        renews_at_ms=0,
        grants=[],
        keys=[],
        opened_offset=0,
        last_offset=0,
        last_at_ms=at_ms,
        limits=contract,
    )
    account.raises = [LimitRaise(name, limits, 0, 0, is_on=True) for name, limits in raises.items()]
    in_force = limits_of(account)
    return PastLimits(plan, contract, list(raises), in_force, None if shadow is None else over(in_force, shadow))


def minute_before(
    clickhouse: ClickHouse, project: str, mark: Mark, at_ms: int, limits: Limits, cost: int | None = None
) -> PastMinute:
    """The minute before the fact at `mark`, counted as the window counts it. `cost` is the cost of a request that the
    ceiling refused, in microcredits, or None where the window refused it."""
    rows = clickhouse.query(
        "SELECT at, count(), toInt64(sum(cost)) FROM "
        "(SELECT toUnixTimestamp64Milli(min(booked_at)) AS at, "
        f"sumIf(-amount, {kind_in('charge')}) + sumIf(held, {kind_in('hold')}) AS cost FROM facts "
        "WHERE project = {project:String} AND booked_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC') "
        f"AND (offset, position) < ({{offset:UInt64}}, {{position:UInt32}}) AND {_PASSED} "
        f"GROUP BY offset, intDiv(position, {FACTS_PER_SLOT})) GROUP BY at ORDER BY at",
        {"project": project, "since": at_ms - _REPLAYED_MS, "offset": mark[0], "position": mark[1]},
    )
    window = rested(at_ms - _REPLAYED_MS)
    for came_ms, requests, spent in rows:
        # All of them passed, whatever the limits were then.
        count_requests(window, _BOUNDLESS, came_ms, requests)
        add_cost(window, came_ms, spent)
    advance(window, limits, at_ms)
    retry_at_ms = 0
    if cost is None:
        # The project had no burst tokens left, or the request would have passed.
        no_burst = Limits(limits.requests_per_minute, limits.requests_per_minute, limits.cost_ceiling)
        retry_at_ms = request_retry_at_ms(window, no_burst)
    elif cost_left(window, limits) < cost <= limits.cost_ceiling:
        retry_at_ms = cost_retry_at_ms(window, limits, cost)
    return PastMinute(window.requests, window.cost, max(0, retry_at_ms - at_ms))


def _limits(said: dict[str, Any]) -> Limits | None:
    """The limits that a `limits` fact names, or None where it names none."""
    limits = Limits(
        said.get("requests_per_minute", 0),
        said.get("burst", 0),
        parse_credits(said["cost_ceiling"], "cost_ceiling") if "cost_ceiling" in said else 0,
    )
    return limits if limits != Limits(0, 0, 0) else None
