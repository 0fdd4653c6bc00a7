"""`meterline bench history` measures what the history's schema gives: time and rows read of each question beside the
same of the rows alone, bytes on disk, and what an insert costs with and without projections and indexes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.binding import bind_query

from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import LONG
from streams.clickhouse.migrations import migrate
from streams.clickhouse.promoted import promote
from streams.settings import Settings
from tests.benchmarks.history.facts import (
    BLOCK_FACTS,
    LARGEST,
    PROMOTED_KEY,
    event_id,
    fill,
    insert,
)
from tests.benchmarks.history.questions import Question, questions
from tests.benchmarks.machine import describe

DISK_BYTES_GOAL = 70
INSERT_GOAL_US = 3.0
_INSERT_BLOCK = 50_000
_MERGES_SECONDS_MAX = 1800.0
PROJECTIONS = ("sums_by_project", "sums_by_operation")
_INDEXES = ("event_ids", "job_ids")
# What a try of inserts leaves out.
_VARIANTS: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
    ("all", (), ()),
    ("no_projections", PROJECTIONS, ()),
    ("neither", PROJECTIONS, _INDEXES),
)


def measure(
    facts: int, projects: int, runs: int, tell: Callable[[str], None], folder: Path | None = None
) -> dict[str, Any]:
    """Make a history of so many facts and ask it each question so many times. Its files are removed at the end; in a
    `folder` they stay, and the next run goes on with what is there."""
    with ExitStack() as ends:
        place = folder or Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="meterline-bench-")))
        clickhouse = ends.enter_context(closing(ClickHouse(Settings(data_dir=place, clickhouse_url=None))))
        return _measure(clickhouse.limited(LONG), facts, projects, runs, tell)


def _measure(
    clickhouse: ClickHouse, facts: int, projects: int, runs: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    migrate(clickhouse)
    promote(clickhouse, PROMOTED_KEY)
    tell("inserting with and without projections")
    insert_us = _insert_us(clickhouse, min(facts, 10 * _INSERT_BLOCK), projects)
    began = time.monotonic()
    made = fill(clickhouse, facts, projects, tell)
    fill_seconds = time.monotonic() - began
    tell("waiting for merges")
    parts = _settled_parts(clickhouse)
    ((number,),) = clickhouse.query(f"SELECT offset FROM facts WHERE project = '{LARGEST}' ORDER BY booked_at LIMIT 1")
    answered = []
    for question in questions(event_id(clickhouse, number)):
        tell(question.name)
        answered.append(_ask(clickhouse, question, runs))
    size = _size(clickhouse, facts)
    return {
        "facts": facts,
        "projects": projects,
        "runs": runs,
        "questions": answered,
        "wrong": sum(not each["equals_rows"] for each in answered),
        "goals_missed": _missed(answered, size, insert_us),
        **size,
        "parts": parts,
        "facts_made_per_second": round(made / fill_seconds),
        "insert_cpu_us_per_fact": insert_us,
        "machine": describe(),
    }


def _missed(answered: Sequence[dict[str, Any]], size: dict[str, Any], insert_us: dict[str, float]) -> list[str]:
    missed = [each["name"] for each in answered if not each["meets_goal"]]
    if size["disk_bytes_per_fact"] > DISK_BYTES_GOAL:
        missed.append("disk_bytes_per_fact")
    if insert_us["projections"] > INSERT_GOAL_US:
        missed.append("insert_cpu_us_per_fact")
    return missed


def _ask(clickhouse: ClickHouse, question: Question, runs: int) -> dict[str, Any]:
    ours, ours_ms, ours_read = _timed(clickhouse, question.sql, question.parameters, runs)
    raw, raw_ms, raw_read = _timed(clickhouse, question.raw, question.parameters, min(runs, 3))
    share = ours_read / max(raw_read, 1)
    within = share <= question.share_goal if question.share_goal is not None else True
    return {
        "name": question.name,
        "p50_ms": round(ours_ms, 1),
        "goal_ms": question.goal_ms,
        "rows_read": ours_read,
        "raw_p50_ms": round(raw_ms, 1),
        "raw_rows_read": raw_read,
        "share_of_rows": round(share, 4),
        "rows": len(ours),
        "equals_rows": bool(ours) and list(ours) == list(raw),
        "meets_goal": ours_ms <= question.goal_ms and within,
    }


def _timed(
    clickhouse: ClickHouse, sql: str, parameters: dict[str, Any], runs: int
) -> tuple[Sequence[Sequence[Any]], float, int]:
    """The rows of a question, the median of its milliseconds, and the rows that it read."""
    named = {name: value for name, value in parameters.items() if f"{{{name}:" in sql}
    rows = clickhouse.query(sql, named)
    text, bound = bind_query(sql, named, None)
    values = {name.removeprefix("param_"): value for name, value in bound.items()}
    times = []
    # The engine itself: its driver sets and unsets the settings of each query by statements of their own.
    connection = clickhouse.engine_connection()
    try:
        for _ in range(runs):
            began = time.perf_counter()
            result = connection.query(text, "Native", params=values)
            times.append((time.perf_counter() - began) * 1000)
        read = int(result.storage_rows_read())
    finally:
        connection.close()
    return rows, statistics.median(times), read


def _insert_us(clickhouse: ClickHouse, facts: int, projects: int) -> dict[str, float]:
    """Microseconds of processor time that a fact's insert takes, merges apart: the least of three tries."""
    taken = {}
    for name, projections, indexes in _VARIANTS:
        tries = []
        for _ in range(3):
            clickhouse.command("DROP TABLE IF EXISTS tried")
            clickhouse.command("CREATE TABLE tried AS facts")
            for projection in projections:
                clickhouse.command(f"ALTER TABLE tried DROP PROJECTION {projection}")
            for index in indexes:
                clickhouse.command(f"ALTER TABLE tried DROP INDEX {index}")
            clickhouse.command("SYSTEM STOP MERGES tried")
            began = time.process_time()
            for first in range(0, facts, _INSERT_BLOCK):
                insert(clickhouse, "tried", first, _INSERT_BLOCK, BLOCK_FACTS * 200, projects)
            tries.append((time.process_time() - began) / facts * 1e6)
        taken[name] = min(tries)
    clickhouse.command("DROP TABLE tried")
    return {
        "all": round(taken["all"], 2),
        "projections": round(taken["all"] - taken["no_projections"], 2),
        "indexes": round(taken["no_projections"] - taken["neither"], 2),
    }


def _settled_parts(clickhouse: ClickHouse) -> int:
    """The parts of the table, once ClickHouse merges no more of them. Raises AssertionError where it goes on."""
    deadline = time.monotonic() + _MERGES_SECONDS_MAX
    is_quiet = 0
    while is_quiet < 4:
        assert time.monotonic() < deadline, "merges do not end"
        ((running,),) = clickhouse.query("SELECT count() FROM system.merges")
        is_quiet = 0 if running else is_quiet + 1
        time.sleep(0.25)
    return int(clickhouse.query("SELECT count() FROM system.parts WHERE table = 'facts' AND active")[0][0])


def _size(clickhouse: ClickHouse, facts: int) -> dict[str, Any]:
    ((disk,),) = clickhouse.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE table = 'facts' AND active")
    projections = clickhouse.query(
        "SELECT name, sum(rows), sum(bytes_on_disk) FROM system.projection_parts WHERE table = 'facts' AND active "
        "GROUP BY name ORDER BY name"
    )
    return {
        "disk_bytes_per_fact": round(disk / facts, 1),
        "projections": {
            name: {"rows_per_fact": round(rows / facts, 4), "bytes_per_fact": round(size / facts, 2)}
            for name, rows, size in projections
        },
    }
