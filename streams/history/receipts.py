"""Receipts: why a decision went as it did, from the history and the price books alone.

An intake record may first have booked what was due by then, such as a renewal; those facts have an earlier time and are
told apart by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any

from schemas.facts import GRANT_ID, PLACE_ID, Fact, entry_id
from schemas.http.receipts import (
    DEAD_LETTERS_SHOWN_MAX,
    DECISIONS_SHOWN_MAX,
    BookedWith,
    DecisionSummary,
    EventReceipts,
    Receipt,
    ReceiptEntry,
    ReceiptInputs,
    ReceiptLimits,
    RefusalReason,
    RefusedEvent,
)
from schemas.problems import CODES, Rejection
from schemas.times import in_utc, utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import FACTS_PER_SLOT, format_credits
from streams.core.plans import PLANS
from streams.core.price_list import Prices
from streams.history.fact_words import code_of, note_of, outcome_of, seconds_of, use_text
from streams.history.facts import DECIDED, POLL_SECONDS, DecidedFacts, decisions, kind_in, marks
from streams.history.limit_words import limit_values, limits_text, some_limits
from streams.history.past_balance import plan_at
from streams.history.past_limits import PastLimits, PastMinute, limits_at, minute_before
from streams.history.receipt_figures import budgets_of, cost_of, grants_of, price_of
from streams.history.receipt_words import over_limits_text, summary_of

WAIT_SECONDS = 3.0
# History does not advance so far in that time: an id further ahead is none that anyone was told.
RECORDS_AHEAD_MAX = 100_000

_BITS = (16, 63, 32)

Ask = Callable[[Callable[[ClickHouse], Any]], Awaitable[Any]]


async def find_decision(
    ask: Ask, project: str | None, receipt_id: str, partitions: int, environment: str | None = None
) -> tuple[DecidedFacts, int]:
    """The decision that a fact belongs to, and the fact's position. What may yet come, in one of the `partitions` that
    there are, is waited for a little. `ask` has a thread answer a question to the history.

    With an `environment`, only facts of that one are there: a record may have booked things of another with it. A
    purchase of auto-recharge is explained by the decision that wanted it, a grant by the decision that granted it.
    Raises Rejection `unknown_receipt`, or `invalid_request` where several projects have a grant of that id.
    """
    unknown = Rejection("unknown_receipt", f"There is no decision {receipt_id[:80]!r}")
    if GRANT_ID.fullmatch(receipt_id):
        grant_id = receipt_id
        receipt_id = await ask(lambda history: _granted_at(history, project, grant_id, environment))
    place = PLACE_ID.fullmatch(receipt_id)
    if place is None:
        raise unknown
    partition, offset, position = (int(part) for part in place.groups())
    if any(number >> bits for number, bits in zip((partition, offset, position), _BITS, strict=True)):
        raise unknown
    if partition >= partitions:
        raise unknown
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        mark, found = await ask(
            lambda history: (
                marks(history).get(partition, (-1, -1)),
                _at_place(history, project, partition, offset, position // FACTS_PER_SLOT, environment),
            )
        )
        if found is not None and any(fact.index == position for fact in found.facts):
            return found, position
        is_far = offset > mark[0] + RECORDS_AHEAD_MAX
        if mark >= (offset, position) or is_far or time.monotonic() > deadline:
            raise unknown
        await asyncio.sleep(POLL_SECONDS)


def receipt_of(clickhouse: ClickHouse, prices: Prices, decision: DecidedFacts, position: int) -> Receipt:
    """The receipt of the part of a decision that the fact at `position` belongs to."""
    parts = _parts(decision.facts)
    facts = next(part for part in parts if any(fact.index == position for fact in part))
    first = facts[0]
    head = next((fact for fact in facts if fact.source), first)
    limits, minute = _limits(clickhouse, prices, facts)
    refusal = _refusal(clickhouse, prices, facts, limits, minute)
    hold_id = _hold_id(clickhouse, decision.partition, facts)
    first_decision = _first_decision(clickhouse, head) if head.kind == "duplicate" else None
    before, after = budgets_of(clickhouse, facts)
    if refusal is not None and refusal.code == "out_of_credits" and after is not None:
        refusal.available = after.available
        if refusal.needed is not None:
            refusal.detail = (
                f"{use_text(head)} costs {refusal.needed} credits; {after.available} "
                f"{'was' if after.available == '1' else 'were'} available"
            )
    return Receipt(
        id=entry_id(decision.partition, first.offset, first.index),
        project=first.project,
        outcome=outcome_of(facts),
        summary=summary_of(prices, facts, refusal, hold_id, first_decision),
        shadow=_shadow(facts, limits),
        limits=None if limits is None else _limits_shown(limits, minute),
        inputs=_inputs(head),
        price=price_of(prices, facts),
        grants=grants_of(facts),
        before=before,
        after=after,
        refusal=refusal,
        hold_id=hold_id,
        first_decision=first_decision,
        partition=decision.partition,
        offset=first.offset,
        entries=entries_of(decision.partition, facts),
        booked_with=[
            BookedWith(
                outcome=outcome_of(part),
                summary=summary_of(prices, part, None, _hold_in(part), None),
                due_at=utc(part[0].occurred_at_ms),
                entries=entries_of(decision.partition, part),
            )
            for part in parts
            if part is not facts
        ],
    )


def receipts_of_event(
    clickhouse: ClickHouse,
    prices: Prices,
    project: str | None,
    event_id: str,
    source: str | None,
    is_admin: bool,
    environment: str | None = None,
) -> EventReceipts:
    """The decisions on an event id, and, for an admin, why events of that id were not accepted."""
    found, is_complete = decisions_on_event(clickhouse, event_id, source, project, environment)
    return EventReceipts(
        event_id=event_id,
        source=source,
        decisions=decision_summaries(clickhouse, prices, found),
        dead_letters=dead_letters_of_event(clickhouse, event_id, source, project, True) if is_admin else None,
        is_complete=is_complete,
    )


def decisions_on_event(
    clickhouse: ClickHouse, event_id: str, source: str | None, project: str | None, environment: str | None
) -> tuple[list[DecidedFacts], bool]:
    """The decisions on an event id, the oldest first, with the releases of its holds; and whether they are all. None
    stands for any source, project or environment."""
    conditions = ["event_id = {event:String}"]
    parameters: dict[str, Any] = {"event": event_id}
    for column, value in (("project", project), ("source", source), ("environment", environment)):
        if value is not None:
            conditions.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    found = decisions(clickhouse, " AND ".join(conditions), parameters, DECISIONS_SHOWN_MAX + 1)
    is_complete = sum(len(each.facts) for each in found) <= DECISIONS_SHOWN_MAX
    # A release does not bear the event of its hold, only the hold's id.
    holds = [_id_of(each) for each in found if each.facts[0].kind == "hold"]
    if holds:
        released = decisions(
            clickhouse,
            f"project = {{project:String}} AND {kind_in('release')} AND JSONExtractString(metadata, 'hold') IN "
            "{holds:Array(String)}",
            {"project": found[0].facts[0].project, "holds": holds},
            DECISIONS_SHOWN_MAX,
        )
        places = {(each.partition, each.place) for each in found}
        found += [each for each in released if (each.partition, each.place) not in places]
    found.sort(key=lambda each: (each.facts[0].booked_at_ms, each.place))
    return found, is_complete


def decision_summaries(clickhouse: ClickHouse, prices: Prices, found: Sequence[DecidedFacts]) -> list[DecisionSummary]:
    """Sum up decisions, each in a sentence."""
    return [
        DecisionSummary(
            id=_id_of(each),
            project=each.facts[0].project,
            outcome=outcome_of(each.facts),
            summary=summary_of(
                prices,
                each.facts,
                _refusal(clickhouse, prices, each.facts, *_limits(clickhouse, prices, each.facts)),
                _hold_in(each.facts),
                None,
            ),
            environment=each.facts[0].environment,
            amount=format_credits(sum(fact.amount for fact in each.facts)),
            booked_at=utc(each.facts[0].booked_at_ms),
        )
        for each in found
    ]


def entries_of(partition: int, facts: Sequence[Fact]) -> list[ReceiptEntry]:
    """Show facts as the entries of a receipt."""
    return [
        ReceiptEntry(
            id=entry_id(partition, fact.offset, fact.index),
            kind=fact.kind,
            environment=fact.environment,
            operation=fact.operation,
            quantity=fact.quantity,
            amount=format_credits(fact.amount),
            held=format_credits(fact.held),
            balance=format_credits(fact.balance),
            grant_id=fact.grant_id,
            reason=fact.reason,
            cents=fact.cents,
        )
        for fact in facts
    ]


def _granted_at(clickhouse: ClickHouse, project: str | None, grant_id: str, environment: str | None) -> str:
    """The id of the fact that brought a grant, or "". Raises Rejection."""
    condition = "AND project = {project:String} " if project is not None else ""
    condition += "AND environment = {environment:String} " if environment is not None else ""
    rows = clickhouse.query(
        "SELECT argMin((partition, offset, position), (offset, position)) FROM facts "
        f"WHERE grant_id = {{grant:String}} {condition}GROUP BY project LIMIT 2",
        {"grant": grant_id, "project": project or "", "environment": environment or ""},
    )
    if len(rows) > 1:
        raise Rejection("invalid_request", f"More than one project has a grant {grant_id!r}; name yours", "project")
    return entry_id(*rows[0][0]) if rows else ""


def _at_place(
    clickhouse: ClickHouse, project: str | None, partition: int, offset: int, slot: int, environment: str | None
) -> DecidedFacts | None:
    condition = (
        "partition = {partition:UInt16} AND offset = {offset:UInt64} AND position >= {first:UInt32} "
        "AND position < {end:UInt32}"
    )
    first = slot * FACTS_PER_SLOT
    parameters: dict[str, Any] = {"partition": partition, "offset": offset, "first": first}
    parameters["end"] = first + FACTS_PER_SLOT
    if project is not None:
        condition = "project = {project:String} AND " + condition
        parameters["project"] = project
    if environment is not None:
        condition += " AND environment = {environment:String}"
        parameters["environment"] = environment
    found = decisions(clickhouse, condition, parameters)
    return found[0] if found else None


def _parts(facts: Sequence[Fact]) -> list[list[Fact]]:
    """Split the facts of a decision: those of time, by when they were due, and last those of the event or command
    itself."""

    def due_at_ms(fact: Fact) -> int:
        return 0 if fact.source or fact.occurred_at_ms >= fact.booked_at_ms else fact.occurred_at_ms

    return [list(part) for _, part in groupby(facts, key=due_at_ms)]


def _refusal(
    clickhouse: ClickHouse,
    prices: Prices,
    facts: Sequence[Fact],
    limits: PastLimits | None,
    minute: PastMinute | None,
) -> RefusalReason | None:
    fact = next((fact for fact in facts if fact.kind == "refusal"), None)
    if fact is None or outcome_of(facts) not in ("refused", "month unpaid"):
        return None
    code = code_of(fact)
    status = CODES[code].status if code in CODES else 402
    book = prices.version(fact.price_version)
    refusal = RefusalReason(code=code, status=status, detail=CODES[code].title)
    match code:
        case "out_of_credits":
            needed = int(note_of(fact).get("unpaid_microcredits", 0)) if not fact.source else cost_of(prices, fact)
            if needed is not None:
                refusal.needed = format_credits(needed)
                refusal.detail = f"{use_text(fact)} costs {refusal.needed} credits; fewer were available"
        case "plan_required":
            refusal.plan = plan_at(clickhouse, fact.project, fact.occurred_at_ms)
            gates = book.plan_required if book is not None else {}
            gated = (each for each in (fact.operation, fact.surcharge) if each in gates)
            operation = max(gated, key=lambda each: PLANS[gates[each]].rank, default=fact.operation)
            refusal.needed_plan = gates.get(operation)
            needs = refusal.needed_plan or "higher"
            refusal.detail = f"{operation} needs the {needs} plan or a higher one; this project was on {refusal.plan}"
        case "rate_limited" | "over_cost_ceiling" if limits is not None and minute is not None:
            refusal.plan = limits.plan
            refusal.detail = over_limits_text(prices, fact, limits.in_force, minute)
            if fact.price_version and (needed := cost_of(prices, fact)) is not None:
                refusal.needed = format_credits(needed)
        case "time_out_of_range":
            refusal.detail = f"{fact.operation} was used before the project was opened, or too long ago to judge"
        case "project_closed":
            refusal.detail = f"The project was closed when {fact.operation} was used"
        case "unknown_operation":
            refusal.detail = f"Price book {fact.price_version} has no price for {use_text(fact)}"
        case "too_many_holds":
            refusal.detail = "The project had as many open holds as it may have"
    return refusal


def _limits(
    clickhouse: ClickHouse, prices: Prices, facts: Sequence[Fact]
) -> tuple[PastLimits, PastMinute] | tuple[None, None]:
    """The limits that held for a decision, and the minute before it; (None, None) if it has nothing to do with limits.

    For a decision that changes limits, they are the limits from then on.
    """
    fact = next((fact for fact in facts if _is_about_limits(fact)), None)
    if fact is None:
        return None, None
    if fact.kind == "limits":
        fact = [each for each in facts if each.kind == "limits"][-1]
        mark = (fact.offset, fact.index + 1)
    else:
        mark = (facts[0].offset, facts[0].index)
    limits = limits_at(clickhouse, fact.project, mark, fact.booked_at_ms)
    return limits, minute_before(clickhouse, prices, limits, mark, fact)


def _is_about_limits(fact: Fact) -> bool:
    return fact.kind in ("request", "limits", "shadow") or (
        fact.kind == "refusal" and code_of(fact) in ("rate_limited", "over_cost_ceiling")
    )


def _limits_shown(limits: PastLimits, minute: PastMinute | None) -> ReceiptLimits:
    assert minute is not None
    return ReceiptLimits(
        plan=limits.plan,
        contract=None if limits.contract is None else some_limits(limits.contract),
        raises=limits.raises,
        in_force=limit_values(limits.in_force),
        shadow=None if limits.shadow is None else limit_values(limits.shadow),
        requests_before=minute.requests,
        credits_before=format_credits(minute.cost),
        retry_after_seconds=seconds_of(minute.retry_after_ms) if minute.retry_after_ms else None,
    )


def _shadow(facts: Sequence[Fact], limits: PastLimits | None) -> RefusalReason | None:
    """The refusal that the limits on trial would have given, or None."""
    fact = next((fact for fact in facts if fact.kind == "shadow"), None)
    if fact is None or limits is None:
        return None
    tried = f", {limits_text(limit_values(limits.shadow).model_dump())}," if limits.shadow is not None else ""
    detail = f"The limits on trial{tried} would have refused it"
    return RefusalReason(code=fact.reason, status=CODES[fact.reason].status, detail=detail)


def _hold_id(clickhouse: ClickHouse, partition: int, facts: Sequence[Fact]) -> str | None:
    """The id of the hold that a decision placed or resolved, or None."""
    if found := _hold_in(facts):
        return found
    head = facts[0]
    if head.kind == "hold":
        return entry_id(partition, head.offset, head.index)
    if outcome_of(facts) != "captured":
        return None
    placed = decisions(
        clickhouse,
        f"project = {{project:String}} AND {kind_in('hold')} AND source = {{source:String}} "
        "AND event_id = {event:String} "
        "AND reason = '' AND (offset, position) < ({offset:UInt64}, {position:UInt32})",
        {
            "project": head.project,
            "source": head.source,
            "event": head.event_id,
            "offset": head.offset,
            "position": head.index,
        },
    )
    return _id_of(placed[-1]) if placed else None


def _hold_in(facts: Sequence[Fact]) -> str | None:
    return next(
        (
            note_of(fact).get("hold")
            for fact in facts
            if fact.kind == "release" or (fact.kind == "hold" and fact.reason == "extended")
        ),
        None,
    )


def _first_decision(clickhouse: ClickHouse, fact: Fact) -> str | None:
    found = decisions(
        clickhouse,
        "project = {project:String} AND source = {source:String} AND event_id = {event:String} "
        f"AND {DECIDED} AND offset < {{offset:UInt64}}",
        {"project": fact.project, "source": fact.source, "event": fact.event_id, "offset": fact.offset + 1},
        DECISIONS_SHOWN_MAX,
    )
    # A request that was refused did not run. If one ran later under that id, the duplicate repeats that one.
    decided = [each for each in found if each.facts[0].kind != "refusal"] or found
    return _id_of(decided[0]) if decided else None


def dead_letters_of_event(
    clickhouse: ClickHouse, event_id: str, source: str | None, project: str | None, is_admin: bool
) -> list[RefusedEvent]:
    """The dead letters of an event id, the oldest first, each once, though a crash may have repeated it.

    Anyone who can write to the topic may name a project there, so only an admin is given the text, and what is no JSON,
    which is found by its text."""
    named, parameters = ["event_id = {event:String}"], {"event": event_id}
    for column, value in (("source", source), ("project", project)):
        if value is not None:
            named.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    condition = f"({' AND '.join(named)})"
    if is_admin:
        condition += " OR (event_id = '' AND NOT isValidJSON(event) AND position(event, {event:String}) > 0)"
    rows = clickhouse.query(
        "SELECT any(code), any(detail), any(field), min(received_at) AS first_at, any(event) FROM dead_letters "
        f"WHERE {condition} GROUP BY topic, partition, offset, position ORDER BY first_at "
        f"LIMIT {DEAD_LETTERS_SHOWN_MAX}",
        parameters,
    )
    return [
        RefusedEvent(
            code=code,
            detail=detail,
            field=field,
            received_at=in_utc(received_at),
            event=event if is_admin else None,
        )
        for code, detail, field, received_at, event in rows
    ]


def _inputs(fact: Fact) -> ReceiptInputs:
    return ReceiptInputs(
        operation=fact.operation,
        surcharge=fact.surcharge,
        quantity=fact.quantity,
        environment=fact.environment,
        source=fact.source,
        event_id=fact.event_id,
        job_id=fact.job_id,
        key_id=fact.key_id,
        metadata=note_of(fact),
        occurred_at=utc(fact.occurred_at_ms),
        booked_at=utc(fact.booked_at_ms),
    )


def _id_of(decision: DecidedFacts) -> str:
    first = decision.facts[0]
    return entry_id(decision.partition, first.offset, first.index)
