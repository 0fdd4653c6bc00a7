"""Receipts: why a decision went as it did, from the history and the price books alone.

A record may have booked what time had brought before it decided anything; that is told apart by its own, earlier time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import msgspec

from schemas.ledger import Fact, Limits, entry_id
from schemas.problems import CODES, Rejection
from schemas.receipts import (
    BookedWith,
    Budget,
    DecisionSummary,
    EventReceipts,
    Receipt,
    ReceiptEntry,
    ReceiptGrant,
    ReceiptInputs,
    ReceiptLimits,
    ReceiptLine,
    ReceiptPrice,
    RefusalReason,
    RefusedEvent,
)
from streams.clickhouse import ClickHouse
from streams.core.booking import FACTS_PER_SLOT, format_credits
from streams.core.plans import PLANS
from streams.core.price_list import Prices
from streams.history import POLL_SECONDS, Decision, decisions, held_before, marks
from streams.past_balance import plan_at
from streams.past_limits import PastLimits, PastMinute, limits_at, minute_before
from streams.shown_limits import limit_values, limits_text, some_limits

WAIT_SECONDS = 3.0
# History does not come so far in that time: what is further ahead is no id that anyone was told.
RECORDS_AHEAD_MAX = 100_000
FACTS_SHOWN_MAX = 2_000
DEAD_LETTERS_SHOWN_MAX = 100

_BITS = (16, 63, 32)
# Where a fact stands, as itself or in the id of the purchase that it asked for; and a grant, which leaves out where.
_PLACE = re.compile(r"(?:recharge-)?(\d{1,19})-(\d{1,19})-(\d{1,19})", re.ASCII)
_GRANT = re.compile(r"(?:allowance|promotional|top_up)-(\d{1,19})-(\d{1,19})", re.ASCII)


def is_receipt_id(text: str) -> bool:
    """Whether it names a decision; all else may be an event's id."""
    return bool(_PLACE.fullmatch(text) or _GRANT.fullmatch(text))


async def find_decision(
    clickhouse: ClickHouse, project: str | None, receipt_id: str, partitions: int
) -> tuple[Decision, int]:
    """The decision that a fact belongs to, and the fact's position. What may yet come, in one of the `partitions` that
    there are, is waited for a little.

    A purchase of auto-recharge is explained by what wanted it, a grant by what granted it. Raises Rejection
    `unknown_receipt`; `invalid_request` for a grant of that id that several projects have.
    """
    unknown = Rejection("unknown_receipt", f"There is no decision {receipt_id[:80]!r}")
    if _GRANT.fullmatch(receipt_id):
        receipt_id = await asyncio.to_thread(_granted_at, clickhouse, project, receipt_id)
    place = _PLACE.fullmatch(receipt_id)
    if place is None:
        raise unknown
    partition, offset, position = (int(part) for part in place.groups())
    if any(number >> bits for number, bits in zip((partition, offset, position), _BITS, strict=True)):
        raise unknown
    if partition >= partitions:
        raise unknown
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        mark = (await asyncio.to_thread(marks, clickhouse)).get(partition, (-1, -1))
        found = await asyncio.to_thread(_at_place, clickhouse, project, partition, offset, position // FACTS_PER_SLOT)
        if found is not None and any(fact.index == position for fact in found.facts):
            return found, position
        is_far = offset > mark[0] + RECORDS_AHEAD_MAX
        if mark >= (offset, position) or is_far or time.monotonic() > deadline:
            raise unknown
        await asyncio.sleep(POLL_SECONDS)


def receipt_of(clickhouse: ClickHouse, prices: Prices, decision: Decision, position: int) -> Receipt:
    """The receipt of the part of a decision that the fact at `position` belongs to."""
    parts = _parts(decision.facts)
    facts = next(part for part in parts if any(fact.index == position for fact in part))
    first = facts[0]
    head = next((fact for fact in facts if fact.source), first)
    limits, minute = _limits(clickhouse, prices, facts)
    refusal = _refusal(clickhouse, prices, facts, limits, minute)
    hold_id = _hold_id(clickhouse, decision.partition, facts)
    first_decision = _first_decision(clickhouse, head) if head.kind == "duplicate" else None
    before, after = _budgets(clickhouse, facts)
    if refusal is not None and refusal.code == "out_of_credits" and after is not None:
        refusal.available = after.available
        if refusal.needed is not None:
            refusal.detail = (
                f"{_what(head)} costs {refusal.needed} credits; {after.available} "
                f"{'was' if after.available == '1' else 'were'} available"
            )
    return Receipt(
        id=entry_id(decision.partition, first.offset, first.index),
        project=first.project,
        outcome=_outcome(facts),
        summary=_summary(prices, facts, refusal, hold_id, first_decision),
        shadow=_shadow(facts, limits),
        limits=None if limits is None else _limits_shown(limits, minute),
        inputs=_inputs(head),
        price=_price(prices, facts),
        grants=_grants(facts),
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
                outcome=_outcome(part),
                summary=_summary(prices, part, None, _hold_in(part), None),
                due_at=_at(part[0].occurred_at_ms),
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
    with_dead_letters: bool,
) -> EventReceipts:
    """All that was decided on an event id, and, if asked for, why events of that id were not accepted."""
    conditions = ["event_id = {event:String}"]
    parameters: dict[str, Any] = {"event": event_id}
    for column, value in (("project", project), ("source", source)):
        if value is not None:
            conditions.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    found = decisions(clickhouse, " AND ".join(conditions), parameters, FACTS_SHOWN_MAX + 1)
    is_complete = sum(len(each.facts) for each in found) <= FACTS_SHOWN_MAX
    # What releases a hold bears no event, but the hold's id.
    holds = [_id_of(each) for each in found if each.facts[0].kind == "hold"]
    if holds:
        released = decisions(
            clickhouse,
            "project = {project:String} AND kind = 'release' AND JSONExtractString(metadata, 'hold') IN "
            "{holds:Array(String)}",
            {"project": found[0].facts[0].project, "holds": holds},
            FACTS_SHOWN_MAX,
        )
        places = {(each.partition, each.place) for each in found}
        found += [each for each in released if (each.partition, each.place) not in places]
    found.sort(key=lambda each: (each.facts[0].booked_at_ms, each.place))
    return EventReceipts(
        event_id=event_id,
        source=source,
        decisions=[
            DecisionSummary(
                id=_id_of(each),
                project=each.facts[0].project,
                outcome=_outcome(each.facts),
                summary=_summary(
                    prices,
                    each.facts,
                    _refusal(clickhouse, prices, each.facts, *_limits(clickhouse, prices, each.facts)),
                    _hold_in(each.facts),
                    None,
                ),
                environment=each.facts[0].environment,
                amount=format_credits(sum(fact.amount for fact in each.facts)),
                booked_at=_at(each.facts[0].booked_at_ms),
            )
            for each in found
        ],
        dead_letters=_dead_letters(clickhouse, event_id, source, project) if with_dead_letters else None,
        is_complete=is_complete,
    )


def explain_text(receipt: dict[str, Any]) -> str:
    """A receipt, as its JSON has it, for people to read."""
    inputs, price = receipt["inputs"], receipt["price"]
    lines = [f"{receipt['id']}  {receipt['outcome']}  {receipt['project']}", receipt["summary"], ""]

    def row(name: str, value: object) -> None:
        if value not in ("", None, {}):
            lines.append(f"  {name:<14}{value}")

    what = inputs["operation"] + (f" with {inputs['surcharge']}" if inputs["surcharge"] else "")
    row("operation", f"{what} × {inputs['quantity']}" if inputs["quantity"] else what)
    row("environment", inputs["environment"])
    row("event", f"{inputs['event_id']} of {inputs['source']}" if inputs["event_id"] else "")
    row("job", inputs["job_id"])
    row("key", inputs["key_id"])
    row("metadata", ", ".join(f"{name}={value}" for name, value in inputs["metadata"].items()))
    row("occurred", inputs["occurred_at"])
    row("booked", f"{inputs['booked_at']}, partition {receipt['partition']}, offset {receipt['offset']}")
    if price is not None:
        row("price book", price["version"])
        for line in price["lines"]:
            row("", f"{line['operation']}: {line['text']}")
        row("total", f"{price['total']} credits")
    if refusal := receipt["refusal"]:
        row("refused", f"{refusal['status']} {refusal['code']}: {refusal['detail']}")
    if shadow := receipt["shadow"]:
        row("on trial", f"{shadow['status']} {shadow['code']}: {shadow['detail']}")
    if limits := receipt["limits"]:
        came_from = [f"plan {limits['plan']}", *(["contract"] if limits["contract"] else []), *limits["raises"]]
        row("limits", f"{limits_text(limits['in_force'])} ({', '.join(came_from)})")
        row("minute before", f"{limits['requests_before']} requests, {limits['credits_before']} credits")
        if limits["retry_after_seconds"] is not None:
            row("retry after", f"{limits['retry_after_seconds']} seconds")
    row("hold", receipt["hold_id"])
    row("repeats", receipt["first_decision"])
    for grant in receipt["grants"]:
        held = f", held {grant['held']}" if grant["held"] != "0" else ""
        row("grant", f"{grant['grant_id']}: {grant['amount']}{held}")
    for name in ("before", "after"):
        if budget := receipt[name]:
            row(name, f"balance {budget['balance']}, held {budget['held']}, available {budget['available']}")
    for each in receipt["booked_with"]:
        lines.append(f"  booked with it, due {each['due_at']}: {each['summary']}")
    return "\n".join(lines)


def entries_of(partition: int, facts: Sequence[Fact]) -> list[ReceiptEntry]:
    """Facts as they are shown."""
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


def _granted_at(clickhouse: ClickHouse, project: str | None, grant_id: str) -> str:
    """The id of the fact that brought a grant, or "". Raises Rejection."""
    condition = "AND project = {project:String} " if project is not None else ""
    rows = clickhouse.query(
        "SELECT argMin((partition, offset, position), (offset, position)) FROM facts "
        f"WHERE grant_id = {{grant:String}} {condition}GROUP BY project LIMIT 2",
        {"grant": grant_id, "project": project or ""},
    )
    if len(rows) > 1:
        raise Rejection("invalid_request", f"More than one project has a grant {grant_id!r}; name yours", "project")
    return entry_id(*rows[0][0]) if rows else ""


def _at_place(clickhouse: ClickHouse, project: str | None, partition: int, offset: int, slot: int) -> Decision | None:
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
    found = decisions(clickhouse, condition, parameters)
    return found[0] if found else None


def _parts(facts: Sequence[Fact]) -> list[list[Fact]]:
    """What time brought, by when it was due, and last what the event or command itself brought."""

    def due_at_ms(fact: Fact) -> int:
        return 0 if fact.source or fact.occurred_at_ms >= fact.booked_at_ms else fact.occurred_at_ms

    return [list(part) for _, part in groupby(facts, key=due_at_ms)]


def _outcome(facts: Sequence[Fact]) -> str:
    said = {(fact.kind, fact.reason) for fact in facts}
    kinds = {fact.kind for fact in facts}
    if ("charge", "captured") in said or ("release", "captured") in said:
        return "captured"
    for kind, outcome in (
        ("correction", "corrected"),
        ("hold", "held"),
        ("duplicate", "duplicate"),
        ("refund", "refunded"),
    ):
        if kind in kinds:
            return "hold extended" if (kind, "extended") in said else outcome
    if any(fact.kind == "charge" and fact.source for fact in facts):
        return "charged"
    if any(_refuses(fact) for fact in facts):
        return "refused"
    for key, outcome in (
        (("limits", "set"), "limits set"),
        (("limits", "shadow"), "limits on trial"),
        (("limits", "raise_planned"), "limits raised"),
        (("limits", "raise_begun"), "raise begun"),
        (("limits", "raise_ended"), "raise ended"),
        (("release", "released"), "released"),
        (("release", "expired"), "hold expired"),
        (("project", "closed"), "project closed"),
        (("project", "reopened"), "project reopened"),
    ):
        if key in said:
            return outcome
    if "project" in kinds:
        return "project opened" if "grant" in kinds or facts[0].reason in PLANS else "project changed"
    if "plan" in kinds:
        return "plan changed"
    if ("grant", "top_up") in said:
        return "granted"
    if ("grant", "allowance") in said or "expiry" in kinds or "subscription" in kinds:
        return "renewed"
    if ("charge", "recurring") in said:
        return "month billed"
    if "refusal" in kinds:
        return "month unpaid"
    return {"request": "counted", "key": f"key {facts[0].reason}", "recharge": f"recharge {facts[0].reason}"}.get(
        facts[0].kind, facts[0].kind.replace("_", " ")
    )


def _summary(
    prices: Prices, facts: Sequence[Fact], refusal: RefusalReason | None, hold_id: str | None, repeats: str | None
) -> str:
    """One sentence or two, in plain words."""
    head = next((fact for fact in facts if fact.source), facts[0])
    charged = format_credits(-sum(fact.amount for fact in facts if fact.kind == "charge"))
    released = -sum(fact.held for fact in facts if fact.kind == "release")
    expired = -sum(fact.amount for fact in facts if fact.kind == "expiry")
    said = _note(head)
    hold = f"hold {hold_id}" if hold_id else "its hold"
    match _outcome(facts):
        case "charged":
            lines = _lines(prices, facts)
            return f"Charged {charged} credits for {', '.join(f'{line.operation} ({line.text})' for line in lines)}"
        case "captured":
            rest = f"; {format_credits(released)} were given back" if released else ""
            return f"Charged {charged} credits of {hold}{rest}"
        case "held":
            amount = format_credits(sum(fact.held for fact in facts if fact.kind == "hold"))
            return f"Held {amount} credits for {_what(head)} until the job is captured or released, or the hold expires"
        case "hold extended":
            return f"The hold {said.get('hold', '')} expires {said.get('seconds', '?')} seconds after this"
        case "released" | "hold expired" as outcome:
            why = f": {said['why']}" if said.get("why") else ""
            ending = "was released" if outcome == "released" else "expired unresolved"
            gone = f"; {format_credits(expired)} of them had expired with their grant meanwhile" if expired else ""
            return f"A hold {ending}{why}; {format_credits(released)} credits were given back ({hold}){gone}"
        case "refused":
            return f"Refused: {refusal.detail}" if refusal is not None else f"Refused: {head.reason}"
        case "duplicate":
            before = f", as {repeats}" if repeats else ""
            return f"This event was decided before{before}; nothing was charged"
        case "corrected":
            back = sum(fact.amount for fact in facts if fact.reason == "given_back")
            anew = -sum(fact.amount for fact in facts if fact.kind == "correction" and fact.reason == "charged")
            why = f" ({said['correction_reason']})" if said.get("correction_reason") else ""
            return f"Corrected{why}: {format_credits(back)} credits given back, {format_credits(anew)} charged"
        case "refunded":
            amount = format_credits(-sum(fact.amount for fact in facts if fact.kind == "refund"))
            return f"Took back {amount} credits of bundle {head.grant_id}, for {_dollars(-head.cents)} given back"
        case "counted":
            return f"Counted {head.operation} in the project's request window; it cost nothing"
        case "limits set" | "limits on trial" | "limits raised" | "raise begun" | "raise ended" as outcome:
            return _limits_summary(facts, outcome)
        case "granted":
            grant = next(fact for fact in facts if fact.kind == "grant")
            price = f", for {_dollars(grant.cents)}" if grant.cents else ""
            return f"Granted a bundle of {format_credits(grant.amount)} credits to {grant.environment}{price}"
        case "renewed" | "project opened" | "project reopened" as outcome:
            granted = sum(fact.amount for fact in facts if fact.kind == "grant")
            begun = {"renewed": "A month began", "project opened": "The project was opened"}.get(
                outcome, "The project was reopened"
            )
            gone = f"{format_credits(expired)} credits that were left expired, " if expired else ""
            return f"{begun}: {gone}{format_credits(granted)} credits granted"
        case "plan changed":
            plan = next(fact for fact in facts if fact.kind == "plan")
            granted = sum(fact.amount for fact in facts if fact.kind == "grant")
            more = f"; {format_credits(granted)} credits granted" if granted else ""
            return f"On plan {plan.reason} from {_second(plan.occurred_at_ms)}{more}"
        case "month billed":
            return f"Charged {charged} credits for recurring items of {said.get('month', 'a month')}"
        case "month unpaid":
            left = format_credits(int(said.get("unpaid_microcredits", 0)))
            return f"{left} credits for recurring items of {said.get('month', 'a month')} are still to be paid"
        case outcome:
            detail = " ".join(fact.reason for fact in facts[:1] if fact.reason and fact.reason not in outcome)
            return f"{outcome.capitalize()} {detail}".strip()


def _refusal(
    clickhouse: ClickHouse,
    prices: Prices,
    facts: Sequence[Fact],
    limits: PastLimits | None,
    minute: PastMinute | None,
) -> RefusalReason | None:
    fact = next((fact for fact in facts if fact.kind == "refusal"), None)
    if fact is None or _outcome(facts) not in ("refused", "month unpaid"):
        return None
    status = CODES[fact.reason].status if fact.reason in CODES else 402
    book = prices.version(fact.price_version)
    refusal = RefusalReason(code=fact.reason, status=status, detail=CODES[fact.reason].title)
    match fact.reason:
        case "out_of_credits":
            needed = int(_note(fact).get("unpaid_microcredits", 0)) if not fact.source else _cost(prices, fact)
            if needed is not None:
                refusal.needed = format_credits(needed)
                refusal.detail = f"{_what(fact)} costs {refusal.needed} credits; fewer were available"
        case "plan_required":
            refusal.plan = plan_at(clickhouse, fact.project, fact.booked_at_ms)
            gates = book.plan_required if book is not None else {}
            gated = (each for each in (fact.operation, fact.surcharge) if each in gates)
            operation = max(gated, key=lambda each: PLANS[gates[each]].rank, default=fact.operation)
            refusal.needed_plan = gates.get(operation)
            needs = refusal.needed_plan or "higher"
            refusal.detail = f"{operation} needs the {needs} plan or a higher one; this project was on {refusal.plan}"
        case "rate_limited" | "over_cost_ceiling" if limits is not None and minute is not None:
            refusal.plan = limits.plan
            refusal.detail = _over_limits(prices, fact, limits.in_force, minute)
            if fact.price_version and (needed := _cost(prices, fact)) is not None:
                refusal.needed = format_credits(needed)
        case "project_closed":
            refusal.detail = f"The project was closed when {fact.operation} was used"
        case "unknown_operation":
            refusal.detail = f"Price book {fact.price_version} has no price for {_what(fact)}"
        case "too_many_holds":
            refusal.detail = "The project had as many open holds as it may have"
    return refusal


def _over_limits(prices: Prices, fact: Fact, limits: Limits, minute: PastMinute) -> str:
    """Why a request was over the limits. The ceiling's refusals have a price book, the window's have none."""
    cost = _cost(prices, fact)
    costs = f"{_what(fact)} costs {'?' if cost is None else format_credits(cost)} credits"
    ceiling = f"{format_credits(limits.cost_ceiling)} that may be spent in a minute"
    if fact.reason == "over_cost_ceiling":
        return f"{costs}, more than the {ceiling}"
    wait = f"; it would have passed {_seconds(minute.retry_after_ms)} seconds later" if minute.retry_after_ms else ""
    if fact.price_version:
        return f"{costs}; {format_credits(minute.cost)} of the {ceiling} were spent in the 60 seconds before{wait}"
    allowed = f"{limits.requests_per_minute} a minute and {limits.burst} at once"
    return f"{minute.requests} requests of the 60 seconds before had used up what was allowed, {allowed}{wait}"


def _limits(
    clickhouse: ClickHouse, prices: Prices, facts: Sequence[Fact]
) -> tuple[PastLimits, PastMinute] | tuple[None, None]:
    """The limits that held for a decision that limits have to do with, and the minute before it; of one that changes
    limits, those that held then on."""
    fact = next((fact for fact in facts if _is_about_limits(fact)), None)
    if fact is None:
        return None, None
    if fact.kind == "limits":
        fact = [each for each in facts if each.kind == "limits"][-1]
        mark = (fact.offset, fact.index + 1)
    else:
        mark = (facts[0].offset, facts[0].index)
    limits = limits_at(clickhouse, fact.project, mark, fact.booked_at_ms)
    cost = _cost(prices, fact) or 0 if fact.kind == "refusal" and fact.price_version else None
    return limits, minute_before(clickhouse, fact.project, mark, fact.booked_at_ms, limits.in_force, cost)


def _is_about_limits(fact: Fact) -> bool:
    return fact.kind in ("request", "limits", "shadow") or (
        fact.kind == "refusal" and fact.reason in ("rate_limited", "over_cost_ceiling")
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
        retry_after_seconds=_seconds(minute.retry_after_ms) if minute.retry_after_ms else None,
    )


def _shadow(facts: Sequence[Fact], limits: PastLimits | None) -> RefusalReason | None:
    """What limits on trial would have refused it with."""
    fact = next((fact for fact in facts if fact.kind == "shadow"), None)
    if fact is None or limits is None:
        return None
    tried = f", {limits_text(limit_values(limits.shadow).model_dump())}," if limits.shadow is not None else ""
    detail = f"The limits on trial{tried} would have refused it"
    return RefusalReason(code=fact.reason, status=CODES[fact.reason].status, detail=detail)


def _limits_summary(facts: Sequence[Fact], outcome: str) -> str:
    """A change of limits in a sentence."""
    fact = next(fact for fact in facts if fact.kind == "limits")
    said = _note(fact)
    named = limits_text(said)
    why = f" ({said['reason']})" if said.get("reason") else ""
    match outcome:
        case "limits set":
            return f"Limits of its own from now on: {named}{why}" if named else f"Its plan's limits from now on{why}"
        case "limits on trial":
            return f"Limits on trial from now on: {named}{why}" if named else f"No limits on trial any more{why}"
        case "limits raised":
            period = f"from {_second(said['starts_at_ms'])} until {_second(said['ends_at_ms'])}"
            return f"Limits raised to {named} {period}{why}"
        case _:
            return f"Raise {said['raise_id']} {outcome.removeprefix('raise ')}: {named}"


def _refuses(fact: Fact) -> bool:
    """Whether it refuses a request, and does not say that a month is unpaid."""
    return fact.kind == "refusal" and (bool(fact.source) or fact.reason == "rate_limited")


def _seconds(milliseconds: int) -> int:
    return -(-milliseconds // 1000)


def _second(at_ms: int) -> str:
    return f"{_at(at_ms):%Y-%m-%d %H:%M:%S} UTC"


def _price(prices: Prices, facts: Sequence[Fact]) -> ReceiptPrice | None:
    # A correction may give back what another book's price was: the one it charges by is its own.
    priced = [fact for fact in facts if fact.price_version]
    version = next((fact.price_version for fact in priced if fact.reason != "given_back"), "")
    version = version or (priced[0].price_version if priced else "")
    lines = _lines(prices, facts)
    if not version or not lines:
        return None
    book = prices.version(version)
    head = next((fact for fact in facts if fact.source), facts[0])
    if head.kind in ("refusal", "hold"):
        total = _cost(prices, head) or 0
    else:
        total = -sum(fact.amount for fact in facts if fact.kind in ("charge", "correction"))
    return ReceiptPrice(
        version=version,
        effective_at=_at(book.effective_at_ms) if book is not None and book.effective_at_ms else None,
        lines=lines,
        total=format_credits(total),
    )


def _lines(prices: Prices, facts: Sequence[Fact]) -> list[ReceiptLine]:
    """By operation and direction. What was refused or held is priced anew: a book's rates never change."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for fact in facts:
        if fact.kind in ("charge", "correction"):
            line = sums.setdefault((fact.operation, fact.price_version, fact.reason), [0, 0])
            line[0] += fact.quantity
            line[1] -= fact.amount
        elif fact.kind in ("refusal", "hold") and fact.source and fact.quantity:
            for operation in filter(None, (fact.operation, fact.surcharge)):
                if (rate := _rate(prices, fact.price_version, operation)) is not None:
                    sums[operation, fact.price_version, ""] = [fact.quantity, rate * fact.quantity]
    lines = []
    for (operation, version, _), (quantity, amount) in sums.items():
        rate = _rate(prices, version, operation)
        if rate is None and quantity and amount % quantity == 0:
            rate = amount // quantity
        adds_up = rate is not None and rate * quantity == amount
        lines.append(
            ReceiptLine(
                operation=operation,
                quantity=quantity,
                rate=None if rate is None else format_credits(rate),
                credits=format_credits(amount),
                text=f"{quantity} × {format_credits(rate)} = {format_credits(amount)}"
                if adds_up and rate is not None
                else f"{format_credits(amount)}, in part",
            )
        )
    return lines


def _rate(prices: Prices, version: str, operation: str) -> int | None:
    book = prices.version(version)
    if book is None:
        return None
    return book.rates.get(operation, book.hourly.get(operation))


def _cost(prices: Prices, fact: Fact) -> int | None:
    """What a use that was refused or held costs; None where its book does not say."""
    rates = [_rate(prices, fact.price_version, each) for each in (fact.operation, fact.surcharge) if each]
    return None if None in rates else fact.quantity * sum(rate for rate in rates if rate is not None)


def _grants(facts: Sequence[Fact]) -> list[ReceiptGrant]:
    sums: dict[str, list[int]] = {}
    for fact in facts:
        if fact.grant_id:
            changed = sums.setdefault(fact.grant_id, [0, 0])
            changed[0] += fact.amount
            changed[1] += fact.held
    return [
        ReceiptGrant(
            grant_id=grant_id,
            kind=grant_id.partition("-")[0],
            amount=format_credits(amount),
            held=format_credits(held),
        )
        for grant_id, (amount, held) in sums.items()
    ]


def _budgets(clickhouse: ClickHouse, facts: Sequence[Fact]) -> tuple[Budget | None, Budget | None]:
    """The budget that the decision is about, before and after it."""
    environment = next((fact.environment for fact in facts if fact.environment), "")
    here = [fact for fact in facts if fact.environment == environment]
    if not environment:
        return None, None
    balance, first = here[0].balance - here[0].amount, here[0]
    held = held_before(clickhouse, first.project, environment, (first.offset, first.index))
    return _budget(balance, held), _budget(here[-1].balance, held + sum(fact.held for fact in here))


def _budget(balance: int, held: int) -> Budget:
    return Budget(balance=format_credits(balance), held=format_credits(held), available=format_credits(balance - held))


def _hold_id(clickhouse: ClickHouse, partition: int, facts: Sequence[Fact]) -> str | None:
    """The hold that a decision placed or resolved."""
    if found := _hold_in(facts):
        return found
    head = facts[0]
    if head.kind == "hold":
        return entry_id(partition, head.offset, head.index)
    if _outcome(facts) != "captured":
        return None
    placed = decisions(
        clickhouse,
        "project = {project:String} AND kind = 'hold' AND source = {source:String} AND event_id = {event:String} "
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
            _note(fact).get("hold")
            for fact in facts
            if fact.kind == "release" or (fact.kind == "hold" and fact.reason == "extended")
        ),
        None,
    )


def _first_decision(clickhouse: ClickHouse, fact: Fact) -> str | None:
    found = decisions(
        clickhouse,
        "project = {project:String} AND source = {source:String} AND event_id = {event:String} "
        "AND kind IN ('charge', 'refusal', 'hold', 'correction') AND offset < {offset:UInt64}",
        {"project": fact.project, "source": fact.source, "event": fact.event_id, "offset": fact.offset + 1},
        FACTS_SHOWN_MAX,
    )
    # A request that was refused did not run, so what ran later under that id is what is repeated.
    decided = [each for each in found if each.facts[0].kind != "refusal"] or found
    return _id_of(decided[0]) if decided else None


def _dead_letters(clickhouse: ClickHouse, event_id: str, source: str | None, project: str | None) -> list[RefusedEvent]:
    """Each once, though a crash may have repeated it. One that is no JSON is found by its text."""
    conditions = [
        "(JSONExtractString(event, 'id') = {event:String} "
        "OR (NOT isValidJSON(event) AND position(event, {event:String}) > 0))"
    ]
    parameters: dict[str, Any] = {"event": event_id}
    for name, column, value in (("source", "source", source), ("project", "subject", project)):
        if value is not None:
            conditions.append(f"(JSONExtractString(event, '{column}') = {{{name}:String}} OR NOT isValidJSON(event))")
            parameters[name] = value
    rows = clickhouse.query(
        "SELECT any(code), any(detail), any(field), min(received_at) AS first_at, any(event) FROM dead_letters "
        f"WHERE {' AND '.join(conditions)} GROUP BY topic, partition, offset, position ORDER BY first_at "
        f"LIMIT {DEAD_LETTERS_SHOWN_MAX}",
        parameters,
    )
    return [
        RefusedEvent(
            code=code,
            detail=detail,
            field=field,
            received_at=received_at if received_at.tzinfo else received_at.replace(tzinfo=UTC),
            event=event,
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
        metadata=_note(fact),
        occurred_at=_at(fact.occurred_at_ms),
        booked_at=_at(fact.booked_at_ms),
    )


def _what(fact: Fact) -> str:
    what = f"{fact.operation} with {fact.surcharge}" if fact.surcharge else fact.operation
    return f"{fact.quantity} × {what}" if fact.quantity > 1 else what


def _id_of(decision: Decision) -> str:
    first = decision.facts[0]
    return entry_id(decision.partition, first.offset, first.index)


def _note(fact: Fact) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(fact.metadata) if fact.metadata else {}
    return found


def _dollars(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
