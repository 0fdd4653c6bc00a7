"""Acceptance: bytes from a producer become a Usage, or a Rejection that says why they are no usage event."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from schemas.events import (
    EVENT_AGE_DAYS_MAX,
    EVENT_AHEAD_MINUTES_MAX,
    PROJECT_ID_PATTERN,
    DeadLetter,
    Usage,
    UsageEvent,
)
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.core.pricing import meter

_AGE_MS_MAX = EVENT_AGE_DAYS_MAX * DAY_MS
_AHEAD_MS_MAX = EVENT_AHEAD_MINUTES_MAX * 60_000
_DEAD_LETTER_TEXT_MAX = 16 * 1024

_decode_event = msgspec.json.Decoder(UsageEvent).decode
_decode_events = msgspec.json.Decoder(list[UsageEvent]).decode
_decode_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode_json = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode

_PROJECT_ID = re.compile(PROJECT_ID_PATTERN)
_ERROR_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`")
_QUANTITY_FIELDS = ("quantity", "target_languages", "attempts", "networks")


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
    value: bytes | None, now_ms: int, operations: Container[str], origin: Origin = ANYONE
) -> tuple[list[Usage], list[tuple[int, bytes, Rejection]]]:
    """Read one record: a CloudEvent, or an array of them. Returns the good events and the bad ones.

    A bad event comes as (index, bytes, Rejection). It never costs its neighbours their acceptance. `now_ms` is the
    record's broker time.
    """
    if not value:
        return [], [(0, b"", Rejection("malformed_json", "The record is empty"))]
    accepted: list[Usage] = []
    rejected: list[tuple[int, bytes, Rejection]] = []
    is_batch = value.lstrip(b" \t\r\n")[:1] == b"["
    if is_batch:
        try:
            # The fast way decodes the whole array at once. It does not say which event is at fault; the slow way does.
            for event in _decode_events(value):
                accepted.append(to_usage(event, now_ms, operations, origin))
            return accepted, rejected
        except (msgspec.DecodeError, UnicodeDecodeError, Rejection):
            accepted.clear()
        try:
            texts = [bytes(raw) for raw in _decode_raw(value)]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return [], [(0, value, Rejection("malformed_json", str(error)))]
    else:
        texts = [value]
    for index, text in enumerate(texts):
        try:
            accepted.append(accept_event(text, now_ms, operations, origin))
        except Rejection as rejection:
            rejected.append((index, text, rejection))
    return accepted, rejected


def accept_event(text: bytes, now_ms: int, operations: Container[str], origin: Origin = ANYONE) -> Usage:
    """Read one CloudEvent. Raises Rejection."""
    try:
        event = _decode_event(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise decoding_rejection(error) from None
    return to_usage(event, now_ms, operations, origin)


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
    if not _is_project_id(event.subject):
        raise Rejection("invalid_event", "`subject`: a project id has letters, digits, - and _ only", "subject")
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
        data.job_id,
        origin.key_id,
        _encode_json(data.metadata).decode() if data.metadata else "",
    )


def dedup_hash(project: str, source: str, event_id: str) -> bytes:
    """16 bytes that identify an event within its project. A cryptographic hash: nobody can make two ids collide."""
    return blake2b(f"{project}:{len(source)}:{source}{event_id}".encode(), digest_size=16).digest()


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
        event: Any = _decode_any(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    found = event.get("id") if isinstance(event, dict) else None
    return found[:256] if isinstance(found, str) else None


@lru_cache(maxsize=1 << 16)
def _is_project_id(text: str) -> bool:
    return _PROJECT_ID.fullmatch(text) is not None


def _occurred_at(time: str, now_ms: int) -> int:
    if not time:
        return now_ms
    try:
        occurred = datetime.fromisoformat(time)
    except ValueError:
        raise Rejection("time_out_of_range", "`time` is not an RFC 3339 time", "time") from None
    if occurred.tzinfo is None:
        raise Rejection("time_out_of_range", "`time` has no zone; end it with Z", "time")
    occurred_at_ms = round(occurred.timestamp() * 1000)
    if not now_ms - _AGE_MS_MAX <= occurred_at_ms <= now_ms + _AHEAD_MS_MAX:
        raise Rejection(
            "time_out_of_range",
            f"`time` is more than {EVENT_AGE_DAYS_MAX} days old or {EVENT_AHEAD_MINUTES_MAX} minutes ahead",
            "time",
        )
    return occurred_at_ms


def decoding_rejection(error: Exception) -> Rejection:
    """The Rejection for an error that msgspec raised while decoding; the field at fault decides the code."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Rejection("malformed_json", text)
    path_match = _ERROR_PATH.search(text)
    path = path_match.group(1) if path_match else ""
    detail = text[: path_match.start()] if path_match else text
    if missing := _MISSING.search(text):
        field = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return Rejection("missing_id" if field == "id" else "missing_field", f"`{field}` is missing", field)
    if unknown := _UNKNOWN_FIELD.search(text):
        field = f"{path}.{unknown.group(1)}" if path else unknown.group(1)
        return Rejection("invalid_event", f"`{field[:120]}` is not a field of a usage event", field[:120])
    if path == "id" and "length >= 1" in text:
        return Rejection("missing_id", "`id` is empty", "id")
    name = path.removeprefix("data.")
    if name in _QUANTITY_FIELDS:
        return Rejection("invalid_quantity", f"`{path}`: {detail}", path)
    if name.startswith("metadata") and "length <=" in text:
        path = path.removesuffix("[...]")
        return Rejection("metadata_too_large", f"`{path}`: {detail}", path)
    return Rejection("invalid_event", f"`{path}`: {detail}" if path else detail, path or None)
