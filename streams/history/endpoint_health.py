"""Health of endpoints, from the history: what became of the attempts at one, and why it was disabled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from streams.clickhouse.client import ClickHouse
from streams.core.foreign import UnreadableError, read
from streams.history.deliveries import OF_ENDPOINT
from streams.history.facts import kind_in

_DAY = "sent_at >= now() - INTERVAL 1 DAY"
_TAKEN_AT = f"(SELECT maxIf(sent_at, is_delivered) FROM deliveries WHERE {OF_ENDPOINT})"
# A notice that is tried again waits for less than a day.
_WAITING = (
    "(SELECT (count(), min(next_at_ms)) FROM (SELECT argMax(is_delivered, (sent_at, log_offset)) AS is_taken, "
    "toUnixTimestamp64Milli(argMax(next_at, (sent_at, log_offset))) AS next_at_ms FROM deliveries "
    f"WHERE {OF_ENDPOINT} AND {_DAY} GROUP BY notice_id HAVING NOT is_taken AND next_at_ms > 0))"
)
_RECORD = (
    f"SELECT uniqExactIf(id, {_DAY}), uniqExactIf(id, {_DAY} AND NOT is_delivered), "
    "toUnixTimestamp64Milli(max(sent_at)), toUnixTimestamp64Milli(maxIf(sent_at, is_delivered)), "
    "argMax(status, sent_at), argMax(error, sent_at), "
    f"uniqExactIf(id, NOT is_delivered AND sent_at > {_TAKEN_AT}), {_WAITING} FROM deliveries WHERE {OF_ENDPOINT}"
)
_decode_reason = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """The record of an endpoint's attempts in the last 30 days; times in Unix milliseconds, 0 for never. Attempts and
    failures are those of 24 hours. `disabled_at_ms` is of the last time that it was disabled, and `disabled_reason`
    why."""

    attempts: int
    failures: int
    failures_in_a_row: int
    last_attempt_at_ms: int
    last_delivered_at_ms: int
    last_status: int
    last_error: str
    waiting: int
    next_at_ms: int
    disabled_at_ms: int
    disabled_reason: str


def endpoint_record(clickhouse: ClickHouse, project: str, endpoint_id: str, is_disabled: bool) -> EndpointRecord:
    """Read the record of an endpoint of a project, or of the platform; why it is disabled only where it is."""
    asked: dict[str, Any] = {"project": project, "endpoint": endpoint_id}
    attempts, failures, last, delivered, status, error, in_a_row, (waiting, next_at_ms) = clickhouse.query(
        _RECORD, asked
    )[0]
    disabled_at_ms, reason = _disabled(clickhouse, asked) if is_disabled else (0, "")
    if is_disabled:
        waiting = next_at_ms = 0
    return EndpointRecord(
        attempts, failures, in_a_row, last, delivered, status, error, waiting, next_at_ms, disabled_at_ms, reason
    )


def _disabled(clickhouse: ClickHouse, asked: dict[str, Any]) -> tuple[int, str]:
    rows = clickhouse.query(
        f"SELECT toUnixTimestamp64Milli(booked_at), metadata FROM facts WHERE project = {{project:String}} AND "
        f"{kind_in('endpoint')} AND reason = 'disabled' "
        "AND JSONExtractString(metadata, 'endpoint_id') = {endpoint:String} "
        "ORDER BY booked_at DESC, offset DESC LIMIT 1",
        asked,
    )
    if not rows:
        return 0, ""
    try:
        said = read(_decode_reason, rows[0][1])
    except UnreadableError:
        said = {}
    return rows[0][0], str(said.get("reason", ""))
