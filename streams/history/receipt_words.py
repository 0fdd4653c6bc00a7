"""Summaries of receipts, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.accounts import Limits
from schemas.facts import LIMITED_AT_EDGE, Fact
from schemas.http.receipts import RefusalReason
from streams.core.booking import format_credits
from streams.core.price_list import Prices
from streams.history.fact_words import dollars, note_of, outcome_of, second_text, seconds_of, use_text
from streams.history.limit_words import limits_text
from streams.history.past_limits import PastMinute
from streams.history.receipt_figures import cost_of, lines_of


def summary_of(
    prices: Prices, facts: Sequence[Fact], refusal: RefusalReason | None, hold_id: str | None, repeats: str | None
) -> str:
    """Sum a decision up in a sentence or two, in plain words."""
    head = next((fact for fact in facts if fact.source), facts[0])
    charged = format_credits(-sum(fact.amount for fact in facts if fact.kind == "charge"))
    released = -sum(fact.held for fact in facts if fact.kind == "release")
    expired = -sum(fact.amount for fact in facts if fact.kind == "expiry")
    said = note_of(head)
    hold = f"hold {hold_id}" if hold_id else "its hold"
    match outcome_of(facts):
        case "charged":
            lines = lines_of(prices, facts)
            return f"Charged {charged} credits for {', '.join(f'{line.operation} ({line.text})' for line in lines)}"
        case "captured":
            rest = f"; {format_credits(released)} were given back" if released else ""
            return f"Charged {charged} credits of {hold}{rest}"
        case "held":
            amount = format_credits(sum(fact.held for fact in facts if fact.kind == "hold"))
            return (
                f"Held {amount} credits for {use_text(head)} until the job is captured or released, or the hold expires"
            )
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
            return _duplicate_summary(head, repeats)
        case "corrected":
            back = sum(fact.amount for fact in facts if fact.reason == "given_back")
            anew = -sum(fact.amount for fact in facts if fact.kind == "correction" and fact.reason == "charged")
            why = f" ({said['correction_reason']})" if said.get("correction_reason") else ""
            return f"Corrected{why}: {format_credits(back)} credits given back, {format_credits(anew)} charged"
        case "refunded":
            amount = format_credits(-sum(fact.amount for fact in facts if fact.kind == "refund"))
            return f"Took back {amount} credits of {head.grant_id}, for {dollars(-head.cents)} given back"
        case "counted":
            return f"Counted {head.operation} in the project's request window; it cost nothing"
        case "limits set" | "limits on trial" | "limits raised" | "raise begun" | "raise ended" as outcome:
            return limits_summary(facts, outcome)
        case "granted":
            return grant_summary(next(fact for fact in facts if fact.kind == "grant"))
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
            return f"On plan {plan.reason} from {second_text(plan.occurred_at_ms)}{more}"
        case "month billed":
            return f"Charged {charged} credits for recurring items of {said.get('month', 'a month')}"
        case "month unpaid":
            left = format_credits(int(said.get("unpaid_microcredits", 0)))
            return f"{left} credits for recurring items of {said.get('month', 'a month')} are still to be paid"
        case outcome:
            detail = " ".join(fact.reason for fact in facts[:1] if fact.reason and fact.reason not in outcome)
            return f"{outcome.capitalize()} {detail}".strip()


def grant_summary(fact: Fact) -> str:
    """Sum up in a sentence credits that were bought or given."""
    amount = format_credits(fact.amount)
    if fact.reason == "promotional":
        said = note_of(fact)
        until = f" until {second_text(said['expires_at_ms'])}" if "expires_at_ms" in said else ""
        why = f" ({said['reason']})" if said.get("reason") else ""
        return f"Gave {amount} credits to {fact.environment}{until}{why}"
    price = f", for {dollars(fact.cents)}" if fact.cents else ""
    what = f"{amount} credits by contract" if note_of(fact).get("by_contract") else f"a bundle of {amount} credits"
    return f"Granted {what} to {fact.environment}{price}"


def over_limits_text(prices: Prices, fact: Fact, limits: Limits, minute: PastMinute) -> str:
    """Say why a request was over the limits. The ceiling's refusals have a price book, the window's have none."""
    cost = cost_of(prices, fact)
    costs = f"{use_text(fact)} costs {'?' if cost is None else format_credits(cost)} credits"
    ceiling = f"{format_credits(limits.cost_ceiling)} that may be spent in a minute"
    if fact.reason == "over_cost_ceiling":
        return f"{costs}, more than the {ceiling}"
    wait = f"; it would have passed {seconds_of(minute.retry_after_ms)} seconds later" if minute.retry_after_ms else ""
    if fact.price_version:
        return f"{costs}; {format_credits(minute.cost)} of the {ceiling} were spent in the 60 seconds before{wait}"
    allowed = f"{limits.requests_per_minute} a minute and {limits.burst} at once"
    if fact.reason == LIMITED_AT_EDGE:
        said = note_of(fact)
        came = f"between {second_text(said['first_at_ms'])} and {second_text(said['last_at_ms'])}"
        return f"{fact.quantity} requests {came} were above what is allowed, {allowed}"
    return f"{minute.requests} requests of the 60 seconds before had used up what was allowed, {allowed}{wait}"


def limits_summary(facts: Sequence[Fact], outcome: str) -> str:
    """Sum up a change of limits in a sentence."""
    fact = next(fact for fact in facts if fact.kind == "limits")
    said = note_of(fact)
    named = limits_text(said)
    why = f" ({said['reason']})" if said.get("reason") else ""
    match outcome:
        case "limits set":
            return f"Limits of its own from now on: {named}{why}" if named else f"Its plan's limits from now on{why}"
        case "limits on trial":
            return f"Limits on trial from now on: {named}{why}" if named else f"No limits on trial any more{why}"
        case "limits raised":
            period = f"from {second_text(said['starts_at_ms'])} until {second_text(said['ends_at_ms'])}"
            return f"Limits raised to {named} {period}{why}"
        case _:
            return f"Raise {said['raise_id']} {outcome.removeprefix('raise ')}: {named}"


def _duplicate_summary(head: Fact, repeats: str | None) -> str:
    before = f", as {repeats}" if repeats else ""
    if head.reason == "held":
        return "Its credits are held already; nothing was charged or held beside them"
    if head.reason:
        what = "job's id" if head.reason == "job_id_reused" else "id"
        return f"Its {what} was used before{before}, for something else; nothing was allowed or charged"
    return f"This event was decided before{before}; nothing was charged"
