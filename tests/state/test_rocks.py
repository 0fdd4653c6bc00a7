"""Rows on disk: versions never go back, segments expire by day, and an offset is stored with the rows it covers."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from streams.state.rocks import PartitionFile, SegmentedFile, VersionedFile
from streams.worker.tables import day_of_row, seen_records, seen_rows


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
    file = SegmentedFile(tmp_path / "seen", day_of_row, days=32)
    for day in range(1_000, 1_100):
        file.write(seen_rows({day.to_bytes(16, "big"): day}, day), day)
    directories = sorted(int(path.name) for path in (tmp_path / "seen").iterdir())
    assert len(directories) <= 32 // 8 + 2
    keys = [day.to_bytes(16, "big") for day in range(1_000, 1_100)]
    found = [value is not None for value in file.get_many(keys)]
    assert all(found[-32:]), "everything within the window is there"
    assert not any(found[:40]), "what is long past it is gone"
    file.close()
    again = SegmentedFile(tmp_path / "seen", day_of_row, days=32)
    assert again.changelog_offset() == 1_099
    assert again.get_many(keys[-32:]) == [seen_rows({b"": day}, day)[0][1] for day in range(1_068, 1_100)]
    again.close()


@given(st.integers(0, 50_000), st.integers(1_000, 60_000))
def test_a_batch_of_any_size_is_told_back_from_its_changelog_records(count: int, day: int) -> None:
    from streams.worker.tables import seen_rows_of_record

    seen = {number.to_bytes(16, "big"): number for number in range(count)}
    records = list(seen_records(seen, day, 99))
    assert len({key for key, _ in records}) == len(records)
    assert all(len(value) <= 1_000_000 for _, value in records)
    rows = [row for key, value in records for row in seen_rows_of_record(key, value)]
    assert rows == seen_rows(seen, day)
