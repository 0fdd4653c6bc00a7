"""Limits of a query to ClickHouse: its time, memory and rows. A query that meets one is refused, and told what to
narrow."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from schemas.problems import Rejection
from streams.settings import Settings

# What one answer may hold of rows; pages and files are far below it.
ROWS_MAX = 1_000_000
ANSWER_BYTES_MAX = 64 * 1024 * 1024
GROUPS_MAX = 2_000_000


class QueryLimits(NamedTuple):
    """The limits of a query. 0 leaves one to ClickHouse's own settings. `rows_read` are those that the engine looks at,
    `rows` and `bytes` those of its answer. A query that has run for a second, and by what it has read so far would take
    more than `estimated_seconds`, is ended then. What it sums up or sorts beyond `spill_bytes` goes to disk."""

    seconds: float
    memory_bytes: int = 0
    rows_read: int = 0
    rows: int = 0
    bytes: int = 0
    groups: int = 0
    estimated_seconds: float = 0
    spill_bytes: int = 0

    def as_settings(self) -> dict[str, int]:
        """The limits as ClickHouse's settings. Its overflow modes are `throw` by default: no answer is cut short."""
        settings = {
            # The embedded engine's front takes whole numbers.
            "max_execution_time": math.ceil(self.seconds),
            "max_memory_usage": self.memory_bytes,
            "max_rows_to_read": self.rows_read,
            "max_result_rows": self.rows,
            "max_result_bytes": self.bytes,
            "max_rows_to_group_by": self.groups,
            "max_estimated_execution_time": math.ceil(self.estimated_seconds),
            "max_bytes_before_external_group_by": self.spill_bytes,
            "max_bytes_before_external_sort": self.spill_bytes,
        }
        if self.estimated_seconds:
            settings["timeout_before_checking_execution_speed"] = _SECONDS_UNTIL_ESTIMATED
        return {name: value for name, value in settings.items() if value}


_SECONDS_UNTIL_ESTIMATED = 1
# What a query reads first may be slow to come: one that seems to take a little too long runs on to its limit.
_ESTIMATE_FACTOR = 2
# So that the memory for a large file is that for a small one.
_SPILLED_PART = 8

# For what Meterline asks on its own account: the historian, proofs, rehearsals, the end of a month. Nobody waits for
# the answer, and no row may be left out. As long as the embedded engine's front lets a query run.
LONG = QueryLimits(seconds=300)


def limits_of_callers(settings: Settings) -> QueryLimits:
    """The limits of what callers of the API ask."""
    return QueryLimits(
        settings.query_seconds_max,
        settings.query_memory_mb_max * 1024 * 1024,
        settings.query_rows_read_max,
        ROWS_MAX,
        ANSWER_BYTES_MAX,
        GROUPS_MAX,
        _ESTIMATE_FACTOR * settings.query_seconds_max,
        settings.query_memory_mb_max * 1024 * 1024 // _SPILLED_PART,
    )


def refusal_of(error: DatabaseError | StreamFailureError) -> Rejection | None:
    """The refusal to tell a caller where ClickHouse ended its query at a limit; None for any other error."""
    # A stream's failure bears its code in its text alone.
    found = re.search(r"Code: (\d+)", str(error))
    code = error.code or (int(found[1]) if found else 0)
    if code in _OF_OTHERS or (code == _MEMORY and "(total)" in str(error)):
        return Rejection("too_many_queries", "The history has no room for another query now")
    what = _MET.get(code)
    return None if what is None else too_much(what)


def too_much(what: str) -> Rejection:
    """The refusal of a question that would take too much; `what` says of what."""
    return Rejection("too_much_history", f"The answer would take {what}")


_MEMORY = 241
# Codes of ClickHouse where it is what others ask that leaves no room.
_OF_OTHERS = frozenset({202})
_TIME, _ROWS = "more time than a question may take", "more rows than a question may have"
_MET = {
    158: _ROWS,
    159: _TIME,
    160: _TIME,
    191: _ROWS,
    _MEMORY: "more memory than a question may take",
    307: "more bytes than a question may read",
    396: _ROWS,
}
