"""Corrections: read from the history what an event is charged so far, and make the command that puts it right.

A correction gives back all that the event was charged before it, so the event is now charged what the last one charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any

import msgspec

from schemas.accounts import Account, Grant
from schemas.commands import Correct, GivenBack
from schemas.events import EVENT_AHEAD_MINUTES_MAX, Usage
from schemas.facts import Fact, entry_id
from schemas.http.corrections import CorrectionRequest, CorrectionResult
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.core.acceptance import dedup_hash
from streams.core.booking import format_credits
from streams.core.price_list import Prices
from streams.core.pricing import meter
from streams.history.facts import DecidedFacts, decisions, held_before, kind_in
from streams.history.past_balance import grants_of
from streams.history.receipts import entries_of
from streams.kafka.clock import now_ms

# Names that are added to the metadata of a correction's entries.
REASON = "correction_reason"
REQUEST = "correction_request"


@dataclass(slots=True)
class Charged:
    """The charges of an event: `now` has the facts that charge it at present, `corrections` its corrections in order.

    `last` is the newest fact that charged the event, though it may have been given back since; `refused` is the newest
    fact that refused it.
    """

    now: list[Fact] = field(default_factory=list)
    corrections: list[DecidedFacts] = field(default_factory=list)
    last: Fact | None = None
    refused: Fact | None = None


def charged_for(clickhouse: ClickHouse, project: str, source: str, event_id: str) -> Charged:
    """Read an event's charges from the history."""
    charged = Charged()
    for decision in decisions(
        clickhouse,
        "project = {project:String} AND source = {source:String} AND event_id = {event:String} "
        f"AND {kind_in('charge', 'correction', 'refusal')}",
        {"project": project, "source": source, "event": event_id},
    ):
        if decision.facts[0].kind == "refusal":
            charged.refused = decision.facts[0]
            continue
        if decision.facts[0].kind == "correction":
            charged.corrections.append(decision)
            charged.now = []
        # An id may be charged again once the dedup window has forgotten it; then both charges stand.
        charges = [fact for fact in decision.facts if fact.reason != "given_back"]
        charged.now += charges
        charged.last = charges[-1] if charges else charged.last
    return charged


def done_before(charged: Charged, request_hash: str) -> DecidedFacts | None:
    """The correction that this very request made when it was sent before, or None."""
    for decision in charged.corrections if request_hash else ():
        if msgspec.json.decode(decision.facts[-1].metadata or "{}").get(REQUEST) == request_hash:
            return decision
    return None


def hash_of(asked: CorrectionRequest, idempotency_key: str) -> str:
    """The name of a request with an idempotency key, by its key and content; "" where it has no key."""
    if not idempotency_key:
        return ""
    return blake2b(msgspec.msgpack.encode([idempotency_key, asked]), digest_size=16).hexdigest()


def correction_of(
    clickhouse: ClickHouse,
    account: Account,
    asked: CorrectionRequest,
    charged: Charged,
    prices: Prices,
    key_id: str,
    idempotency_key: str,
    addressing: dict[str, Any],
) -> Correct:
    """The command that makes a correction. Raises Rejection (`unknown_event`, `already_corrected`, or the usage's)."""
    if asked.action == "void" and (asked.data is not None or asked.time):
        raise Rejection("invalid_request", "`void` takes no `data` and no `time`", "data")
    if asked.action == "late":
        if charged.now:
            raise Rejection("already_corrected", "This event is charged already: amend or void it")
    elif charged.last is None:
        raise Rejection("unknown_event", f"Nothing was charged for {asked.id!r} of {asked.source!r}")
    elif asked.action == "void" and not charged.now:
        raise Rejection("already_corrected", "Nothing of this event is charged any more")
    notes = {REASON: asked.reason}
    if request_hash := hash_of(asked, idempotency_key):
        notes[REQUEST] = request_hash
    before: dict[str, Any] = {}
    known = charged.last or charged.refused
    if known is not None and known.metadata:
        before = msgspec.json.decode(known.metadata)
        before.pop(REASON, None)
        before.pop(REQUEST, None)
    usage = None if asked.action == "void" else _usage(account, asked, known, prices, key_id, before, notes)
    return Correct(
        project=account.project,
        source=asked.source,
        event_id=asked.id,
        sequence=len(charged.corrections),
        given_back=_given_back(clickhouse, account, charged.now),
        usage=usage,
        metadata=msgspec.json.encode(before | notes).decode(),
        refused_offset=charged.refused.offset if charged.refused is not None else -1,
        **addressing,
    )


def result_of(clickhouse: ClickHouse, project: str, partition: int, offset: int) -> CorrectionResult:
    """The result of the correction at an intake offset, from its entries."""
    (decision,) = decisions(
        clickhouse,
        "project = {project:String} AND partition = {partition:UInt16} AND offset = {offset:UInt64} "
        f"AND {kind_in('correction')}",
        {"project": project, "partition": partition, "offset": offset},
    )
    facts = decision.facts
    last = facts[-1]
    held = held_before(clickhouse, project, last.environment, (last.offset, last.index))
    return CorrectionResult(
        project=project,
        source=last.source,
        id=last.event_id,
        entry_id=entry_id(partition, offset, facts[0].index),
        entries=entries_of(partition, facts),
        change=format_credits(sum(fact.amount for fact in facts)),
        available=format_credits(last.balance - held),
        offset=offset,
    )


def _given_back(clickhouse: ClickHouse, account: Account, charged: Sequence[Fact]) -> list[GivenBack]:
    grants: dict[str, Grant] = {}
    if any(fact.grant_id for fact in charged):
        known = grants_of(clickhouse, account.project, account.last_at_ms, account.signed_up_at_ms)
        # The credits left of the grants by now are no part of the command: a repeat under the same key must be equal.
        grants = {grant.id: msgspec.structs.replace(grant, remaining=0, held=0) for grant in known}
    return [
        GivenBack(
            # A free use is on no grant, so this one only says the environment.
            grants[fact.grant_id] if fact.grant_id else Grant("", "top_up", fact.environment, 0, 0, 0, 0),
            fact.operation,
            fact.quantity,
            -fact.amount,
            fact.price_version,
        )
        for fact in charged
    ]


def _usage(
    account: Account,
    asked: CorrectionRequest,
    charged: Fact | None,
    prices: Prices,
    key_id: str,
    metadata: dict[str, Any],
    notes: dict[str, str],
) -> Usage:
    data = asked.data
    if data is None:
        raise Rejection("missing_field", "`data` is missing", "data")
    if asked.time:
        occurred_at_ms = _occurred_at(account, asked.time)
    elif charged is not None:
        occurred_at_ms = charged.occurred_at_ms
    else:
        raise Rejection("missing_field", "`time` is missing: when it was used decides the price", "time")
    operation, quantity, surcharge = meter(data, prices.operations())
    return Usage(
        project=account.project,
        dedup_hash=dedup_hash(account.project, asked.source, asked.id),
        source=asked.source,
        event_id=asked.id,
        operation=operation,
        quantity=quantity,
        surcharge=surcharge,
        environment=data.environment or (charged.environment if charged is not None else "production"),
        occurred_at_ms=occurred_at_ms,
        job_id=data.job_id or (charged.job_id if charged is not None else ""),
        key_id=charged.key_id if charged is not None else key_id,
        metadata=msgspec.json.encode((data.metadata or metadata) | notes).decode(),
    )


def _occurred_at(account: Account, text: str) -> int:
    """The time of use in Unix milliseconds. Raises Rejection if it is before the opening, or in the future."""
    try:
        occurred = datetime.fromisoformat(text)
    except ValueError:
        raise Rejection("time_out_of_range", "`time` is not an RFC 3339 time", "time") from None
    if occurred.tzinfo is None:
        raise Rejection("time_out_of_range", "`time` has no zone; end it with Z", "time")
    occurred_at_ms = round(occurred.timestamp() * 1000)
    latest_ms = now_ms() + EVENT_AHEAD_MINUTES_MAX * 60_000
    if not account.signed_up_at_ms <= occurred_at_ms <= latest_ms:
        raise Rejection("time_out_of_range", "`time` is before the project was opened, or in the future", "time")
    return occurred_at_ms
