"""Records on our own topics that are none of ours: whatever their bytes, the owner and every reader go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.commands import Commands, Envelope, Replies, Tick
from schemas.problems import Rejection
from schemas.replies import KeptReply, Reply
from streams.clickhouse.historian import dead_letter_sink
from streams.core.acceptance import dead_letter
from streams.core.foreign import UnreadableError
from streams.core.marks import Claim
from streams.core.packed_usage import packed_event
from streams.core.projects import new_project
from streams.kafka import codecs
from streams.kafka.formats import INTAKE as INTAKE_FORMAT
from streams.kafka.formats import KEPT_REPLIES, MARK, FormatError
from streams.kafka.topics import topics_of
from streams.settings import Settings
from streams.worker.agents import Owner
from streams.worker.decider import tables_of_one
from streams.worker.lease import Lease
from streams.worker.tables import day_of, reply_rows_of_record, seen_records, seen_rows_of_record, time_of_reply
from tests.core.builders import START_MS, admit, create_project, top_up, usage
from tests.core.test_foreign import text
from tests.worker.test_last_resort import record

INTAKE = [
    codecs.encode_envelope([usage("a"), usage("b", project="p2")]),
    codecs.encode_commands([admit(usage("c"), key="k"), top_up(correlation="t")]),
    codecs.encode_commands([create_project("p3")]),
    codecs.encode(Tick(["p1", "p2"])),
    codecs.encode(Commands([])),
]
READERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "intake": (codecs.decode_intake, INTAKE[0]),
    "replies": (codecs.decode_replies, codecs.encode(Replies("i", [("c", Reply(200, "", "", 1, 1, ""))]))),
    "an account": (codecs.decode_account, codecs.encode_account(new_project(create_project(), 0, START_MS))),
    "prices": (codecs.prices_of, codecs.encode_account(new_project(create_project(), 0, START_MS))),
    "packed usage": (codecs.decode_usage, codecs.encode_usage([packed_event(text("a"))[1]])),
    "facts": (codecs.decode_facts, b"\x97\x92\x00\x00\x92\x00\x00\x00\x00\x00\x90"),
    "a pack": (codecs.decode_raw_pack, b"\x97\x92\x00\x00\x92\x00\x00\x00\x00\x00\x90"),
}


@st.composite
def spoilt(draw: st.DrawFn, texts: list[bytes]) -> bytes:
    """Bytes that were a record once: cut, or with some of them replaced."""
    text = bytearray(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4) | st.just(b"\xdd\xff\xff\xff\xff"))
    return bytes(text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text)


def noise(texts: list[bytes]) -> st.SearchStrategy[bytes]:
    nested = st.integers(1, 3000).map(lambda depth: b"\x91" * depth)
    return st.binary(max_size=60) | nested | spoilt(texts)


def is_newer(value: bytes) -> bool:
    """Whether bytes are an intake record of a newer version, at which a worker stops: tests/kafka/test_formats.py."""
    return (INTAKE_FORMAT.number_of(value) or 0) > INTAKE_FORMAT.number


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_any_bytes_gives_a_value_or_says_why_not(name: str) -> None:
    decode, good = READERS[name]

    @given(noise([good]))
    def read(value: bytes) -> None:
        try:
            decode(value)
        except UnreadableError as error:
            assert 0 < len(str(error)) <= 300
        except FormatError as error:
            # An account without a format is one of long ago.
            assert (MARK in value and "newer version" in str(error)) or "older version" in str(error)

    read()


@pytest.fixture(scope="module")
def owning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """An owner of one partition in which p1 and p2 are open; nothing of what it decides is written."""
    directory = tmp_path_factory.mktemp("owner")
    nothing: Any = None
    with tables_of_one(directory, Settings()) as tables:
        made = Owner(Settings(), topics_of(Settings()), nothing, tables, Lease(60), lambda _partition: 0)
        opened = made.decider.decide(0, [record(0, Commands([create_project("p1"), create_project("p2")])).message])
        tables.accounts.file(0).write(opened.values, 0)
        yield made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(noise(INTAKE).filter(lambda value: not is_newer(value)), min_size=1, max_size=4))
def test_the_owner_goes_on_behind_any_records(owning: Owner, values: list[bytes]) -> None:
    good = record(1 + len(values), Envelope([usage("good")])).message
    messages = [record(offset, Tick([])).message for offset in range(1, 1 + len(values))]
    for message, value in zip(messages, values, strict=True):
        message.value = value
    owning.decider.forget()
    decided = owning.decider.decide(0, [*messages, good])
    facts = [fact for _, pack in decided.journal for fact in codecs.decode_facts(pack)]
    of_good = [fact.event_id for fact in facts if fact.offset == good.offset and fact.kind in ("charge", "refusal")]
    assert of_good == ["good"]
    for _, letter in decided.dead_letters:
        assert codecs.decode_dead_letter(letter).offset < good.offset
    # Where they are decided again, they lead to the same.
    owning.decider.forget()
    again = owning.decider.decide(0, [*messages, good])
    assert (again.journal, again.dead_letters) == (decided.journal, decided.dead_letters)


LETTER = codecs.encode_json(dead_letter(b"{", Rejection("malformed_json", "no"), "usage", 0, 1, 0, START_MS))


@given(noise([LETTER]) | st.just(LETTER.replace(b'"partition":0', b'"partition":99999999')))
def test_a_dead_letter_of_any_bytes_is_a_row(value: bytes) -> None:
    sink = dead_letter_sink(Settings())
    part = sink.part_of(SimpleNamespace(topic="dead", partition=1, offset=7, timestamp=START_MS, value=value))
    ((code, _, _, topic, partition, *_),) = msgspec.msgpack.decode(part.rows)
    assert part.first == part.last == (7, 0)
    assert 0 <= partition < 1 << 16
    assert (code, topic) == ("unreadable_record", "dead") or topic


@given(st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=60))
def test_a_record_of_the_dedup_changelog_of_any_bytes_is_rows_or_none(key: bytes | None, value: bytes | None) -> None:
    for row, at in seen_rows_of_record(key or b"", value):
        assert (len(row), len(at or b"")) in ((16, 10), (16, 18))
    ((key, value),) = seen_records({b"a" * 16: Claim(3)}, day_of(START_MS), 3)
    assert len(seen_rows_of_record(key, value)) == 1


KEPT = codecs.encode_kept_reply(KeptReply(START_MS, 3, bytes(16), Reply(200, "", "", 1, 2, "0-3-0")))


@given(noise([codecs.encode_kept_replies([(b"a" * 16, KEPT)])]))
def test_a_record_of_a_changelog_of_kept_replies_of_any_bytes_is_rows_that_can_be_read_or_none(value: bytes) -> None:
    assume((KEPT_REPLIES.number_of(value) or 0) <= KEPT_REPLIES.number)
    for _, row in reply_rows_of_record(b"key", value):
        assert row is not None and codecs.decode_kept_reply(row).at_ms == time_of_reply(row)
