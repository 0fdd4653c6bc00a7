"""The sink of answers: what the HTTP service told a request, kept beside the facts (docs/decisions/0054)."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from schemas.answers import Answer
from schemas.events import TIME_MS_MAX
from streams.clickhouse.historian import Part, Sink, encode_rows, mark_sql
from streams.core.foreign import UnreadableError
from streams.kafka.codecs import decode_answers
from streams.kafka.topics import topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

_ANSWER_COLUMNS = {
    "position": "UInt32",
    "request_id": "String",
    "answered_at": "DateTime64(3, 'UTC')",
    "kept_until": "DateTime64(3, 'UTC')",
    "operation": "String",
    "status": "UInt16",
    "project": "String",
    "environment": "String",
    "key_id": "String",
    "code": "String",
    "reply": "String",
    "entry_ids": "Array(String)",
}
# An answer's fields are written as the columns behind the first, by place.
assert [name.removesuffix("_ms") for name in Answer.__struct_fields__] == list(_ANSWER_COLUMNS)[1:]


def answer_sink(settings: Settings) -> Sink:
    """The sink of answers, exact by their record's offset and their place in it."""
    return Sink(
        topic=topics_of(settings).answers,
        table="answers",
        shared={"partition": "UInt16", "log_offset": "UInt64"},
        columns=_ANSWER_COLUMNS,
        marks_sql=(
            "SELECT partition, tupleElement(mark, 1), tupleElement(mark, 2), tupleElement(mark, 1) FROM "
            "(SELECT partition, max((log_offset, position)) AS mark FROM answers GROUP BY partition)"
        ),
        witness_sql=(
            "SELECT partition, request_id, operation, toUnixTimestamp64Milli(answered_at) FROM answers WHERE "
            f"(log_offset, position) = {mark_sql('partition')} AND partition IN {{partitions:Array(UInt16)}}"
        ),
        witness_fields=tuple(map(list(_ANSWER_COLUMNS).index, ("request_id", "operation", "answered_at"))),
        part_of=_answers_part,
        mark_of=lambda record, row: (record.offset, row[0]),
        time_field=list(_ANSWER_COLUMNS).index("answered_at"),
    )


def _answers_part(record: Any) -> Part:
    try:
        answers = decode_answers(record.value)
    except UnreadableError as error:
        # Nothing follows from an answer, so those behind it are not kept waiting by one of another version.
        log.error("%s-%s at offset %s is no answers: %s", record.topic, record.partition, record.offset, error)
        answers = []
    if not answers:
        at_ms = min(max(record.timestamp, 0), TIME_MS_MAX)
        answers = [Answer("", at_ms, at_ms, "", 0, code="unreadable_record")]
    for each in answers:
        each.answered_at_ms = min(max(each.answered_at_ms, 0), TIME_MS_MAX)
        each.kept_until_ms = min(max(each.kept_until_ms, 0), TIME_MS_MAX)
    times = [each.answered_at_ms for each in answers]
    rows = [[position, *msgspec.structs.astuple(each)] for position, each in enumerate(answers)]
    last = (record.offset, len(rows) - 1)
    return Part((record.offset, 0), last, min(times), max(times), len(rows), encode_rows(rows))
