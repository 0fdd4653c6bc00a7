"""Packed usage: the form in which KafkaProducer sends events, each read, metered and timed where it was made.

Nothing in it is trusted. What is plainly a good event is taken as it is, and its hash is made here; all else is judged
as the JSON that it says. So both forms have one set of rules, codes and dead letters.

A pack is the number of its events, the length of each, and the events, a MessagePack array; numbers have four bytes,
big-endian. By their lengths the events can be told apart, whatever one of them has become.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from schemas.events import EVENT_TYPE, EVENTS_PER_RECORD_MAX, PackedUsage, Usage
from schemas.problems import Rejection
from streams.core.acceptance import (
    BYTES_AT_ONCE,
    COST_BYTES,
    EVENTS_AT_ONCE,
    Accepted,
    Refused,
    check_project_id,
    dedup_hash,
    is_project_id,
    judge,
    moment_of,
    moments_taken,
    read_event,
)
from streams.core.foreign import Steps, UnreadableError, read
from streams.core.pricing import UNMETERED, meter

_NUMBER_BYTES = 4
# The head of an array whose length has four bytes.
_ARRAY = b"\xdd"
# No event is as long, whatever its fields. Rubbish would take fifty times its size once it is made into objects.
_EVENT_BYTES_MAX = 128 * 1024
_SOCIAL_POST = "social_post.text"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS, _LAST_MS = (
    (moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1) for moment in (datetime.min, datetime.max)
)

_encode = msgspec.msgpack.Encoder().encode
_decode_events = msgspec.msgpack.Decoder(list[PackedUsage]).decode
_decode_any = msgspec.msgpack.Decoder().decode
_encode_json = msgspec.json.Encoder().encode


class _NotPlainError(Exception):
    """Raised for a packed event that is to be judged as JSON."""


def packed_event(text: bytes) -> tuple[str, bytes]:
    """The project of an event in JSON, and its packed form. Raises Rejection where it is good at no time and under no
    price book: then its JSON is what to send."""
    event = read_event(text)
    data = event.data
    check_project_id(event.subject)
    occurred_at_ms = moment_of(event.time) if event.time else None
    operation, quantity, surcharge = meter(data, None)
    packed = PackedUsage(
        event.subject,
        event.source,
        event.id,
        operation,
        quantity,
        surcharge,
        data.environment or "production",
        occurred_at_ms,
        data.job_id or "",
        data.metadata or {},
    )
    return event.subject, _encode(packed)


def pack(events: Sequence[bytes]) -> bytes:
    """The pack of events that `packed_event` gave."""
    number = len(events).to_bytes(_NUMBER_BYTES, "big")
    return b"".join((number, struct.pack(f">{len(events)}I", *map(len, events)), _ARRAY, number, *events))


def unpack(value: bytes) -> list[PackedUsage]:
    """The events of a pack whose events are all well-formed. Raises UnreadableError."""
    events = read(_decode_events, memoryview(value)[_start(value) - len(_ARRAY) - _NUMBER_BYTES :])
    if len(events) != _count(value):
        raise UnreadableError(f"It has {len(events)} events, and says that it has {_count(value)}")
    return events


def accept_pack(
    value: bytes, now_ms: int, operations: Container[str], events_max: int = EVENTS_PER_RECORD_MAX
) -> Steps[Accepted]:
    """Read one pack, as `acceptance.accepting` reads a record of JSON, in steps of a few milliseconds.

    A bad event comes with its JSON, or, where it can't be read, with its own bytes.
    """
    count = _count(value)
    if count > events_max:
        return [], [(0, value, Rejection("too_many_events", f"At most {events_max} events are taken at once"))]
    try:
        events = unpack(value)
        accepted: list[Usage] = []
        for start in range(0, count, EVENTS_AT_ONCE):
            if start:
                yield
            accepted += _usage_of(events[start : start + EVENTS_AT_ONCE], now_ms, operations)
        return accepted, []
    except MemoryError:
        raise
    except Exception:
        yield
    return (yield from _each(value, count, now_ms, operations))


def _count(value: bytes) -> int:
    return int.from_bytes(value[:_NUMBER_BYTES], "big")


def _start(value: bytes) -> int:
    """The place of the first event. Raises UnreadableError where the pack ends before it."""
    start = _NUMBER_BYTES * (1 + _count(value)) + len(_ARRAY) + _NUMBER_BYTES
    if len(value) < start:
        raise UnreadableError("It ends before its first event")
    return start


def _each(value: bytes, count: int, now_ms: int, operations: Container[str]) -> Steps[Accepted]:
    """The events of a pack, each judged by itself."""
    accepted: list[Usage] = []
    rejected: list[Refused] = []
    try:
        end = _start(value)
    except UnreadableError as error:
        return [], [(0, value, _unreadable(error))]
    size = 0
    for index, length in enumerate(struct.unpack_from(f">{count}I", value, _NUMBER_BYTES)):
        start, end = end, end + length
        if end > len(value):
            rejected.append((index, value[start:], _unreadable(UnreadableError("The record ends within it"))))
            return accepted, rejected
        size += COST_BYTES + length
        if size > BYTES_AT_ONCE:
            yield
            size = 0
        text = value[start:end]
        judged: Usage | Rejection
        try:
            text = read(_json_of, text)
        except UnreadableError as error:
            judged = _unreadable(error)
        else:
            judged = judge(text, now_ms, operations)
        if isinstance(judged, Rejection):
            rejected.append((index, text, judged))
        else:
            accepted.append(judged)
    if end < len(value):
        rejected.append((count, value[end:], _unreadable(UnreadableError("The record goes on behind its events"))))
    return accepted, rejected


def _unreadable(error: UnreadableError) -> Rejection:
    return Rejection("unreadable_record", f"Packed usage that can't be read: {error}")


def _usage_of(events: list[PackedUsage], now_ms: int, operations: Container[str]) -> list[Usage]:
    """The Usage that each of these events states. Raises _NotPlainError where one is not plainly good."""
    found = []
    earliest_ms, latest_ms = moments_taken(now_ms)
    for event in events:
        operation, occurred_at_ms = event.operation, event.occurred_at_ms
        if occurred_at_ms is None:
            occurred_at_ms = now_ms
        elif not earliest_ms <= occurred_at_ms <= latest_ms:
            raise _NotPlainError
        if (
            operation not in operations
            or operation in UNMETERED
            or (event.surcharge and operation != _SOCIAL_POST)
            or not is_project_id(event.project)
        ):
            raise _NotPlainError
        found.append(
            Usage(
                event.project,
                dedup_hash(event.project, event.source, event.event_id),
                event.source,
                event.event_id,
                operation,
                event.quantity,
                event.surcharge,
                event.environment,
                occurred_at_ms,
                event.job_id,
                "",
                _encode_json(event.metadata).decode() if event.metadata else "",
            )
        )
    return found


def _json_of(piece: bytes) -> bytes:
    """The event in JSON that a packed event says, whatever its values are."""
    if len(piece) > _EVENT_BYTES_MAX:
        raise UnreadableError("It is longer than any event")
    values = read(_decode_any, piece)
    names = PackedUsage.__struct_fields__
    if not isinstance(values, list) or len(values) != len(names):
        raise UnreadableError(f"It is no array of {len(names)} values")
    said: dict[str, Any] = dict(zip(names, values, strict=True))
    data = {"operation": said["operation"], "quantity": said["quantity"], "environment": said["environment"]}
    if said["surcharge"] != "":
        data["media_type"] = _media_type(said["surcharge"])
    if said["job_id"] != "":
        data["job_id"] = said["job_id"]
    if said["metadata"] != {}:
        data["metadata"] = said["metadata"]
    event = {
        "specversion": "1.0",
        "id": said["event_id"],
        "source": said["source"],
        "type": EVENT_TYPE,
        "subject": said["project"],
        "data": data,
    }
    if said["occurred_at_ms"] is not None:
        event["time"] = _time(said["occurred_at_ms"])
    return _encode_json(event)


def _media_type(surcharge: object) -> object:
    return surcharge.removeprefix("social_post.") if isinstance(surcharge, str) else surcharge


def _time(at_ms: object) -> object:
    """The RFC 3339 text of a moment; the first or the last one that there is where it is out of all calendars."""
    if not isinstance(at_ms, int):
        return at_ms
    moment = _EPOCH + timedelta(milliseconds=min(max(at_ms, _FIRST_MS), _LAST_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
