"""Dead letters from the history: a page of them, newest first, or one in full. A letter that a crash repeated is shown
once."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from schemas.http.dead_letters import DeadLetterSummary
from schemas.problems import CODES, Rejection
from schemas.times import in_utc
from streams.clickhouse.client import ClickHouse
from streams.core.foreign import UnreadableError, read

EVENT_CHARS_SHOWN = 200

_Cursor = tuple[int, str, int, int, int]
_encode = msgspec.json.Encoder().encode
_decode_cursor = msgspec.json.Decoder(_Cursor).decode
_ID = re.compile(
    r"(?P<topic>[\w.-]{1,249}):(?P<partition>\d{1,18}):(?P<offset>\d{1,18}):(?P<position>\d{1,18})", re.ASCII
)
_PLACE = "topic, partition, offset, position"
_SAID = "code, detail, field, source, project, event_id"


@dataclass(frozen=True, slots=True)
class DeadLetterQuestion:
    """A question for one page of the dead letters received in [since, until), newest first: all of them, or those with
    this code whose events name this source and project."""

    since: datetime
    until: datetime
    limit: int
    code: str | None = None
    source: str | None = None
    project: str | None = None
    cursor: str | None = None


def dead_letter_page(
    clickhouse: ClickHouse, question: DeadLetterQuestion
) -> tuple[list[DeadLetterSummary], str | None]:
    """The dead letters of a page, and the cursor of the page after them, or None at the end. Raises Rejection for a
    cursor that no page gave."""
    conditions = ["received_at >= {since:DateTime64(3)}", "received_at < {until:DateTime64(3)}"]
    parameters: dict[str, Any] = {"since": question.since, "until": question.until}
    for column in ("code", "source", "project"):
        if (value := getattr(question, column)) is not None:
            conditions.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    if question.cursor is not None:
        at_ms, topic, partition, offset, position = _place_of(question.cursor)
        conditions.append(
            f"(received_at, {_PLACE}) < (fromUnixTimestamp64Milli({{at:Int64}}, 'UTC'), {{topic:String}}, "
            "{partition:UInt16}, {offset:UInt64}, {position:UInt32})"
        )
        parameters |= {"at": at_ms, "topic": topic, "partition": partition, "offset": offset, "position": position}
    rows = clickhouse.query(
        f"SELECT {_SAID}, {_PLACE}, received_at, leftUTF8(event, {EVENT_CHARS_SHOWN}) FROM dead_letters "
        f"WHERE {' AND '.join(conditions)} ORDER BY received_at DESC, topic DESC, partition DESC, offset DESC, "
        f"position DESC LIMIT 1 BY {_PLACE} LIMIT {question.limit + 1:d}",
        parameters,
    )
    shown = rows[: question.limit]
    if len(rows) <= question.limit:
        return [_summary(row) for row in shown], None
    *_, topic, partition, offset, position, received_at, _ = shown[-1]
    at_ms = round(in_utc(received_at).timestamp() * 1000)
    place = base64.urlsafe_b64encode(_encode((at_ms, topic, partition, offset, position)))
    return [_summary(row) for row in shown], place.decode().rstrip("=")


def dead_letter_of(clickhouse: ClickHouse, letter_id: str) -> DeadLetterSummary:
    """The dead letter of an id, with all of its text that is kept. Raises Rejection `unknown_dead_letter`."""
    rows: Sequence[Sequence[Any]] = []
    if place := _ID.fullmatch(letter_id):
        rows = clickhouse.query(
            f"SELECT {_SAID}, {_PLACE}, received_at, event FROM dead_letters "
            "WHERE topic = {topic:String} AND partition = {partition:UInt64} AND offset = {offset:UInt64} "
            "AND position = {position:UInt64} LIMIT 1",
            place.groupdict(),
        )
    if not rows:
        raise Rejection("unknown_dead_letter", f"There is no dead letter {letter_id!r}")
    return _summary(rows[0])


def _summary(row: Sequence[Any]) -> DeadLetterSummary:
    code, detail, field, source, project, event_id, topic, partition, offset, position, received_at, event = row
    return DeadLetterSummary(
        id=f"{topic}:{partition}:{offset}:{position}",
        received_at=in_utc(received_at),
        code=code,
        detail=detail,
        field=field,
        remedy=CODES[code].remedy if code in CODES else "",
        source=source,
        project=project,
        event_id=event_id,
        event=event,
    )


def _place_of(cursor: str) -> _Cursor:
    def decode(text: str) -> _Cursor:
        place: _Cursor = read(_decode_cursor, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        bits = (53, 16, 63, 32)
        if any(not 0 <= number < 1 << size for number, size in zip((place[0], *place[2:]), bits, strict=True)):
            raise ValueError
        return place

    try:
        return read(decode, cursor)
    except UnreadableError:
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor") from None
