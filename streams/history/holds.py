"""Settled holds of a project: those that were captured, were released or have expired, a page at a time.

A hold is settled by the facts of one decision: a capture's are charges, and a release of what it left; the others' are
releases, which name the hold. A charge does not: its hold is the one that was placed for its event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from schemas.facts import entry_id
from schemas.http.common import EnvironmentName
from schemas.http.holds import HoldState, SettledHold
from schemas.times import in_utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import FACTS_PER_SLOT, format_credits
from streams.history.cursor import encode_cursor, looked_for, newest_of
from streams.history.facts import kind_in

_CAPTURED = f"({kind_in('charge')} AND reason = 'captured')"
_SETTLES = f"({kind_in('release')} OR {_CAPTURED})"
_PLACES = f"({kind_in('hold')} AND reason = '')"
_NOTED = "JSONExtractString(metadata, 'hold')"
_SLOT = f"intDiv(position, {FACTS_PER_SLOT})"
# What tells the holds apart that are settled in one decision: many may expire at once, and one is captured.
_KEY = f"partition, offset, {_SLOT}, reason, if({kind_in('release')} AND reason != 'captured', {_NOTED}, '')"
_MS = "toUnixTimestamp64Milli({})"
_UP_TO = "booked_at <= fromUnixTimestamp64Milli({last:Int64}, 'UTC')"
_OF_RECORDS = (
    f"project = {{project:String}} AND {_SETTLES} AND offset IN {{records:Array(UInt64)}} "
    f"AND booked_at >= fromUnixTimestamp64Milli({{first:Int64}}, 'UTC') AND {_UP_TO}"
)

_Key = tuple[int, int, int, str, str]


@dataclass(frozen=True, slots=True)
class SettledHoldsQuestion:
    """A question for one page of a project's settled holds, newest first: all of them, or those in this environment, of
    this state or customer, that were settled from `since` on and before `until`."""

    project: str
    limit: int
    cursor: str | None = None
    environment: EnvironmentName | None = None
    state: HoldState | None = None
    customer_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def sql(self, now: int | None = None, days: int = 1) -> tuple[str, dict[str, Any]]:
        """The query for which holds are on the page, and its parameters; `now` and `days` are as `newest_of` has them.
        Raises Rejection for a cursor that no page gave.

        It reads the newest facts first, in the order in which they lie, and ends where the page is full."""
        conditions, parameters = newest_of(self.since, self.until, self.cursor, now, days)
        conditions += ["project = {project:String}", _SETTLES]
        parameters |= {"project": self.project, "limit": self.limit + 1}
        for column, value in (("environment", self.environment), ("reason", self.state)):
            if value is not None:
                conditions.append(f"{column} = {{{column}:String}}")
                parameters[column] = value
        if self.customer_id is not None:
            # A release says nothing of the customer; what placed its hold does.
            placed = (
                "SELECT concat(toString(partition), '-', toString(offset), '-', toString(position)) FROM facts "
                f"WHERE project = {{project:String}} AND {_PLACES} AND customer_id = {{customer:String}}"
            )
            captured = f"({_CAPTURED} AND customer_id = {{customer:String}})"
            conditions.append(f"({captured} OR ({kind_in('release')} AND {_NOTED} IN ({placed})))")
            parameters["customer"] = self.customer_id
        return (
            f"SELECT {_KEY}, {_MS.format('booked_at')} FROM facts WHERE {' AND '.join(conditions)} "
            "ORDER BY booked_at DESC, partition DESC, offset DESC, position DESC "
            f"LIMIT 1 BY {_KEY} LIMIT {{limit:UInt32}}",
            parameters,
        )


class _Settled(NamedTuple):
    """The facts that settled one hold, in one row; `position` is that of the first, amounts are microcredits."""

    key: _Key
    position: int
    hold_id: str
    environment: EnvironmentName
    operation: str
    job_id: str
    source: str
    event_id: str
    occurred_ms: int
    price_version: str
    reason: str
    booked_at: datetime
    captured: int
    held: int

    @property
    def event(self) -> tuple[str, str, int]:
        """The source, id and time of the event that placed it, as its charges bear them."""
        return self.source, self.event_id, self.occurred_ms


class _Placed(NamedTuple):
    """The facts that placed a hold, in one row."""

    hold_id: str
    operation: str
    quantity: int
    source: str
    event_id: str
    occurred_ms: int
    customer_id: str
    booked_at: datetime


def settled_hold_page(clickhouse: ClickHouse, question: SettledHoldsQuestion) -> tuple[list[SettledHold], str | None]:
    """The settled holds of a page, and the cursor of the page after them, or None at the end."""
    found = looked_for(lambda now, days: clickhouse.query(*question.sql(now, days)), question.limit)
    shown = found[: question.limit]
    if not shown:
        return [], None
    times = [row[-1] for row in shown]
    settled = _settled(clickhouse, question.project, [_key_of(row) for row in shown], min(times), max(times))
    by_id, by_event = _placed(clickhouse, question.project, settled, min(times), max(times))
    holds = [_shown(each, by_id.get(each.hold_id) or by_event.get(each.event)) for each in settled]
    if len(found) <= question.limit:
        return holds, None
    partition, offset, *_ = settled[-1].key
    return holds, encode_cursor(min(times), partition, offset, settled[-1].position)


def _settled(clickhouse: ClickHouse, project: str, keys: Sequence[_Key], first_ms: int, last_ms: int) -> list[_Settled]:
    """The settled holds of these keys, in their order."""
    rows = clickhouse.query(
        f"SELECT {_KEY}, min(position), maxIf({_NOTED}, {kind_in('release')}), any(environment), "
        "argMin(operation, position), any(job_id), max(source), max(event_id), "
        f"maxIf({_MS.format('occurred_at')}, {_CAPTURED}), any(price_version), "
        f"maxIf(JSONExtractString(metadata, 'why'), {kind_in('release')}), any(booked_at), "
        f"toInt64(-sum(amount)), toInt64(-sum(held)) FROM facts WHERE {_OF_RECORDS} GROUP BY {_KEY}",
        _records(project, keys, first_ms, last_ms),
    )
    by_key = {each.key: each for each in (_Settled(_key_of(row), *row[5:]) for row in rows)}
    return [by_key[key] for key in keys]


def _placed(
    clickhouse: ClickHouse, project: str, settled: Sequence[_Settled], first_ms: int, last_ms: int
) -> tuple[dict[str, _Placed], dict[tuple[str, str, int], _Placed]]:
    """The placed holds among which the settled ones are: by the hold's id, and by the event."""
    rows = clickhouse.query(
        "SELECT partition, offset, min(position), argMin(operation, position), argMin(quantity, position), "
        f"any(source), any(event_id), any({_MS.format('occurred_at')}), any(customer_id), any(booked_at) "
        f"FROM facts WHERE project = {{project:String}} AND {_PLACES} AND {_UP_TO} "
        # By its index a hold is found among all that was decided before it was settled.
        f"AND job_id IN (SELECT job_id FROM facts WHERE {_OF_RECORDS}) AND (offset IN {{placed:Array(UInt64)}} "
        "OR (source, event_id, occurred_at) IN "
        f"(SELECT source, event_id, occurred_at FROM facts WHERE {_CAPTURED} AND {_OF_RECORDS})) "
        f"GROUP BY partition, offset, {_SLOT} ORDER BY partition, offset, min(position)",
        _records(project, [each.key for each in settled], first_ms, last_ms)
        | {"placed": sorted({int(each.hold_id.split("-")[1]) for each in settled if each.hold_id})},
    )
    found = [_Placed(entry_id(*row[:3]), *row[3:]) for row in rows]
    # Of an event whose job was queued again after a release, the last is captured.
    by_event = {(each.source, each.event_id, each.occurred_ms): each for each in found}
    return {each.hold_id: each for each in found}, by_event


def _records(project: str, keys: Sequence[_Key], first_ms: int, last_ms: int) -> dict[str, Any]:
    """The parameters of `_OF_RECORDS`."""
    return {"project": project, "records": sorted({key[1] for key in keys}), "first": first_ms, "last": last_ms}


def _shown(settled: _Settled, placed: _Placed | None) -> SettledHold:
    state: Any = settled.key[3]
    return SettledHold(
        hold_id=placed.hold_id if placed is not None else settled.hold_id,
        job_id=settled.job_id,
        environment=settled.environment,
        operation=placed.operation if placed is not None else settled.operation,
        quantity=placed.quantity if placed is not None else 0,
        state=state,
        credits=format_credits(settled.held),
        captured=format_credits(settled.captured),
        given_back=format_credits(settled.held - settled.captured),
        price_version=settled.price_version,
        source=placed.source if placed is not None else settled.source,
        event_id=placed.event_id if placed is not None else settled.event_id,
        customer_id=placed.customer_id if placed is not None else "",
        reason=settled.reason,
        held_at=in_utc(placed.booked_at) if placed is not None else None,
        settled_at=in_utc(settled.booked_at),
    )


def _key_of(row: Sequence[Any]) -> _Key:
    partition, offset, slot, reason, hold_id = row[:5]
    return partition, offset, slot, reason, hold_id
