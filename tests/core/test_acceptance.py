"""Events from producers are accepted or rejected: each mistake has its own code, and costs its neighbours nothing."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.prices import FIRST_PRICE_BOOK
from schemas.problems import CODES, Rejection
from schemas.times import DAY_MS
from streams.core import acceptance
from streams.core.acceptance import Origin, accept_event, accept_record, dead_letter, dedup_hash
from tests.core.builders import START_MS

OPERATIONS = FIRST_PRICE_BOOK.rates


def event(**changes: Any) -> dict[str, Any]:
    whole = {
        "specversion": "1.0",
        "id": "e1",
        "source": "/gateway",
        "type": "usage",
        "subject": "p1",
        "data": {"operation": "image"},
    } | changes
    return {name: value for name, value in whole.items() if value is not ...}


def data(**changes: Any) -> dict[str, Any]:
    return event(data={"operation": "image"} | changes)


WRONG = {
    "not JSON": (b'{"id": ', "malformed_json", None),
    "not UTF-8": (b'{"id": "\xff"}', "malformed_json", None),
    "half a surrogate pair": (b'{"id": "\\ud800"}', "malformed_json", None),
    "a number": (b"3", "invalid_event", None),
    "no id": (event(id=...), "missing_id", "id"),
    "an empty id": (event(id=""), "missing_id", "id"),
    "an id that is a number": (event(id=7), "invalid_event", "id"),
    "no source": (event(source=...), "missing_field", "source"),
    "no data": (event(data=...), "missing_field", "data"),
    "no operation": (event(data={}), "missing_field", "data.operation"),
    "another version": (event(specversion="0.3"), "invalid_event", "specversion"),
    "a subject that is no project id": (event(subject="a b"), "invalid_event", "subject"),
    "an unknown operation": (data(operation="hologram"), "unknown_operation", "data.operation"),
    "a negative quantity": (data(quantity=-3), "invalid_quantity", "data.quantity"),
    "quantity zero": (data(quantity=0), "invalid_quantity", "data.quantity"),
    "an absurd quantity": (data(quantity=10**12), "invalid_quantity", "data.quantity"),
    "a quantity beyond 64 bits": (data(quantity=10**30), "invalid_quantity", "data.quantity"),
    "a fraction": (data(quantity=1.5), "invalid_quantity", "data.quantity"),
    "a quantity in words": (data(quantity="two"), "invalid_quantity", "data.quantity"),
    "a misspelt field": (data(quantty=2), "invalid_event", "data.quantty"),
    "far in the past": (event(time="1999-12-31T23:59:59Z"), "time_out_of_range", "time"),
    "far in the future": (event(time="2999-01-01T00:00:00Z"), "time_out_of_range", "time"),
    "no zone": (event(time="2026-05-28T10:00:00"), "time_out_of_range", "time"),
    "not a time": (event(time="yesterday"), "time_out_of_range", "time"),
    "a megabyte of metadata": (data(metadata={"k": "x" * 1_000_000}), "metadata_too_large", "data.metadata"),
    "too many metadata keys": (data(metadata={str(n): n for n in range(33)}), "metadata_too_large", "data.metadata"),
    "a long metadata key": (data(metadata={"k" * 65: 1}), "metadata_too_large", "data.metadata"),
    "nested metadata": (data(metadata={"k": {"a": 1}}), "invalid_event", "data.metadata[...]"),
}


def text_of(wrong: Any) -> bytes:
    if isinstance(wrong, bytes):
        return wrong
    return json.dumps(wrong).encode()


@pytest.mark.parametrize("name", WRONG)
def test_each_way_of_being_wrong_has_its_code(name: str) -> None:
    wrong, code, field = WRONG[name]
    with pytest.raises(Rejection) as refused:
        accept_event(text_of(wrong), START_MS, OPERATIONS)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert code in CODES
    assert refused.value.detail


@pytest.mark.parametrize("name", [name for name in WRONG if WRONG[name][1] != "malformed_json"])
def test_neighbours_in_a_batch_are_accepted(name: str) -> None:
    texts = [orjson.dumps(event(id="before")), text_of(WRONG[name][0]), orjson.dumps(event(id="after"))]
    accepted, rejected = accept_record(b"[" + b",".join(texts) + b"]", START_MS, OPERATIONS)
    assert [usage.event_id for usage in accepted] == ["before", "after"]
    ((index, text, rejection),) = rejected
    assert (index, text, rejection.code) == (1, texts[1], WRONG[name][1])


def test_a_batch_that_breaks_off_loses_only_what_it_broke() -> None:
    good = text_of(event())
    accepted, rejected = accept_record(b"[" + good + b', {"id": 1}, ', START_MS, OPERATIONS)
    assert [usage.event_id for usage in accepted] == ["e1"]
    assert [(index, each.code) for index, _, each in rejected] == [(1, "invalid_event"), (2, "malformed_json")]
    assert [each.code for _, _, each in accept_record(None, START_MS, OPERATIONS)[1]] == ["malformed_json"]


def test_an_empty_batch_is_nothing() -> None:
    assert accept_record(b"[]", START_MS, OPERATIONS) == ([], [])


def test_times_within_the_window_are_taken_exactly() -> None:
    for shift, time in ((-31 * DAY_MS, "2026-04-27T20:26:40Z"), (600_000, "2026-05-28T22:36:40.000+02:00")):
        usage = accept_event(orjson.dumps(event(time=time)), START_MS, OPERATIONS)
        assert usage.occurred_at_ms == START_MS + shift


def test_what_is_kept_of_an_event() -> None:
    post = {"operation": "social_post", "media_type": "image", "networks": 3, "metadata": {"customer_id": "c"}}
    body = event(data=post)
    usage = accept_event(orjson.dumps(body | {"extension": {"any": "thing"}}), START_MS, OPERATIONS)
    assert (usage.operation, usage.quantity, usage.surcharge) == ("social_post.text", 1, "social_post.image")
    assert (usage.environment, usage.metadata, usage.occurred_at_ms) == ("production", '{"customer_id":"c"}', START_MS)
    assert usage.dedup_hash == dedup_hash("p1", "/gateway", "e1")


def test_a_key_speaks_for_its_project_and_environment_alone() -> None:
    origin = Origin("p1", "key_1", "preview")
    assert accept_event(orjson.dumps(event()), START_MS, OPERATIONS, origin).environment == "preview"
    with pytest.raises(Rejection, match="another project") as other:
        accept_event(orjson.dumps(event(subject="p2")), START_MS, OPERATIONS, origin)
    assert other.value.code == "wrong_project"
    with pytest.raises(Rejection, match="preview environment"):
        accept_event(orjson.dumps(data(environment="production")), START_MS, OPERATIONS, origin)


@given(
    st.lists(
        st.sampled_from(
            [
                (event(), "e1"),
                (data(environment="preview", quantity=2), "e1"),
                (event(subject="p2"), ""),
                (data(environment="production"), ""),
                (data(quantity=0), ""),
                (event(id=...), ""),
            ]
        ),
        max_size=8,
    )
)
def test_a_key_speaks_for_its_project_alone_whatever_stands_beside(some: list[tuple[dict, str]]) -> None:
    value = orjson.dumps([body for body, _ in some])
    accepted, rejected = accept_record(value, START_MS, OPERATIONS, Origin("p1", "key_1", "preview"))
    assert [used.event_id for used in accepted] == [event_id for _, event_id in some if event_id]
    assert {(used.project, used.environment, used.key_id) for used in accepted} <= {("p1", "preview", "key_1")}
    assert [index for index, _, _ in rejected] == [at for at, (_, event_id) in enumerate(some) if not event_id]


def test_good_events_are_read_at_once_and_not_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    value = orjson.dumps([event(id=str(number)) for number in range(1_500)])
    expected = accept_record(value, START_MS, OPERATIONS)
    monkeypatch.setattr(acceptance, "_each", None)
    monkeypatch.setattr(acceptance, "split_array", None)
    assert accept_record(value, START_MS, OPERATIONS) == expected
    assert len(expected[0]) == 1_500


def test_a_dead_letter_has_the_event_in_text_whatever_its_bytes_are() -> None:
    letter = dead_letter(b'{"id":"\xff' + b"x" * 20_000, Rejection("malformed_json", "bad"), "usage", 3, 4, 5, START_MS)
    assert letter.event == '{"id":"\ufffd' + "x" * (16 * 1024 - 8)
    assert (letter.code, letter.detail, letter.field) == ("malformed_json", "bad", "")
    assert (letter.topic, letter.partition, letter.offset, letter.index) == ("usage", 3, 4, 5)


def test_ids_can_not_run_into_each_other() -> None:
    assert dedup_hash("p", "ab", "c") != dedup_hash("p", "a", "bc")
    assert dedup_hash("p", "1:a", "b") != dedup_hash("p", "1", ":ab")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from([*event(), "time"]), json_values),
    st.dictionaries(st.text(max_size=9), json_values),
)
def test_whatever_comes_is_accepted_or_rejected_and_never_fails(top: dict, inner: dict) -> None:
    for document in (event() | top, event(data={"operation": "image"} | inner), [top, event()]):
        text = json.dumps(document).encode()
        accepted, rejected = accept_record(text, START_MS, OPERATIONS)
        assert len(accepted) + len(rejected) >= 1
        assert all(rejection.code in CODES for _, _, rejection in rejected)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_fail(value: bytes) -> None:
    accept_record(value, START_MS, OPERATIONS)
