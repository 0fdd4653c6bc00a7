"""Packed usage is accepted and refused exactly as its JSON is; whatever its bytes, it costs its neighbours nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import PACKED_EVENT_BYTES_MIN, PackedUsage, Usage
from schemas.prices import FIRST_PRICE_BOOK
from schemas.problems import CODES, Rejection
from schemas.times import DAY_MS
from streams.core import packed_usage
from streams.core.acceptance import (
    BYTES_AT_ONCE,
    EVENTS_AT_ONCE,
    Accepted,
    Refused,
    accept_event,
    accept_record,
    accepting,
    dedup_hash,
    named,
)
from streams.core.foreign import finished
from streams.core.packed_usage import accept_pack, pack, packed_event
from streams.kafka.codecs import encode_usage
from tests.core.builders import START_MS
from tests.core.test_acceptance import WRONG, data, event, text_of
from tests.core.test_foreign import FAULTY, POISON

OPERATIONS = FIRST_PRICE_BOOK.rates
# A moment after START_MS at which what was in time then is too old, and one at which what was ahead no longer is.
LATER_MS, SOON_MS = START_MS + 40 * DAY_MS, START_MS + DAY_MS


def packed(**changes: Any) -> bytes:
    return packed_event(json.dumps(event(**changes)).encode())[1]


def accepted_of(value: bytes, now_ms: int = START_MS, events_max: int = 10_000) -> Accepted:
    return finished(accept_pack(value, now_ms, OPERATIONS, events_max))


def reasons(rejected: list[Refused]) -> list[tuple[int, str, str, str | None]]:
    return [(index, each.code, each.detail, each.field) for index, _, each in rejected]


def outcome(text: bytes, now_ms: int) -> Usage | tuple[str, str, str | None]:
    try:
        return accept_event(text, now_ms, OPERATIONS)
    except Rejection as rejection:
        return rejection.code, rejection.detail, rejection.field


def raw(**changes: Any) -> bytes:
    """A packed event whose fields have any values, which no producer of ours sends."""
    good = PackedUsage("p1", "/gateway", "e1", "image", 1, "", "production", None, "", {})
    values = {name: getattr(good, name) for name in PackedUsage.__struct_fields__} | changes
    return msgspec.msgpack.encode(list(values.values()))


numbers = st.integers(-1, 3) | st.sampled_from([9_999, 10_000, 10_001, 2**63, 2**64])
texts = st.text(max_size=6) | st.sampled_from(["x" * 128, "é" * 129, "x" * 256, "x" * 257, "\ud83d"])
metadata = st.dictionaries(
    st.text(min_size=1, max_size=4) | st.sampled_from(["", "k" * 64, "k" * 65]),
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([2**63, -(2**63) - 1, "v" * 512, "v" * 513, {"a": 1}])
    | texts,
    max_size=4,
)
# Moments that have no text without their zones.
OUT_OF_CALENDARS = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
times = st.sampled_from(
    [
        *OUT_OF_CALENDARS,
        None,
        "",
        "2026-05-28T20:26:40Z",
        "2026-05-28t22:36:40.9999+02:00",
        "2026-04-27T20:26:40.000Z",
        "2026-04-27T20:26:39.999Z",
        "2026-06-30T23:59:60Z",
        "2026-05-28T10:00:00",
        "2026-02-30T10:00:00Z",
        "yesterday",
    ]
)
operations = st.sampled_from([*OPERATIONS, "social_post", "video", "hologram", "", "x" * 257])
details = st.fixed_dictionaries(
    {"operation": operations},
    optional={
        "quantity": numbers | st.none(),
        "target_languages": numbers,
        "attempts": numbers,
        "networks": numbers,
        "tier": st.sampled_from(["budget", "premium", "x"]),
        "media_type": st.sampled_from(["none", "image", "video", "x"]),
        "environment": st.sampled_from(["production", "preview", "x", None]),
        "job_id": texts | st.none(),
        "metadata": metadata | st.none(),
        "quantty": numbers,
    },
)
# What is good, but for its time and for what the price book has.
good_details = st.builds(
    lambda operation, more: {"operation": operation} | more,
    st.sampled_from([*OPERATIONS, "social_post", "video", "hologram"]),
    st.fixed_dictionaries(
        {},
        optional={
            "quantity": st.integers(1, 10_000) | st.none(),
            "environment": st.sampled_from(["production", "preview", None]),
            "job_id": st.text(max_size=128) | st.none(),
            "metadata": st.dictionaries(
                st.text(min_size=1, max_size=64),
                st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=64),
                max_size=4,
            ),
        },
    ),
)
names = st.text(min_size=1, max_size=8) | st.sampled_from(["x" * 256, "é" * 256])
good_events = st.builds(
    lambda id, source, time, data: event(id=id, source=source, time=time, data=data), names, names, times, good_details
)
events = good_events | st.builds(
    lambda id, source, subject, time, data: event(id=id, source=source, subject=subject, time=time, data=data),
    texts | st.just(...),
    names | texts,
    st.sampled_from(["p1", "p-2", "a b", "", "x" * 64, "x" * 65, "é"]),
    times,
    details,
)


@given(events, st.sampled_from([START_MS, SOON_MS, LATER_MS]))
def test_an_event_has_the_same_outcome_in_both_forms(body: dict[str, Any], now_ms: int) -> None:
    text = json.dumps(body).encode()
    expected, refused = accept_record(b"[" + text + b"]", now_ms, OPERATIONS)
    try:
        project, made = packed_event(text)
    except Rejection:
        # Its JSON is what is sent: it is refused whenever it comes.
        assert refused and not expected
        return
    assert project == body["subject"]
    accepted, rejected = accepted_of(pack([made]), now_ms)
    assert accepted == expected
    assert reasons(rejected) == reasons(refused)
    for _, told, _ in rejected:
        # The dead letter shows an event that is the same use, and that can be sent again.
        assert packed_event(told) == (project, made) or body["time"] in OUT_OF_CALENDARS
        for at_ms in (START_MS, SOON_MS, LATER_MS):
            assert outcome(told, at_ms) == outcome(text, at_ms)


@given(st.lists(good_events, max_size=5), st.sampled_from([START_MS, SOON_MS]))
def test_records_of_both_forms_give_the_same_usage_in_the_same_order(bodies: list[Any], now_ms: int) -> None:
    texts = []
    for body in bodies:
        text = json.dumps(body).encode()
        try:
            packed_event(text)
        except Rejection:
            continue
        texts.append(text)
    accepted, rejected = accepted_of(pack([packed_event(text)[1] for text in texts]), now_ms)
    expected, refused = accept_record(b"[" + b",".join(texts) + b"]", now_ms, OPERATIONS)
    assert accepted == expected
    assert reasons(rejected) == reasons(refused)


# Values that a packed event may bear, and the same in JSON.
OUT_OF_BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an empty id": ({"event_id": ""}, event(id="")),
    "a long id": ({"event_id": "x" * 257}, event(id="x" * 257)),
    "an id that is a number": ({"event_id": 7}, event(id=7)),
    "no id": ({"event_id": None}, event(id=None)),
    "no source": ({"source": ""}, event(source="")),
    "a long source": ({"source": "x" * 257}, event(source="x" * 257)),
    "a subject that is no project id": ({"project": "a b"}, event(subject="a b")),
    "a long subject": ({"project": "p" * 65}, event(subject="p" * 65)),
    "an unknown operation": ({"operation": "hologram"}, data(operation="hologram", quantity=1)),
    "a surcharge alone": ({"operation": "social_post.image"}, data(operation="social_post.image", quantity=1)),
    "an empty operation": ({"operation": ""}, data(operation="")),
    "quantity zero": ({"quantity": 0}, data(quantity=0)),
    "an absurd quantity": ({"quantity": 10_001}, data(quantity=10_001)),
    "a negative quantity": ({"quantity": -1}, data(quantity=-1)),
    "a quantity of 64 bits": ({"quantity": 2**64 - 1}, data(quantity=2**64 - 1)),
    "a fraction": ({"quantity": 1.5}, data(quantity=1.5)),
    "a truth": ({"quantity": True}, data(quantity=True)),
    "a surcharge beside another operation": ({"surcharge": "social_post.image"}, data(media_type="image")),
    "an unknown surcharge": ({"surcharge": "hologram"}, data(media_type="hologram")),
    "an unknown environment": ({"environment": "staging"}, data(environment="staging")),
    "far in the past": ({"occurred_at_ms": 0}, event(time="1970-01-01T00:00:00Z")),
    "before all calendars": ({"occurred_at_ms": -(2**63)}, event(time="0001-01-01T00:00:00Z")),
    "after all calendars": ({"occurred_at_ms": 2**64 - 1}, event(time="9999-12-31T23:59:59Z")),
    "a millisecond too old": (
        {"occurred_at_ms": START_MS - 31 * DAY_MS - 1},
        event(time="2026-04-27T20:26:39.999Z"),
    ),
    "a millisecond ahead": ({"occurred_at_ms": START_MS + 600_001}, event(time="2026-05-28T20:36:40.001Z")),
    "a time that is a text": ({"occurred_at_ms": "yesterday"}, event(time="yesterday")),
    "a long job": ({"job_id": "x" * 129}, data(job_id="x" * 129)),
    "too many metadata keys": (
        {"metadata": {str(n): n for n in range(33)}},
        data(metadata={str(n): n for n in range(33)}),
    ),
    "a long metadata key": ({"metadata": {"k" * 65: 1}}, data(metadata={"k" * 65: 1})),
    "an empty metadata key": ({"metadata": {"": 1}}, data(metadata={"": 1})),
    "a long metadata value": ({"metadata": {"k": "v" * 513}}, data(metadata={"k": "v" * 513})),
    "a metadata number of 65 bits": ({"metadata": {"k": 2**63}}, data(metadata={"k": 2**63})),
    "nested metadata": ({"metadata": {"k": {"a": 1}}}, data(metadata={"k": {"a": 1}})),
    "metadata that is a list": ({"metadata": [1]}, data(metadata=[1])),
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_each_bound_holds_for_a_packed_event_as_for_json(name: str) -> None:
    changes, body = OUT_OF_BOUNDS[name]
    _, refused = accept_record(text_of([body]), START_MS, OPERATIONS)
    pieces = [packed(id="before"), raw(**changes), packed(id="after")]
    accepted, rejected = accepted_of(pack(pieces))
    assert [usage.event_id for usage in accepted] == ["before", "after"]
    assert reasons(rejected) == [(1, code, detail, field) for _, code, detail, field in reasons(refused)]
    assert rejected[0][2].code in CODES


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("far in the past", "far in the future")])
def test_what_is_wrong_whenever_it_comes_is_sent_as_json(name: str) -> None:
    wrong, code, field = WRONG[name]
    if code == "unknown_operation":
        # Producers do not know the price books.
        assert accepted_of(pack([packed_event(text_of(wrong))[1]]))[1][0][2].code == code
        return
    with pytest.raises(Rejection) as refused:
        packed_event(text_of(wrong))
    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_hash_is_made_of_what_the_event_says_and_none_is_taken_from_it() -> None:
    (usage,), _ = accepted_of(pack([packed(subject="p2", source="/s", id="e")]))
    assert usage.dedup_hash == dedup_hash("p2", "/s", "e")
    assert usage.key_id == ""
    assert not {"dedup_hash", "key_id"} & set(PackedUsage.__struct_fields__)
    more = msgspec.msgpack.encode([*msgspec.msgpack.decode(packed()), bytes(16)])
    assert not accepted_of(pack([more]))[0]


def test_no_pack_is_taken_where_json_is_asked_for() -> None:
    _, ((index, _, rejection),) = accept_record(encode_usage([packed(), packed()]), START_MS, OPERATIONS)
    assert (index, rejection.code) == (0, "malformed_json")


@pytest.mark.parametrize("bad", [0, 1])
def test_a_record_is_read_in_steps_so_that_nobody_waits_for_all_of_it(bad: int) -> None:
    """500 good events a step, or, where one is bad, 64 KiB, of which each event takes at least 256 bytes."""
    bodies = [event(id=str(number)) for number in range(2_000)]
    wrong = [data(quantity=0)] * bad
    array = orjson.dumps([*bodies, *wrong])
    packs = pack([*(packed_event(orjson.dumps(body))[1] for body in bodies), *[b"\xc1"] * bad])
    for steps, each in (
        (accepting(array, START_MS, FIRST_PRICE_BOOK.rates), 256 + len(orjson.dumps(bodies[0]))),
        (accept_pack(packs, START_MS, FIRST_PRICE_BOOK.rates), 256 + len(packs) // 2_000),
    ):
        taken = sum(1 for _ in steps)
        if bad:
            assert taken >= 2_000 * each // BYTES_AT_ONCE
        else:
            assert taken == 2_000 // EVENTS_AT_ONCE - 1


def test_good_events_are_read_at_once_and_not_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    value = pack([packed(event_id=str(number)) for number in range(1_500)])
    expected = accepted_of(value)
    monkeypatch.setattr(packed_usage, "_each", None)
    assert accepted_of(value) == expected
    assert len(expected[0]) == 1_500


def test_an_event_without_a_time_has_that_of_its_arrival() -> None:
    for at_ms in (START_MS, LATER_MS):
        (usage,), _ = accepted_of(pack([packed()]), at_ms)
        assert usage.occurred_at_ms == at_ms


@pytest.mark.parametrize("name", [*FAULTY, *POISON])
def test_rubbish_in_a_pack_costs_its_neighbours_nothing(name: str) -> None:
    rubbish = (FAULTY | POISON)[name]
    began_at = time.process_time()
    accepted, rejected = accepted_of(pack([packed(id="a"), rubbish, packed(id="b")]))
    assert [usage.event_id for usage in accepted] == ["a", "b"]
    assert [(index, each.code) for index, _, each in rejected] == [(1, "unreadable_record")]
    assert len(str(rejected[0][2])) < 1000
    # A pack that is nothing but rubbish.
    accepted, rejected = accepted_of(rubbish)
    assert not accepted
    assert len(rejected) == 1
    assert time.process_time() - began_at < 20


def test_an_event_may_be_as_long_as_its_bounds_let_it_and_what_is_longer_is_not_looked_into() -> None:
    longest = "\U0001f600"
    metadata = {longest * 62 + f"{n:02d}": longest * 512 for n in range(32)}
    body = event(
        id=longest * 256,
        source=longest * 256,
        data={"operation": longest * 256, "job_id": longest * 128, "metadata": metadata},
    )
    made = packed_event(json.dumps(body).encode())[1]
    _, ((index, _, rejection),) = accepted_of(pack([made, packed()]))
    assert (index, rejection.code) == (0, "unknown_operation")
    # Millions of empty lists, fifty bytes each once they are made.
    began_at = time.process_time()
    _, ((_, _, rejection),) = accepted_of(pack([b"\xdd\x00\x40\x00\x00" + b"\x90" * 0x400000, packed()]))
    assert (rejection.code, "longer than any event" in rejection.detail) == ("unreadable_record", True)
    assert time.process_time() - began_at < 1


def test_a_pack_that_breaks_off_loses_only_what_it_broke() -> None:
    pieces = [packed(id=id) for id in "abc"]
    whole = pack(pieces)
    start = len(whole) - sum(map(len, pieces))
    for length in range(len(whole)):
        accepted, rejected = accepted_of(whole[:length])
        complete = sum(start + sum(map(len, pieces[: n + 1])) <= length for n in range(3))
        assert [usage.event_id for usage in accepted] == ["a", "b", "c"][:complete]
        assert [each.code for _, _, each in rejected] == ["unreadable_record"]
    assert len(accepted_of(whole)[0]) == 3
    for more in (b"x", pieces[0], whole):
        accepted, rejected = accepted_of(whole + more)
        assert ([usage.event_id for usage in accepted], len(rejected)) == (["a", "b", "c"], 1)


def test_a_pack_of_more_events_than_are_taken_is_one_rejection() -> None:
    for value in (pack([packed()] * 4), b"\xff\xff\xff\xff" + bytes(100), pack([b""] * 10_001)):
        accepted, rejected = accepted_of(value, events_max=3)
        assert not accepted
        assert [each.code for _, _, each in rejected] == ["too_many_events"]
    assert len(accepted_of(pack([packed()] * 3), events_max=3)[0]) == 3
    assert accepted_of(pack([])) == ([], [])


def test_rubbish_in_a_pack_has_fewer_dead_letters_than_events_and_a_bad_event_has_its_own() -> None:
    rubbish = pack([b""] * 10_000)
    _, rejected = accepted_of(rubbish)
    assert len(rejected) == 10_000
    assert len(named(rubbish, rejected, PACKED_EVENT_BYTES_MIN)) == 2 + len(rubbish) // PACKED_EVENT_BYTES_MIN
    shortest = pack([packed(subject="p", source="s", id="i", data={"operation": "x", "environment": "preview"})] * 500)
    _, rejected = accepted_of(shortest)
    assert len(rejected) == 500
    assert named(shortest, rejected, PACKED_EVENT_BYTES_MIN) == rejected


@given(st.data())
def test_a_pack_whose_bytes_changed_gives_usage_or_rejections_and_nothing_else(draws: st.DataObject) -> None:
    pieces = [packed(id=id, data={"operation": "image", "metadata": {"k": 1}}) for id in "abc"]
    spoilt = bytearray(pieces[1])
    for _ in range(draws.draw(st.integers(1, 4))):
        at = draws.draw(st.integers(0, len(spoilt)))
        spoilt[at : at + draws.draw(st.integers(0, 4))] = draws.draw(
            st.binary(max_size=4) | st.sampled_from([b"\xdd\xff\xff\xff\xff", b"\x91" * 3000, b"\xdf\x00\x01\x00\x00"])
        )
    accepted, rejected = accepted_of(pack([pieces[0], bytes(spoilt), pieces[2]]))
    # As long as the lengths say where it ends, a neighbour is not touched by whatever an event has become.
    assert [usage.event_id for usage in accepted][:: max(len(accepted) - 1, 1)] == ["a", "c"]
    assert len(accepted) + len(rejected) == 3
    assert all(each.code in CODES and len(str(each)) < 1000 for _, _, each in rejected)


@given(st.data())
def test_a_record_of_any_bytes_gives_usage_or_rejections_and_nothing_else(draws: st.DataObject) -> None:
    whole = bytearray(pack([packed(id=id) for id in "abc"]))
    for _ in range(draws.draw(st.integers(0, 4))):
        at = draws.draw(st.integers(0, len(whole)))
        whole[at : at + draws.draw(st.integers(0, 4))] = draws.draw(st.binary(max_size=4))
    value = draws.draw(st.just(bytes(whole)) | st.binary(max_size=200))
    accepted, rejected = accepted_of(value)
    assert len(accepted) + len(rejected) <= 10_001
    assert all(each.code in CODES for _, _, each in rejected)
    for usage in accepted:
        assert usage.dedup_hash == dedup_hash(usage.project, usage.source, usage.event_id)
        assert 1 <= usage.quantity <= 10_000
        assert usage.operation in OPERATIONS
