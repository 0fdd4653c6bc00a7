"""The sink of deliveries: each attempt to deliver a notice, as the courier reports it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from schemas.events import TIME_MS_MAX
from schemas.notices import DeliveryAttempt
from streams.clickhouse.historian import Part, Sink, encode_rows, mark_sql
from streams.core.foreign import UnreadableError
from streams.kafka.codecs import decode_attempt
from streams.kafka.topics import topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

_DELIVERY_COLUMNS = {
    "id": "String",
    "project": "String",
    "environment": "String",
    "endpoint_id": "String",
    "notice_id": "String",
    "notice_type": "String",
    "number": "UInt32",
    "sent_at": "DateTime64(3, 'UTC')",
    "status": "UInt16",
    "ms": "UInt32",
    "answer": "String",
    "error": "String",
    "next_at": "DateTime64(3, 'UTC')",
    "is_delivered": "Bool",
    "is_billed": "Bool",
}
# An attempt's fields are written as these columns by place.
assert [name.removesuffix("_ms") for name in DeliveryAttempt.__struct_fields__] == list(_DELIVERY_COLUMNS)
_SENT_AT = list(_DELIVERY_COLUMNS).index("sent_at")


def delivery_sink(settings: Settings) -> Sink:
    """The sink of attempts, exact by their offset on their topic."""
    return Sink(
        topic=topics_of(settings).deliveries,
        table="deliveries",
        shared={"partition": "UInt16", "log_offset": "UInt64"},
        columns=_DELIVERY_COLUMNS,
        marks_sql="SELECT partition, max(log_offset) AS newest, 0, newest FROM deliveries GROUP BY partition",
        witness_sql=(
            "SELECT partition, id, toUnixTimestamp64Milli(sent_at) FROM deliveries WHERE "
            f"(log_offset, 0) = {mark_sql('partition')} AND partition IN {{partitions:Array(UInt16)}}"
        ),
        witness_fields=(0, _SENT_AT),
        part_of=_attempt_part,
        mark_of=lambda record, row: (record.offset, 0),
        time_field=_SENT_AT,
    )


def _attempt_part(record: Any) -> Part:
    try:
        attempt = decode_attempt(record.value)
    except UnreadableError as error:
        # Nothing follows from an attempt, so those behind it are not kept waiting by what is none.
        log.error("%s-%s at offset %s is no attempt: %s", record.topic, record.partition, record.offset, error)
        at_ms = min(max(record.timestamp, 0), TIME_MS_MAX)
        attempt = DeliveryAttempt("", "", "", "", "", "", 0, at_ms, 0, 0, b"", "unreadable_record", 0, False, False)
    sent_at_ms = min(max(attempt.sent_at_ms, 0), TIME_MS_MAX)
    row = list(
        msgspec.structs.astuple(
            msgspec.structs.replace(
                attempt,
                sent_at_ms=sent_at_ms,
                number=min(max(attempt.number, 0), (1 << 32) - 1),
                status=min(max(attempt.status, 0), (1 << 16) - 1),
                ms=min(max(attempt.ms, 0), (1 << 32) - 1),
                next_at_ms=min(max(attempt.next_at_ms, 0), TIME_MS_MAX),
            )
        )
    )
    mark = (record.offset, 0)
    return Part(mark, mark, sent_at_ms, sent_at_ms, 1, encode_rows([row]))
