"""Deliveries from the history: a page of the attempts to deliver notices to an endpoint, newest first. An attempt that
a crash repeated is shown once, as it was last."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from schemas.http.webhooks import DeliveryInfo
from schemas.problems import Rejection
from schemas.times import in_utc
from streams.clickhouse.client import ClickHouse
from streams.core.foreign import UnreadableError, read

Outcome = Literal["delivered", "failed"]

_Cursor = tuple[int, str]
_encode = msgspec.json.Encoder().encode
_decode_cursor = msgspec.json.Decoder(_Cursor).decode
OF_ENDPOINT = "project = {project:String} AND endpoint_id = {endpoint:String} AND sent_at >= now() - INTERVAL 30 DAY"
_FIELDS = (
    "id, notice_id, notice_type, environment, number, sent_at, status, ms, is_delivered, error, base64Encode(answer), "
    "toUnixTimestamp64Milli(next_at), next_at, is_billed"
)


@dataclass(frozen=True, slots=True)
class DeliveryQuestion:
    """A question for one page of the attempts at an endpoint of a project, or of the platform. `outcome` None is all;
    `notice_id` None is every notice."""

    project: str
    endpoint_id: str
    limit: int
    outcome: Outcome | None = None
    notice_id: str | None = None
    cursor: str | None = None


def delivery_page(clickhouse: ClickHouse, question: DeliveryQuestion) -> tuple[list[DeliveryInfo], str | None]:
    """The attempts of a page, and the cursor of the page after them, or None at the end. Raises Rejection for a cursor
    that no page gave."""
    parameters: dict[str, Any] = {"project": question.project, "endpoint": question.endpoint_id}
    conditions, having = [OF_ENDPOINT], ["1"]
    if question.notice_id is not None:
        conditions.append("notice_id = {notice:String}")
        parameters["notice"] = question.notice_id
    if question.outcome is not None:
        having.append(f"{'' if question.outcome == 'delivered' else 'NOT '}argMax(is_delivered, (sent_at, log_offset))")
    if question.cursor is not None:
        at_ms, attempt_id = _place_of(question.cursor)
        having.append("(last_at, id) < (fromUnixTimestamp64Milli({at:Int64}, 'UTC'), {after:String})")
        parameters |= {"at": at_ms, "after": attempt_id}
    # First which attempts these are, each as it was last; then all of them, answers too.
    newest = (
        f"SELECT max(sent_at) AS last_at, id FROM deliveries WHERE {' AND '.join(conditions)} GROUP BY id "
        f"HAVING {' AND '.join(having)} ORDER BY last_at DESC, id DESC LIMIT {question.limit + 1:d}"
    )
    rows = clickhouse.query(
        f"SELECT {_FIELDS} FROM deliveries WHERE {OF_ENDPOINT} AND (sent_at, id) IN ({newest}) "
        "ORDER BY sent_at DESC, id DESC, log_offset DESC LIMIT 1 BY id",
        parameters,
    )
    shown = rows[: question.limit]
    if len(rows) <= question.limit:
        return [_shown(row) for row in shown], None
    last = shown[-1]
    place = base64.urlsafe_b64encode(_encode((round(in_utc(last[5]).timestamp() * 1000), last[0])))
    return [_shown(row) for row in shown], place.decode().rstrip("=")


def _shown(row: Sequence[Any]) -> DeliveryInfo:
    attempt_id, notice_id, notice_type, environment, number, sent_at, status, ms, is_delivered, error = row[:10]
    answer, next_at_ms, next_at, is_billed = row[10:]
    return DeliveryInfo(
        attempt_id=attempt_id,
        notice_id=notice_id,
        notice_type=notice_type,
        environment=environment or None,
        number=number,
        sent_at=in_utc(sent_at),
        status=status or None,
        ms=ms,
        delivered=is_delivered,
        error=error,
        answer=base64.b64decode(answer).decode("utf-8", "replace"),
        next_at=in_utc(next_at) if next_at_ms else None,
        billed=is_billed,
    )


def _place_of(cursor: str) -> _Cursor:
    def decode(text: str) -> _Cursor:
        place: _Cursor = read(_decode_cursor, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not 0 <= place[0] < 1 << 53:
            raise ValueError
        return place

    try:
        return read(decode, cursor)
    except UnreadableError:
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor") from None
