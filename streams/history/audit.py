"""The audit log is read from the history and is no log of its own: an entry of it is a fact, under the fact's id.

The uses of keys are summed up by the hour when they are read; the facts have them one by one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from schemas.facts import Fact, entry_id
from schemas.http.audit import AuditEntry, AuditKind, KeyUse
from schemas.problems import CODES, Rejection
from schemas.times import in_utc, utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import FACTS_PER_SLOT, format_credits
from streams.core.endpoints import PLATFORM_ID
from streams.core.price_list import PRICES_ID
from streams.core.projects import BILLING_PREFIX
from streams.history.cursor import after_cursor, encode_cursor
from streams.history.fact_words import code_of, second_text
from streams.history.facts import REFUSED, REQUESTS, USED, kind_in, newest_facts
from streams.history.invoice_words import format_usd
from streams.history.limit_words import limits_text

# The facts that each kind of entry shows. Every partition has every price book; partition 0 decided on it first.
KINDS: dict[AuditKind, str] = {
    "refusals": kind_in("refusal"),
    "shadow": kind_in("shadow"),
    "limits": kind_in("limits"),
    "prices": f"{kind_in('price_book', 'price_withdrawal')} AND partition = 0",
    "grants": f"{kind_in('refund', 'correction')} OR ({kind_in('grant')} AND reason != 'allowance')",
    "projects": kind_in("project", "plan", "standing", "item", "erasure"),
    "keys": kind_in("key"),
    "billing": kind_in("billing_account", "transfer"),
    "recharge": kind_in("recharge"),
    "endpoints": kind_in("endpoint"),
    "portals": kind_in("portal"),
    "notices": f"({kind_in('notice')} AND reason = 'rules')",
}
_LIMIT_ACTIONS = {
    "raise_planned": "raise.planned",
    "raise_begun": "raise.begun",
    "raise_ended": "raise.ended",
}
_PROJECT_ACTIONS = {
    "closed": "project.closed",
    "reopened": "project.reopened",
    "badge_on": "badge.shown",
    "badge_off": "badge.hidden",
}

_PERIOD = "booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}"
# A use of a key leaves one of these. What else bears a key follows from a use: a job's capture bears the key that it
# was queued with, and a month's bill that of the top-up that paid it.
_USES = f"key_id != '' AND ({kind_in('request', 'duplicate')} OR {USED} OR {REFUSED})"


@dataclass(frozen=True, slots=True)
class AuditQuestion:
    """A question for one page of audit entries booked in [since, until), newest first; `project` None is all."""

    project: str | None
    since: datetime
    until: datetime
    limit: int
    kind: AuditKind | None = None
    cursor: str | None = None


def audit_page(clickhouse: ClickHouse, question: AuditQuestion) -> tuple[list[AuditEntry], str | None]:
    """The entries of a page, and the cursor of the page after them, or None at the end. Raises Rejection for a cursor
    that no page gave."""
    kinds = KINDS.values() if question.kind is None else [KINDS[question.kind]]
    conditions = [_PERIOD, " OR ".join(kinds)]
    parameters: dict[str, Any] = {"since": question.since, "until": question.until}
    if question.project is not None:
        conditions.append("project = {project:String}")
        parameters["project"] = question.project
    if question.cursor is not None:
        after, place = after_cursor(question.cursor)
        conditions.append(after)
        parameters |= place
    condition = " AND ".join(f"({each})" for each in conditions)
    found = newest_facts(clickhouse, condition, parameters, question.limit + 1)
    shown = found[: question.limit]
    entries = [entry_of(partition, fact) for partition, fact in shown]
    if len(found) <= question.limit:
        return entries, None
    partition, last = shown[-1]
    return entries, encode_cursor(last.booked_at_ms, partition, last.offset, last.index)


@dataclass(frozen=True, slots=True)
class KeyUseQuestion:
    """A question for one page of the uses of keys in [since, until), by the hour, the newest hour first."""

    project: str | None
    since: datetime
    until: datetime
    limit: int
    cursor: str | None = None

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The query and its parameters. Raises Rejection for a cursor that no page gave."""
        conditions, after = [_PERIOD, _USES], ""
        parameters: dict[str, Any] = {"since": self.since, "until": self.until, "limit": self.limit + 1}
        if self.project is not None:
            conditions.append("project = {project:String}")
            parameters["project"] = self.project
        if self.cursor is not None:
            hour, *names = _decode_use_cursor(self.cursor)
            ends_at = datetime.fromtimestamp(hour, UTC) + timedelta(hours=1)
            parameters |= {"until": min(self.until, ends_at), "hour": hour}
            parameters |= dict(
                zip(("after_project", "after_key", "after_environment", "after_use"), names, strict=True)
            )
            after = (
                "HAVING toUnixTimestamp(hour) < {hour:UInt32} OR (project, key, env, use) > ({after_project:String}, "
                "{after_key:String}, {after_environment:String}, {after_use:String})"
            )
        # One request may leave several facts; the first one says what was asked for.
        return (
            "SELECT project, key, env, use, toStartOfHour(at) AS hour, min(at), max(at), sum(came), "
            "sumIf(came, refused) "
            "FROM (SELECT project, argMin(key_id, position) AS key, argMin(environment, position) AS env, "
            f"argMin(operation, position) AS use, min(booked_at) AS at, countIf({kind_in('refusal')}) > 0 AS refused, "
            f"maxIf({REQUESTS}, {REFUSED} OR {kind_in('request')}) AS counted, if(counted > 0, counted, 1) AS came "
            f"FROM facts WHERE {' AND '.join(conditions)} "
            f"GROUP BY project, partition, offset, intDiv(position, {FACTS_PER_SLOT})) "
            f"GROUP BY project, key, env, use, hour {after} "
            "ORDER BY hour DESC, project, key, env, use LIMIT {limit:UInt32}",
            parameters,
        )


def key_use_page(clickhouse: ClickHouse, question: KeyUseQuestion) -> tuple[list[KeyUse], str | None]:
    """The rows of a page, and the cursor of the page after them, or None at the end."""
    sql, parameters = question.sql()
    rows = [
        KeyUse(
            project=project,
            key_id=key,
            environment=environment,
            operation=operation,
            hour=in_utc(hour),
            first_at=in_utc(first_at),
            last_at=in_utc(last_at),
            uses=uses,
            refused=refused,
        )
        for project, key, environment, operation, hour, first_at, last_at, uses, refused in clickhouse.query(
            sql, parameters
        )
    ]
    if len(rows) <= question.limit:
        return rows, None
    rows = rows[: question.limit]
    return rows, _encode_use_cursor(rows[-1])


def entry_of(partition: int, fact: Fact) -> AuditEntry:
    """The audit entry that shows a fact."""
    metadata = _note(fact)
    is_ones_own = fact.project in (PRICES_ID, PLATFORM_ID) or fact.project.startswith(BILLING_PREFIX)
    return AuditEntry(
        entry_id=entry_id(partition, fact.offset, fact.index),
        at=utc(fact.booked_at_ms),
        project=None if is_ones_own else fact.project,
        actor=str(metadata.get("by", "")) if fact.kind == "key" else fact.key_id,
        action=_action(fact, metadata),
        code=code_of(fact) if fact.kind in ("refusal", "shadow") else "",
        detail=_detail(fact, metadata),
        environment=fact.environment,
        operation=fact.operation,
        metadata=metadata | ({"key_id": fact.key_id} if fact.kind == "key" else {}),
    )


def _action(fact: Fact, metadata: dict[str, Any]) -> str:
    match fact.kind:
        case "refusal":
            return "month.unpaid" if _is_unpaid_month(fact) else "request.refused"
        case "shadow":
            return "request.refused_on_trial"
        case "limits" if fact.reason in _LIMIT_ACTIONS:
            return _LIMIT_ACTIONS[fact.reason]
        case "limits":
            return f"{'trial' if fact.reason == 'shadow' else 'limits'}.{'set' if limits_text(metadata) else 'ended'}"
        case "price_book":
            return "price_book.announced"
        case "price_withdrawal":
            return "price_book.withdrawn"
        case "grant" | "refund":
            return f"{fact.reason}.{'granted' if fact.kind == 'grant' else 'refunded'}"
        case "project":
            return _PROJECT_ACTIONS.get(fact.reason, "project.opened")
        case "notice":
            return "notice_rules.set"
        case "plan":
            return "plan.planned" if fact.occurred_at_ms > fact.booked_at_ms else "plan.changed"
        case kind:
            return f"{kind}.{fact.reason}"


def _detail(fact: Fact, metadata: dict[str, Any]) -> str:
    why = f" ({metadata['reason']})" if metadata.get("reason") else ""
    match fact.kind:
        case "refusal" if _is_unpaid_month(fact):
            return f"{fact.operation} of {metadata.get('month', 'a month')} is still to be paid"
        case "refusal" | "shadow":
            code = code_of(fact)
            title = CODES[code].title if code in CODES else code
            what = f"{fact.quantity} × {fact.operation}" if fact.quantity > 1 else fact.operation
            return f"{what}: {title.lower()}{', by limits on trial' if fact.kind == 'shadow' else ''}"
        case "limits":
            until = f", until {second_text(metadata['ends_at_ms'])}" if "ends_at_ms" in metadata else ""
            since = f", from {second_text(metadata['starts_at_ms'])}" if "starts_at_ms" in metadata else ""
            which = f"raise {metadata['raise_id']}: " if "raise_id" in metadata else ""
            return f"{which}{limits_text(metadata) or 'none of its own'}{since}{until}{why}"
        case "price_book" | "price_withdrawal":
            return f"price book {fact.reason}"
        case "grant" | "refund" | "correction":
            amount = f"{format_credits(abs(fact.amount))} credits"
            whose = f" of {fact.source} {fact.event_id}" if fact.kind == "correction" else ""
            has_end = fact.kind == "grant" and "expires_at_ms" in metadata
            until = f", until {second_text(metadata['expires_at_ms'])}" if has_end else ""
            payment = f", payment {metadata['reference']}" if metadata.get("reference") else ""
            return f"{amount} of {fact.operation or fact.grant_id}{whose}{payment}{until}{why}"
        case "plan":
            return f"{metadata.get('from', '')} to {fact.reason}, from {second_text(fact.occurred_at_ms)}"
        case "item":
            return f"{fact.quantity} × {fact.operation}"
        case "key":
            until = f", until {second_text(metadata['ends_at_ms'])}" if "ends_at_ms" in metadata else ""
            return f"{fact.key_id}, {fact.environment}{until}"
        case "billing_account":
            if fact.reason != "joined":
                return fact.project.removeprefix(BILLING_PREFIX)
            return f"{metadata.get('before') or 'its own'} to {fact.billing_account or 'its own'}"
        case "erasure":
            whose = "one customer's" if fact.reason == "customer" else "all"
            return f"{whose} metadata of events until then{why}"
        case "portal" if fact.reason == "opened":
            customer = str(metadata.get("customer_sha256", ""))
            whom = f"one customer, {customer[:12]}…" if customer else "all of the project"
            return f"link {metadata.get('link_id', '')}, shows {whom}"
        case "endpoint":
            return f"{metadata.get('kind', 'endpoint')} {metadata.get('endpoint_id', '')}{why}"
        case "notice":
            return ", ".join(metadata.get("rules", ())) or "none of its own"
        case "transfer":
            way = "taken off" if fact.reason == "moved_out" else "put on"
            return f"{format_usd(fact.cents)} of this month {way} {fact.billing_account or 'its own'}"
        case "recharge":
            return str(metadata.get("detail", metadata.get("id", "")))
        case _:
            return f"{fact.reason}{why}"


def _is_unpaid_month(fact: Fact) -> bool:
    return not fact.source and fact.reason == "out_of_credits"


def _note(fact: Fact) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(fact.metadata) if fact.metadata else {}
    return found


_UseCursor = tuple[int, str, str, str, str]


def _encode_use_cursor(row: KeyUse) -> str:
    place: _UseCursor = (round(row.hour.timestamp()), row.project, row.key_id, row.environment, row.operation)
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _decode_use_cursor(cursor: str) -> _UseCursor:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        place: _UseCursor = msgspec.json.decode(text, type=_UseCursor)
        if not 0 <= place[0] < 1 << 32:
            raise ValueError
    except Exception:
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor") from None
    return place


def rows_of(entries: Iterable[AuditEntry] | Iterable[KeyUse]) -> Iterable[dict[str, str]]:
    """Entries or rows by column, each value as text; times are RFC 3339, metadata is JSON."""
    for each in entries:
        yield {name: _text(value) for name, value in each.model_dump(mode="json").items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
