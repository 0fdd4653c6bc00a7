"""Meterline's dedup index, used as a worker uses it for one partition: looked up, written, recovered, expired."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from schemas.times import DAY_MS
from streams.collector import tune_collector
from streams.core.marks import MARK_BYTES, Claim
from streams.state.rocks import SegmentedFile
from streams.worker.tables import Rows, first_offset_of, seen_records, seen_rows, seen_rows_of_record, time_of_seen
from tests.benchmarks.dedup.ids import BATCH_IDS, Phase, batch_count, bytes_on_disk, ids_of, in_another_order, rss_mb

DEDUP_DAYS = 32
_FIRST_DAY = 20_000
# Batches from this number on have ids that never came.
_ABSENT = 1 << 40
# The different uses (operation, quantity, details, environment) that a batch has.
_CONTENTS = 12


def run_index(ids: int, directory: Path) -> dict[str, Any]:
    """Run the index through all its work, and measure it. The ids come on as many days as the dedup window has, so that
    the index has all the segments it can have."""
    tune_collector()
    run = _IndexRun(batch_count(ids))
    path = directory / "seen"
    index = _open(path)
    fresh = _fill(run, index)
    memory_mb = rss_mb()
    index.close()
    disk_bytes = bytes_on_disk(path)
    index = _open(path)
    figures = fresh | _look_up(run, index)
    figures |= _recover(run, index, directory / "recovered")
    figures |= _expire(run, index, path)
    index.close()
    return {
        "ids": run.batches * BATCH_IDS,
        "days": DEDUP_DAYS,
        **figures,
        "disk_bytes_per_id": round(disk_bytes / (run.batches * BATCH_IDS), 1),
        "rss_mb": memory_mb,
    }


class _IndexRun:
    """A run of so many batches, which come on the days of the window in turn."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.today = self.day_of(batches - 1)

    def day_of(self, batch: int) -> int:
        """The day on which a batch comes."""
        return _FIRST_DAY + batch * DEDUP_DAYS // self.batches


def _open(path: Path) -> SegmentedFile:
    return SegmentedFile(path, time_of_seen, DEDUP_DAYS * DAY_MS)


def _claim(hashes: list[bytes], offset: int, day: int) -> tuple[list[tuple[bytes, bytes]], Rows]:
    """The changelog records and local rows that a worker writes for ids that intake's record at `offset` brought."""
    marks = [number.to_bytes(MARK_BYTES, "big") for number in range(_CONTENTS)]
    seen = {each: Claim(offset, marks[number % _CONTENTS]) for number, each in enumerate(hashes)}
    return list(seen_records(seen, day, offset)), seen_rows(seen, day)


def _rows_of(records: list[tuple[bytes, bytes]]) -> Rows:
    """The local rows that recovery makes of changelog records."""
    return [row for key, value in records for row in seen_rows_of_record(key, value)]


def _seen_among(index: SegmentedFile, hashes: list[bytes], today: int) -> list[int]:
    """The first offsets of the ids that were seen within the window, asked for as the owner does."""
    since_day = today - DEDUP_DAYS
    offsets = (first_offset_of(value, since_day) for value in index.get_many(hashes) if value is not None)
    return [offset for offset in offsets if offset is not None]


def _fill(run: _IndexRun, index: SegmentedFile) -> dict[str, Any]:
    look_up, encode, insert = Phase(), Phase(), Phase()
    changelog_bytes = false_duplicates = 0
    for batch in range(run.batches):
        hashes, day = ids_of(batch), run.day_of(batch)
        false_duplicates += len(look_up.run(_seen_among, index, hashes, day))
        records, rows = encode.run(_claim, hashes, batch, day)
        insert.run(index.write, rows, batch)
        changelog_bytes += sum(len(key) + len(value) for key, value in records)
    return {
        "new_ids_per_second": round(look_up.ids / (look_up.seconds + encode.seconds + insert.seconds)),
        "lookups_of_new_per_second": look_up.per_second,
        "inserts_per_second": insert.per_second,
        "changelog_bytes_per_id": round(changelog_bytes / look_up.ids, 2),
        "false_duplicates": false_duplicates,
    }


def _look_up(run: _IndexRun, index: SegmentedFile) -> dict[str, Any]:
    """Look up all the ids again, and as many that never came, on an index that was closed and opened in between."""
    repeated, absent = Phase(), Phase()
    false_new = wrong_offsets = false_duplicates = 0
    for batch in in_another_order(run.batches):
        offsets = repeated.run(_seen_among, index, ids_of(batch), run.today)
        false_new += BATCH_IDS - len(offsets)
        wrong_offsets += sum(offset != batch for offset in offsets)
        false_duplicates += len(absent.run(_seen_among, index, ids_of(_ABSENT + batch), run.today))
    return {
        "repeated_ids_per_second": repeated.per_second,
        "absent_ids_per_second": absent.per_second,
        "false_new": false_new,
        "wrong_offsets": wrong_offsets,
        "false_duplicates_after_reopening": false_duplicates,
    }


def _recover(run: _IndexRun, index: SegmentedFile, path: Path) -> dict[str, Any]:
    """Recover the index from its changelog alone, and compare it with the original."""
    recovered = _open(path)
    apply = Phase()
    for batch in range(run.batches):
        records, _ = _claim(ids_of(batch), batch, run.day_of(batch))
        apply.run(lambda records, batch: recovered.merge(_rows_of(records), batch), records, batch)
    wrong = abs(sum(1 for _ in recovered.items()) - run.batches * BATCH_IDS)
    for batch in in_another_order(run.batches):
        hashes = ids_of(batch)
        wrong += recovered.get_many(hashes) != index.get_many(hashes)
    recovered.close()
    return {"recovered_ids_per_second": apply.per_second, "wrong_after_recovery": wrong}


def _expire(run: _IndexRun, index: SegmentedFile, path: Path) -> dict[str, Any]:
    """Let days pass, one id a day, until the oldest segment goes; then check that exactly the ids within the window are
    still known."""
    before = bytes_on_disk(path)
    today = run.today
    while True:
        today += 1
        began_at = time.perf_counter()
        index.write(_claim([today.to_bytes(16, "big")], run.batches, today)[1], run.batches)
        index.expire(today * DAY_MS)
        seconds = time.perf_counter() - began_at
        if bytes_on_disk(path) < before:
            break
    wrong = 0
    for batch in range(run.batches):
        within_window = run.day_of(batch) >= today - DEDUP_DAYS
        wrong += abs(len(_seen_among(index, ids_of(batch), today)) - BATCH_IDS * within_window)
    return {
        "expiry_seconds": round(seconds, 4),
        "expired_mb": round((before - bytes_on_disk(path)) / 1e6, 1),
        "wrong_after_expiry": wrong,
    }
