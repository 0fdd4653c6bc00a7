"""Rows on disk: versions never go back, segments expire by day, and an offset is stored with the rows it covers."""

import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from schemas.replies import KeptReply, Reply
from schemas.times import DAY_MS
from streams.core.marks import Claim
from streams.kafka.codecs import encode_kept_reply
from streams.state.rocks import ROWS_FOR_A_FILE, PartitionFile, VersionedFile
from streams.worker.tables import (
    SPARE_MS,
    replies_file,
    reply_records,
    reply_rows_of_record,
    seen_file,
    seen_records,
    seen_rows,
)
from tests.core.builders import START_MS


def versioned(version: int, text: bytes) -> bytes:
    return version.to_bytes(8, "big") + text


def test_a_value_and_its_offset_survive_reopening(tmp_path: Path) -> None:
    file = PartitionFile(tmp_path / "p")
    assert file.changelog_offset() is None
    file.write([(b"a", b"1"), (b"b", b"2")], 7)
    file.write([(b"a", None)], 8)
    file.close()
    again = PartitionFile(tmp_path / "p")
    assert again.get_many([b"a", b"b", b"c"]) == [None, b"2", None]
    assert again.changelog_offset() == 8
    assert list(again.items()) == [(b"b", b"2")]
    again.close()


def test_an_older_version_never_replaces_a_newer_one(tmp_path: Path) -> None:
    file = VersionedFile(tmp_path / "p")
    file.merge([(b"a", versioned(5, b"new")), (b"a", versioned(3, b"late in the same batch"))], 1)
    file.merge([(b"a", versioned(4, b"late")), (b"b", versioned(1, b"other"))], 2)
    assert file.get_many([b"a", b"b"]) == [versioned(5, b"new"), versioned(1, b"other")]
    file.merge([(b"a", versioned(5, b"the same again"))], 3)
    assert file.get_many([b"a"]) == [versioned(5, b"the same again")]
    assert file.changelog_offset() == 3
    file.close()


def test_days_past_the_window_are_dropped_and_others_found(tmp_path: Path) -> None:
    file = seen_file(tmp_path / "seen", 32)
    for day in range(1_000, 1_100):
        file.write(seen_rows({day.to_bytes(16, "big"): Claim(day)}, day), day)
        file.expire(day * DAY_MS)
    directories = sorted(int(path.name) for path in (tmp_path / "seen").iterdir())
    assert len(directories) <= 32 // 8 + 2
    keys = [day.to_bytes(16, "big") for day in range(1_000, 1_100)]
    found = [value is not None for value in file.get_many(keys)]
    assert all(found[-32:]), "everything within the window is there"
    assert not any(found[:40]), "what is long past it is gone"
    file.close()
    again = seen_file(tmp_path / "seen", 32)
    assert again.changelog_offset() == 1_099
    assert again.get_many(keys[-32:]) == [seen_rows({b"": Claim(day)}, day)[0][1] for day in range(1_068, 1_100)]
    again.close()


def kept(at_ms: int, offset: int = 1) -> bytes:
    return encode_kept_reply(KeptReply(at_ms, offset, bytes(16), Reply(200, "", "", 1, 2, f"0-{offset}-0")))


def test_a_kept_reply_is_there_for_its_period_and_not_much_longer(tmp_path: Path) -> None:
    file = replies_file(tmp_path / "replies", DAY_MS)
    every_ms = DAY_MS // 48
    times = [START_MS + number * every_ms for number in range(200)]
    for offset, at_ms in enumerate(times):
        file.write([(at_ms.to_bytes(16, "big"), kept(at_ms))], offset)
        file.expire(at_ms)
        found = file.get_many([each.to_bytes(16, "big") for each in times])
        there = [each for each, value in zip(times, found, strict=True) if value is not None]
        assert there == times[-len(there) + offset + 1 : offset + 1]
        assert there[0] <= max(times[0], at_ms - DAY_MS - SPARE_MS + every_ms)
        assert there[0] > at_ms - DAY_MS * 13 // 8, "its disk is bounded"
    file.close()


def test_a_row_that_is_ahead_of_all_others_expires_none(tmp_path: Path) -> None:
    """A regression that the simulation found: a crash leaves a batch that spans hours, and its records are decided
    again over the rows that it left."""
    file = replies_file(tmp_path / "replies", DAY_MS)
    file.write([(b"a" * 16, kept(START_MS))], 1)
    file.write([(b"b" * 16, kept(START_MS + 9 * DAY_MS))], 2)
    file.expire(START_MS + DAY_MS)
    assert None not in file.get_many([b"a" * 16, b"b" * 16])
    file.expire(START_MS + 9 * DAY_MS)
    assert [value is None for value in file.get_many([b"a" * 16, b"b" * 16])] == [True, False]
    file.close()


def test_segments_of_few_rows_have_no_file_and_note_no_offset_on_disk(tmp_path: Path) -> None:
    """A log whose records are hours apart would otherwise open and remove a file with each of them."""
    path = tmp_path / "replies"
    file = replies_file(path, DAY_MS)
    for number in range(100):
        at_ms = START_MS + number * DAY_MS
        file.write([(number.to_bytes(16, "big"), kept(at_ms))], number)
        file.expire(at_ms)
        assert file.get_many([number.to_bytes(16, "big")]) == [kept(at_ms)]
    assert file.changelog_offset() == 99
    assert list(path.iterdir()) == []
    crashed = replies_file(path, DAY_MS)
    assert crashed.changelog_offset() is None
    crashed.close()
    file.close()
    again = replies_file(path, DAY_MS)
    assert again.changelog_offset() == 99
    assert dict(again.items()).keys() == {number.to_bytes(16, "big") for number in (98, 99)}
    again.close()


def test_a_segment_gets_a_file_once_it_has_many_rows_and_others_are_filed_with_it(tmp_path: Path) -> None:
    path = tmp_path / "replies"
    file = replies_file(path, DAY_MS)
    few, many = [
        [
            (place.to_bytes(8, "big") + number.to_bytes(8, "big"), kept(START_MS + place * DAY_MS))
            for number in range(count)
        ]
        for place, count in enumerate((3, ROWS_FOR_A_FILE))
    ]
    file.write(few, 1)
    assert list(path.iterdir()) == []
    file.write(many, 2)
    file.write([(b"late" * 4, few[0][1])], 3)
    rows = [*few, *many, (b"late" * 4, few[0][1])]
    crashed = replies_file(shutil.copytree(path, tmp_path / "crashed"), DAY_MS)
    offset = crashed.changelog_offset()
    held = dict(crashed.items())
    assert offset in (None, 2, 3)
    assert offset is None or all(held[key] == value for key, value in rows[: len(few) + len(many) + offset - 2])
    crashed.close()
    assert file.get_many([key for key, _ in rows]) == [value for _, value in rows]
    file.close()


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**40)), max_size=3_000))
def test_a_batch_of_kept_replies_is_told_back_from_its_changelog_records(some: list[tuple[bytes, int]]) -> None:
    rows = [(name, kept(START_MS, offset)) for name, offset in some]
    records = list(reply_records(rows, 99))
    assert len({key for key, _ in records}) == len(records) == -(-len(rows) // 1_000)
    assert [row for key, value in records for row in reply_rows_of_record(key, value)] == rows


@given(st.integers(0, 50_000), st.integers(1_000, 60_000), st.booleans())
def test_a_batch_of_any_size_is_told_back_from_its_changelog_records(count: int, day: int, are_marked: bool) -> None:
    from streams.worker.tables import seen_rows_of_record

    marks = (b"", b"mark".ljust(8)) if are_marked else (b"",)
    seen = {number.to_bytes(16, "big"): Claim(number, marks[number * 7 % len(marks)]) for number in range(count)}
    records = list(seen_records(seen, day, 99))
    assert len({key for key, _ in records}) == len(records)
    assert all(len(value) <= 1_000_000 for _, value in records)
    rows = [row for key, value in records for row in seen_rows_of_record(key, value)]
    assert sorted(rows) == sorted(seen_rows(seen, day))
    assert are_marked or rows == seen_rows(seen, day)
