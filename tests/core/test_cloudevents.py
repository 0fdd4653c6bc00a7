"""CloudEvents as their SDKs send them: binary mode, attributes that are null, RFC 3339 times; and bounds on numbers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import UsageData
from schemas.prices import FIRST_PRICE_BOOK
from schemas.problems import CODES, Rejection
from streams.core.acceptance import accept_event, accept_record
from streams.core.cloudevents import ATTRIBUTES_MAX, accept_binary, http_attributes, kafka_attributes
from tests.core.builders import START_MS
from tests.core.test_acceptance import data, event

OPERATIONS = FIRST_PRICE_BOOK.rates
START = datetime.fromtimestamp(START_MS / 1000, UTC)


def from_sdk(**attributes: Any) -> CloudEvent:
    whole = {"id": "e1", "source": "/gateway", "type": "usage", "subject": "p1", "time": START} | attributes
    return CloudEvent(attributes=whole, data={"operation": "image", "metadata": {"customer_id": "c"}})


@pytest.mark.parametrize("id", ["e1", 'größe 100% "quoted"', "日本", "a/b?c=d&e"])
def test_the_sdk_speaks_to_us_in_all_its_modes(id: str) -> None:
    told = from_sdk(id=id)
    structured = http.to_structured(told, JSONFormat())
    wanted = accept_record(structured.body, START_MS, OPERATIONS)
    assert [(usage.event_id, usage.operation, usage.occurred_at_ms) for usage in wanted[0]] == [(id, "image", START_MS)]
    binary = http.to_binary(told, JSONFormat())
    headers = [(name.lower().encode(), value.encode()) for name, value in binary.headers.items()]
    attributes = http_attributes(headers)
    assert attributes is not None
    assert accept_binary(attributes, binary.body, START_MS, OPERATIONS) == wanted
    message = kafka.to_binary(told, JSONFormat())
    on_kafka = kafka_attributes([(name, value) for name, value in message.headers.items()])
    assert on_kafka is not None
    assert accept_binary(on_kafka, message.value, START_MS, OPERATIONS) == wanted
    as_json = kafka.to_structured(told, JSONFormat())
    assert kafka_attributes(list(as_json.headers.items())) is None
    assert accept_record(as_json.value, START_MS, OPERATIONS) == wanted


BINARY = {"specversion": "1.0", "id": "e1", "source": "/gateway", "type": "usage", "subject": "p1"}


@pytest.mark.parametrize(
    ("attributes", "body", "code", "field"),
    [
        (BINARY | {"specversion": "0.3"}, b'{"operation":"image"}', "invalid_event", "specversion"),
        ({k: v for k, v in BINARY.items() if k != "id"}, b'{"operation":"image"}', "missing_id", "id"),
        ({k: v for k, v in BINARY.items() if k != "source"}, b'{"operation":"image"}', "missing_field", "source"),
        (BINARY | {"subject": "a b"}, b'{"operation":"image"}', "invalid_event", "subject"),
        (BINARY | {"time": "yesterday"}, b'{"operation":"image"}', "time_out_of_range", "time"),
        (BINARY, b"", "malformed_json", None),
        (BINARY, b"null", "missing_field", "data"),
        (BINARY, b'{"operation":"hologram"}', "unknown_operation", "data.operation"),
        (BINARY, b'{"operation":"image"},"subject":"p2"', "malformed_json", None),
        (BINARY, b"[" * 2000, "malformed_json", None),
        (BINARY, b"\xff\xfe", "malformed_json", None),
    ],
)
def test_each_fault_of_an_event_in_binary_mode_has_its_code(
    attributes: dict[str, str], body: bytes, code: str, field: str | None
) -> None:
    accepted, ((index, text, rejection),) = accept_binary(attributes, body, START_MS, OPERATIONS)
    assert (accepted, index, rejection.code, rejection.field) == ([], 0, code, field)
    # What a dead letter shows can be sent again, once it is put right.
    told = json.loads(text)
    assert {name: told[name] for name in attributes} == attributes
    if code == "malformed_json":
        assert told["data"] == body.decode(errors="replace")
    else:
        assert told["data"] == json.loads(body)


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ([(b"ce-specversion", b"1.0"), (b"ce-id", b"a"), (b"ce-id", b"b")], "id"),
        ([(b"ce-specversion", b"1.0"), (b"ce-id", b"%ff")], "id"),
        ([(b"ce-specversion", b"1.0"), (b"ce-id", b"\xe9")], "id"),
        ([(b"ce-specversion", b"1.0")] + [(b"ce-x%d" % n, b"") for n in range(ATTRIBUTES_MAX + 2)], None),
    ],
)
def test_attributes_that_cannot_be_read_are_refused_by_name(headers: list[tuple[bytes, bytes]], field: str) -> None:
    with pytest.raises(Rejection) as refused:
        http_attributes(headers)
    assert refused.value.code == "invalid_event"
    assert field is None or refused.value.field == field


def test_what_has_no_specversion_in_its_headers_is_not_in_binary_mode() -> None:
    assert http_attributes([(b"content-type", b"application/json"), (b"ce-id", b"1")]) is None
    assert kafka_attributes([("ce_specversion", b"1.0"), ("content-type", b"application/cloudevents+json")]) is None
    assert kafka_attributes([]) is None


NAMES = ("ce_specversion", "ce_id", "ce_time", "content-type", "x")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=9))))
def test_whatever_stands_in_headers_is_an_event_or_a_rejection(headers: list[tuple[str, bytes]]) -> None:
    for read in (kafka_attributes, lambda some: http_attributes([(n.replace("_", "-").encode(), v) for n, v in some])):
        try:
            attributes = read(headers)
        except Rejection as rejection:
            assert rejection.code in CODES
            continue
        if attributes is not None:
            accepted, rejected = accept_binary(attributes, b'{"operation":"image"}', START_MS, OPERATIONS)
            assert len(accepted) + len(rejected) == 1


def test_an_attribute_that_is_null_is_not_set() -> None:
    for unset in ({"time": None}, {"datacontenttype": None}, {"dataschema": None, "extension": None}):
        assert accept_event(json.dumps(event(**unset)).encode(), START_MS, OPERATIONS).occurred_at_ms == START_MS
    optional = dict.fromkeys(set(UsageData.__struct_fields__) - {"operation"})
    usage = accept_event(json.dumps(data(**optional)).encode(), START_MS, OPERATIONS)
    assert usage == accept_event(json.dumps(event()).encode(), START_MS, OPERATIONS)
    for required in ("specversion", "id", "source", "type", "subject", "data"):
        with pytest.raises(Rejection) as refused:
            accept_event(json.dumps(event(**{required: None})).encode(), START_MS, OPERATIONS)
        assert refused.value.field == required
        assert refused.value.code == ("missing_id" if required == "id" else "missing_field")


def occurred(time: str) -> int | str:
    """The time that an event with this time is taken for, as milliseconds from START; the code where it is refused."""
    try:
        return accept_event(json.dumps(event(time=time)).encode(), START_MS, OPERATIONS).occurred_at_ms - START_MS
    except Rejection as rejection:
        return rejection.code


# START is 2026-05-28T20:26:40Z.
@pytest.mark.parametrize(
    ("time", "ms"),
    [
        ("2026-05-28T20:26:40Z", 0),
        ("2026-05-28t20:26:40z", 0),
        ("2026-05-28T20:26:40.1Z", 100),
        ("2026-05-28T20:26:40.123456789Z", 123),
        ("2026-05-28T20:26:40.9999Z", 999),
        ("2026-05-28T22:26:40+02:00", 0),
        ("2026-05-29T01:56:40+05:30", 0),
        ("2026-05-28T20:26:40-00:00", 0),
        ("2026-05-27T20:27:40-23:59", 0),
        ("2026-05-28T20:25:60Z", -40_000),
    ],
)
def test_rfc_3339_times_are_taken(time: str, ms: int) -> None:
    assert occurred(time) == (ms if abs(ms) < 600_000 else "time_out_of_range") or time.endswith("-23:59")


@pytest.mark.parametrize(
    "time",
    [
        "2026-05-28",
        "2026-W22-4T20:26:40Z",
        "2026-148T20:26:40Z",
        "20260528T202640Z",
        "2026-05-28 20:26:40Z",
        "2026-05-28T20:26Z",
        "2026-05-28T20Z",
        "2026-05-28T20:26:40",
        "2026-05-28T20:26:40,5Z",
        "2026-05-28T20:26:40.Z",
        "2026-05-28T20:26:40+0200",
        "2026-05-28T20:26:40+02",
        "2026-05-28T20:26:40+24:00",
        "2026-05-28T20:26:40+02:00:30",
        "2026-05-28T20:26:61Z",
        "2026-05-28T24:00:00Z",
        "2026-05-32T20:26:40Z",
        "2026-02-29T20:26:40Z",
        "0000-05-28T20:26:40Z",
        "+2026-05-28T20:26:40Z",
        " 2026-05-28T20:26:40Z",
        "2026-05-28T20:26:40Z\n",
        "２０２６-05-28T20:26:40Z",
        "1780000000",
        "yesterday",
    ],
)
def test_no_other_time_is(time: str) -> None:
    assert occurred(time) == "time_out_of_range"


NOW = START.replace(tzinfo=None)


@given(st.datetimes(NOW - timedelta(days=30), NOW), st.integers(-1439, 1439))
def test_a_time_is_the_same_in_every_zone(at: datetime, offset_minutes: int) -> None:
    local = at + timedelta(minutes=offset_minutes)
    sign, minutes = "+-"[offset_minutes < 0], abs(offset_minutes)
    text = f"{local.isoformat(timespec='milliseconds')}{sign}{minutes // 60:02}:{minutes % 60:02}"
    assert occurred(text) == (at - NOW) // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "number",
    ["1e400", "-1e400", "9" * 10_000, "-" + "9" * 400, str(2**63), str(-(2**63) - 1), str(2**64), "1" + "0" * 30],
)
def test_metadata_numbers_are_bounded(number: str) -> None:
    text = json.dumps(data(metadata={"k": 0})).replace('"k": 0', f'"k": {number}')
    with pytest.raises(Rejection) as refused:
        accept_event(text.encode(), START_MS, OPERATIONS)
    assert refused.value.code in ("metadata_too_large", "malformed_json")
    assert len(str(refused.value)) < 1000


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.floats() | st.integers() | st.text(max_size=20), max_size=4))
def test_metadata_that_is_taken_can_be_written_and_read_again(metadata: dict[str, Any]) -> None:
    text = json.dumps(data(metadata=metadata)).encode()
    accepted, rejected = accept_record(text, START_MS, OPERATIONS)
    assert len(accepted) + len(rejected) == 1
    for usage in accepted:
        assert msgspec.json.decode(usage.metadata or "{}") == metadata
