"""Acceptance: bytes from a producer become a Usage, or a Rejection that says why they are no usage event."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

import msgspec

from schemas.events import (
    EVENT_AGE_DAYS_MAX,
    EVENT_AHEAD_MINUTES_MAX,
    EVENT_BYTES_MIN,
    EVENTS_PER_RECORD_MAX,
    HASH_BYTES,
    PROJECT_ID_PATTERN,
    DeadLetter,
    Usage,
    UsageEvent,
)
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.core.foreign import Steps, decoded, finished, split_array, why_unreadable
from streams.core.pricing import meter

_AGE_MS_MAX = EVENT_AGE_DAYS_MAX * DAY_MS
_AHEAD_MS_MAX = EVENT_AHEAD_MINUTES_MAX * 60_000
_DEAD_LETTER_TEXT_MAX = 16 * 1024

_decode_event = msgspec.json.Decoder(UsageEvent).decode
_empty_hash = blake2b(digest_size=HASH_BYTES)
_decode_events = msgspec.json.Decoder(list[UsageEvent]).decode
_encode_json = msgspec.json.Encoder().encode


class _WithId(msgspec.Struct, gc=False):
    id: str


_decode_id = msgspec.json.Decoder(_WithId).decode

# The index, the bytes and the fault of an event that is not accepted.
Refused = tuple[int, bytes, Rejection]
Accepted = tuple[list[Usage], list[Refused]]

# Between so many events, or bytes of events that are read one by one, others have their turn.
EVENTS_AT_ONCE = 500
BYTES_AT_ONCE = 64 * 1024
COST_BYTES = 256

_PROJECT_ID = re.compile(PROJECT_ID_PATTERN)
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):([0-5]\d|60)(?:\.(\d+))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The key that an event came with, and whose it is; each field is "" where there was none.

    An event that contradicts its origin is refused.
    """

    project: str = ""
    key_id: str = ""
    environment: str = ""


ANYONE = Origin()


def accept_record(
    value: bytes | None,
    now_ms: int,
    operations: Container[str],
    origin: Origin = ANYONE,
    events_max: int = EVENTS_PER_RECORD_MAX,
) -> Accepted:
    """Read one record: a CloudEvent, or an array of at most `events_max`. Returns the good events and the bad ones.

    A bad event comes as (index, bytes, Rejection). It never costs its neighbours their acceptance: not even one that is
    no JSON, as long as it can be told where it ends. A record of too many events is one Rejection, `too_many_events`.
    `now_ms` is the record's broker time.
    """
    return finished(accepting(value, now_ms, operations, origin, events_max))


def accepting(
    value: bytes | None,
    now_ms: int,
    operations: Container[str],
    origin: Origin = ANYONE,
    events_max: int = EVENTS_PER_RECORD_MAX,
) -> Steps[Accepted]:
    """Read one record, as `accept_record` does, in steps of a few milliseconds."""
    if not value:
        return [], [(0, b"", Rejection("malformed_json", "The record is empty"))]
    if value.lstrip(b" \t\r\n")[:1] != b"[":
        return (yield from _each([value], now_ms, operations, origin))
    too_many = Rejection("too_many_events", f"At most {events_max} events are taken at once")
    # The fast way decodes the whole array at once, and stops at the first event that is at fault. It does not say which
    # that is; the slow way does. A good event has two brackets or three: where there are many more, count first.
    if value.count(b"{") <= 4 * events_max:
        try:
            events = decoded(_decode_events, value)
            if len(events) > events_max:
                return [], [(0, value, too_many)]
            accepted: list[Usage] = []
            for start in range(0, len(events), EVENTS_AT_ONCE):
                if start:
                    yield
                some = events[start : start + EVENTS_AT_ONCE]
                accepted += [to_usage(event, now_ms, operations, origin) for event in some]
            return accepted, []
        except MemoryError:
            raise
        except Exception:
            yield
    texts, rest = yield from split_array(value, events_max)
    if len(texts) > events_max:
        return [], [(0, value, too_many)]
    accepted, rejected = yield from _each(texts, now_ms, operations, origin)
    if rest is not None:
        rejected.append((len(texts), rest, Rejection("malformed_json", "The array of events does not end here")))
    return accepted, rejected


def _each(texts: list[bytes], now_ms: int, operations: Container[str], origin: Origin) -> Steps[Accepted]:
    accepted: list[Usage] = []
    rejected: list[Refused] = []
    size = 0
    for index, text in enumerate(texts):
        size += COST_BYTES + len(text)
        if size > BYTES_AT_ONCE:
            yield
            size = 0
        judged = judge(text, now_ms, operations, origin)
        if isinstance(judged, Rejection):
            rejected.append((index, text, judged))
        else:
            accepted.append(judged)
    return accepted, rejected


def judge(text: bytes, now_ms: int, operations: Container[str], origin: Origin = ANYONE) -> Usage | Rejection:
    """The Usage that one event states, or why it is refused."""
    try:
        return accept_event(text, now_ms, operations, origin)
    except Rejection as rejection:
        return rejection
    except MemoryError:
        raise
    except Exception as error:
        # A fault of ours, which is no reason to keep the neighbours waiting for its mending.
        return unprocessable(error)


def unprocessable(error: Exception) -> Rejection:
    """The Rejection of what a fault of ours stops: an error that nobody foresaw."""
    return Rejection("unprocessable_record", f"{type(error).__name__}: {why_unreadable(error)}")


def accept_event(text: bytes, now_ms: int, operations: Container[str], origin: Origin = ANYONE) -> Usage:
    """Read one CloudEvent. Raises Rejection."""
    return to_usage(read_event(text), now_ms, operations, origin)


def read_event(text: bytes) -> UsageEvent:
    """The well-formed event that a text in JSON is. Raises Rejection."""
    if not text:
        raise Rejection("malformed_json", "There is no event here: the array has a comma too many")
    return decoded(_decode_event, text)


def named(value: bytes, rejected: list[Refused], event_bytes_min: int = EVENT_BYTES_MIN) -> list[Refused]:
    """The refused events that get dead letters of their own: a letter for every `event_bytes_min` bytes of the record,
    and one more.

    What is shorter can't be an event, and rubbish must not cost a hundred times its size. One more letter says how many
    were left out; the record itself still has them.
    """
    most = 1 + len(value) // event_bytes_min
    if len(rejected) <= most:
        return rejected
    index, text, rejection = rejected[most]
    left_out = f"{len(rejected) - most} more of this record's events are refused, the first of them here: {rejection}"
    return [*rejected[:most], (index, text, Rejection(rejection.code, left_out, rejection.field))]


# `to_usage` makes uses by place, for each event that comes: fields that move would put one value in another's place.
assert Usage.__struct_fields__ == (
    "project",
    "dedup_hash",
    "source",
    "event_id",
    "operation",
    "quantity",
    "surcharge",
    "environment",
    "occurred_at_ms",
    "job_id",
    "key_id",
    "metadata",
)


def to_usage(event: UsageEvent, now_ms: int, operations: Container[str], origin: Origin = ANYONE) -> Usage:
    """The Usage that a well-formed event states. Raises Rejection where its meaning is wrong."""
    data = event.data
    check_project_id(event.subject)
    if origin.project and event.subject != origin.project:
        raise Rejection("wrong_project", "This key belongs to another project", "subject")
    occurred_at_ms = _occurred_at(event.time, now_ms)
    operation, quantity, surcharge = meter(data, operations)
    if origin.environment and data.environment and data.environment != origin.environment:
        raise Rejection("invalid_event", f"This key is for the {origin.environment} environment", "data.environment")
    return Usage(
        event.subject,
        dedup_hash(event.subject, event.source, event.id),
        event.source,
        event.id,
        operation,
        quantity,
        surcharge,
        data.environment or origin.environment or "production",
        occurred_at_ms,
        data.job_id or "",
        origin.key_id,
        _encode_json(data.metadata).decode() if data.metadata else "",
    )


def dedup_hash(project: str, source: str, event_id: str) -> bytes:
    """16 bytes that identify an event within its project. A cryptographic hash: nobody can make two ids collide."""
    made = _empty_hash.copy()  # which is quicker than to make one
    made.update(f"{project}:{len(source)}:{source}{event_id}".encode())
    return made.digest()


def dead_letter(
    text: bytes, rejection: Rejection, topic: str, partition: int, offset: int, index: int, received_at_ms: int
) -> DeadLetter:
    """The dead letter of a refused event: its first 16 KiB, the reason, and where the event stood."""
    return DeadLetter(
        code=rejection.code,
        detail=rejection.detail,
        field=rejection.field or "",
        topic=topic,
        partition=partition,
        offset=offset,
        index=index,
        received_at_ms=received_at_ms,
        event=text[:_DEAD_LETTER_TEXT_MAX].decode("utf-8", "replace"),
    )


def event_id_of(text: bytes) -> str | None:
    """The id by which an answer names a refused event; None where it can't be read."""
    try:
        return decoded(_decode_id, text).id[:256]
    except Rejection:
        return None


def check_project_id(text: str) -> None:
    """Raise Rejection where a subject is no project id."""
    if not is_project_id(text):
        raise Rejection("invalid_event", "`subject`: a project id has letters, digits, - and _ only", "subject")


@lru_cache(maxsize=1 << 16)
def is_project_id(text: str) -> bool:
    """Whether a project could have this id."""
    return _PROJECT_ID.fullmatch(text) is not None


def _occurred_at(time: str | None, now_ms: int) -> int:
    """Unix milliseconds of an event's time, `now_ms` where it bears none."""
    if not time:
        return now_ms
    occurred_at_ms = moment_of(time)
    earliest_ms, latest_ms = moments_taken(now_ms)
    if not earliest_ms <= occurred_at_ms <= latest_ms:
        raise Rejection(
            "time_out_of_range",
            f"`time` is more than {EVENT_AGE_DAYS_MAX} days old or {EVENT_AHEAD_MINUTES_MAX} minutes ahead",
            "time",
        )
    return occurred_at_ms


def moments_taken(now_ms: int) -> tuple[int, int]:
    """The earliest and the latest moment that an event may bear that comes now."""
    return now_ms - _AGE_MS_MAX, now_ms + _AHEAD_MS_MAX


def moment_of(time: str) -> int:
    """Unix milliseconds of an RFC 3339 time (section 5.6). Raises Rejection.

    A fraction is cut after the millisecond. A leap second, :60, is the second after :59.
    """
    found = _RFC_3339.fullmatch(time)
    if found is None:
        lacks_zone = _RFC_3339.fullmatch(time + "Z") is not None
        detail = "has no zone; end it with Z" if lacks_zone else "is not an RFC 3339 time"
        raise Rejection("time_out_of_range", f"`time` {detail}", "time")
    date, clock, second, fraction, zone = found.groups()
    try:
        minute = datetime.fromisoformat(f"{date}T{clock}:00{'+00:00' if zone in 'Zz' else zone}")
        return round(minute.timestamp()) * 1000 + int(second) * 1000 + int(f"{fraction or '':0<3.3}")
    except (ValueError, OverflowError):
        raise Rejection("time_out_of_range", "`time` is no time of any calendar", "time") from None
