"""Foreign bytes: whatever is raised while they are decoded becomes a Rejection, and an array's elements are told apart
although some are no JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import EVENT_BYTES_MIN
from schemas.prices import FIRST_PRICE_BOOK
from schemas.problems import CODES, Rejection
from streams.core.acceptance import accept_record, named
from streams.core.foreign import decoded, finished, split_array
from streams.kafka import codecs
from tests.core.builders import START_MS
from tests.core.test_acceptance import event

OPERATIONS = FIRST_PRICE_BOOK.rates

# An element of an array that is no JSON, or too much of it, and leaves its brackets and strings closed.
FAULTY = {
    "half an emoji": b'{"id": "\\ud83d"}',
    "a control character": b'{"id": "a\x01b\nc"}',
    "a leading zero": b'{"n": 01}',
    "NaN": b'{"n": NaN}',
    "an escape that is none": b'{"id": "\\x"}',
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "two numbers": b"1 2",
    "words": b"nothing here",
    "a comma too many": b'{"a": 1,}',
    "an empty element": b"",
    "a bracket too many": b'{"a": 1}}',
    "an inner bracket that does not close": b'{"a": [1, 2}',
    "997 nested brackets": b'{"x": ' + b"[" * 997 + b"]" * 997 + b"}",
    "100,000 nested brackets": b"[" * 100_000 + b"]" * 100_000,
    "nested pairs": b"[" + b"[[]]," * 3000 + b"[]]",
    "brackets in strings": b'{"a": "]}", "b": "[{\\"", "c": 01}',
    "an endless number": b"9" * 5000,
    "a quote in a name": b'{"a\\"]": "}", "b": tru}',
}
# Bytes that stop a reader, or once did.
POISON = {
    "brackets that only open": b"[" * 998,
    "a great many of them": b"[" * 1_000_000,
    "objects that only open": b'{"a":' * 200_000,
    "nested extension": json.dumps(event()).encode()[:-1] + b', "x": ' + b"[" * 997 + b"]" * 997 + b"}",
    "nothing": b"",
    "zeros": b"\x00" * 1000,
    "a string without an end": b'["' + b"a" * 1000,
    "escapes without an end": b'["' + b"\\" * 100_001,
    "closing only": b"]" * 10_000,
    "closing the wrong one": b"[" * 50_000 + b"}" * 50_000,
    "UTF-16": '[{"a": 1}]'.encode("utf-16"),
    "a MessagePack array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "MessagePack arrays in arrays": b"\x91" * 100_000,
    "a MessagePack string longer than there is": b"\xdb\xff\xff\xff\xff",
}
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "intake": codecs.decode_intake,
    "facts": codecs.decode_facts,
    "a pack of facts": codecs.decode_raw_pack,
    "replies": codecs.decode_replies,
    "an account": codecs.decode_account,
    "a dead letter": codecs.decode_dead_letter,
    "packed usage": codecs.decode_usage,
    "any JSON": msgspec.json.decode,
}


def text(id: str) -> bytes:
    return json.dumps(event(id=id)).encode()


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_element_costs_its_neighbours_nothing(name: str) -> None:
    for elements in ([text("a"), FAULTY[name], text("b")], [FAULTY[name], text("a"), text("b")]):
        accepted, rejected = accept_record(b"[" + b",".join(elements) + b"]", START_MS, OPERATIONS)
        assert [usage.event_id for usage in accepted] == ["a", "b"]
        ((index, found, rejection),) = rejected
        assert (index, found) == (elements.index(FAULTY[name]), FAULTY[name])
        assert rejection.code in CODES


def test_what_came_before_an_array_broke_off_is_judged_by_itself() -> None:
    whole = b"[" + b",".join([text("a"), text("b"), text("c")]) + b"]"
    for length in range(len(whole)):
        accepted, rejected = accept_record(whole[:length], START_MS, OPERATIONS)
        assert [usage.event_id for usage in accepted] == ["a", "b", "c"][: whole[:length].count(b"}},")]
        assert [rejection.code for _, _, rejection in rejected] == ["malformed_json"]
    assert len(accept_record(whole, START_MS, OPERATIONS)[0]) == 3
    for more in (b"x", b"]", text("d"), b",", whole):
        accepted, rejected = accept_record(whole + more, START_MS, OPERATIONS)
        assert ([usage.event_id for usage in accepted], len(rejected)) == (["a", "b", "c"], 1)


@pytest.mark.parametrize("name", POISON)
@pytest.mark.parametrize("decoder", DECODERS)
def test_whatever_a_decoder_raises_is_a_rejection(decoder: str, name: str) -> None:
    with pytest.raises(Rejection) as refused:
        decoded(DECODERS[decoder], POISON[name])
        raise Rejection("malformed_json", "These bytes can be read")
    assert refused.value.code in CODES
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_within_a_bound(name: str) -> None:
    began_at = time.process_time()
    accepted, rejected = accept_record(POISON[name], START_MS, OPERATIONS)
    assert not accepted
    assert 1 <= len(named(POISON[name], rejected)) <= 2 + len(POISON[name]) // EVENT_BYTES_MIN
    # No benchmark: minutes would show a reader that looks at each byte again for every byte.
    assert time.process_time() - began_at < 20


def test_a_record_of_more_events_than_are_taken_is_one_rejection() -> None:
    for value in (b"[" + b"{}," * 350_000 + b"{}]", b"[" + text("a") + b"," + b",".join([text("b")] * 10_000) + b"]"):
        accepted, rejected = accept_record(value, START_MS, OPERATIONS)
        assert not accepted
        assert [rejection.code for _, _, rejection in rejected] == ["too_many_events"]
    assert len(accept_record(b"[" + b",".join([text("a")] * 3) + b"]", START_MS, OPERATIONS, events_max=3)[0]) == 3
    assert [
        rejection.code
        for value in (b"[" + b",".join([text("a")] * 4) + b"]", b"[{},{},{},{}]")
        for _, _, rejection in accept_record(value, START_MS, OPERATIONS, events_max=3)[1]
    ] == ["too_many_events"] * 2


def test_rubbish_has_fewer_dead_letters_than_events_and_a_bad_event_has_its_own() -> None:
    rubbish = b"[" + b"{}," * 9_000 + b"{}]"
    _, rejected = accept_record(rubbish, START_MS, OPERATIONS)
    assert len(rejected) == 9_001
    letters = named(rubbish, rejected)
    assert len(letters) == 2 + len(rubbish) // EVENT_BYTES_MIN
    assert "8579 more of this record's events" in str(letters[-1][2])
    bad = b"[" + b",".join([json.dumps(event(data={"operation": "hologram"})).encode()] * 500) + b"]"
    _, rejected = accept_record(bad, START_MS, OPERATIONS)
    assert named(bad, rejected) == rejected
    assert len(rejected) == 500


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8).map(lambda text: text + '"]},{['),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_texts, max_size=6), st.sampled_from([None, 1]), st.booleans())
def test_elements_of_any_array_are_told_apart(elements: list[Any], indent: int | None, is_ascii: bool) -> None:
    whole = json.dumps(elements, indent=indent, ensure_ascii=is_ascii).encode()
    found, rest = finished(split_array(whole, 100))
    assert [json.loads(each) for each in found] == elements
    assert rest is None


@given(st.lists(st.sampled_from([*b'[]{}",\\a1 \x00\xff']), max_size=60).map(bytes), st.integers(1, 5))
def test_whatever_stands_between_brackets_is_told_apart_within_bounds(inner: bytes, elements_max: int) -> None:
    whole = b" [" + inner
    found, rest = finished(split_array(whole, elements_max))
    assert len(found) <= elements_max + 1
    left = whole
    for each in [*found, rest or b""]:
        assert each in left
        left = left[left.index(each) + len(each) :]


@given(st.lists(st.sampled_from([text("a"), *FAULTY.values(), *list(POISON.values())[:1]]), min_size=1, max_size=5))
def test_good_and_bad_in_any_order_are_each_judged(elements: list[bytes]) -> None:
    accepted, rejected = accept_record(b"[" + b",".join(elements) + b"]", START_MS, OPERATIONS)
    if POISON["brackets that only open"] not in elements:
        assert len(accepted) == elements.count(text("a"))
        assert len(accepted) + len(rejected) == (len(elements) if elements != [b""] else 0)
