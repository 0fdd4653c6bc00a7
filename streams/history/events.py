"""Reports on what became of an event: decided, refused, repeated, among the dead letters, or never seen."""

from __future__ import annotations

from datetime import datetime

from schemas.http.receipts import EventReport
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.price_list import Prices
from streams.history.fact_words import outcome_of
from streams.history.receipts import (
    dead_letters_of_event,
    decision_summaries,
    decisions_on_event,
    receipt_of,
)

_NOT_SEEN = (
    "Nothing of it had come by `as_of`. Compare `source` and `id` with what was sent; what a producer was told is "
    "accepted is here soon, and it may send again without being billed twice"
)


def event_report(
    clickhouse: ClickHouse,
    prices: Prices,
    source: str,
    event_id: str,
    project: str | None,
    environment: str | None,
    is_admin: bool,
    as_of: datetime | None,
) -> EventReport:
    """Report on the event of a (source, id), as one project, or one environment of it, may see it; None is any.

    A request that was refused did not run, so where one ran later under that id the event is what that one was. Dead
    letters are of no environment: a caller bound to one sees none.
    """
    found, is_complete = decisions_on_event(clickhouse, event_id, source, project, environment)
    letters = []
    if environment is None:
        letters = dead_letters_of_event(clickhouse, event_id, source, project, is_admin)
    report = EventReport(
        source=source,
        event_id=event_id,
        state="not_seen",
        summary=_NOT_SEEN,
        at=None,
        receipt=None,
        repeats=0,
        decisions=decision_summaries(clickhouse, prices, found),
        dead_letters=letters,
        is_complete=is_complete,
        as_of=as_of,
    )
    outcomes = [outcome_of(each.facts) for each in found]
    report.repeats = outcomes.count("duplicate")
    firsts = [place for place, outcome in enumerate(outcomes) if outcome != "duplicate"]
    ran = [place for place in firsts if outcomes[place] != "refused"]
    if firsts:
        place = (ran or firsts)[0]
        decision = found[place]
        head = next((fact for fact in decision.facts if fact.event_id == event_id), decision.facts[0])
        report.receipt = receipt_of(clickhouse, prices, decision, head.index)
        report.state = "decided" if ran else "refused"
        report.at = utc(head.booked_at_ms)
        report.summary = report.receipt.summary
    elif found:
        report.state = "duplicate"
        report.at = report.decisions[0].booked_at
        report.summary = "Only repeats of it are to be seen: its first was decided elsewhere, or longer ago"
    elif letters:
        first = letters[0]
        report.state, report.at = "dead_lettered", first.received_at
        field = f" (field {first.field})" if first.field else ""
        report.summary = f"It was not accepted: {first.code}{field}: {first.detail}"
    return report
