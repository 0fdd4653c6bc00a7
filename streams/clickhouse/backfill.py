"""Backfills: `ALTER TABLE … MATERIALIZE` gives a new column, index or projection to rows that were written before, in
ClickHouse's background. Until it is done, questions read those rows themselves, so their answers are the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from streams.clickhouse.client import ClickHouse
from streams.errors import OperatorError

_POLL_SECONDS = 0.2
# A mutation of several commands has a row for each.
_LEFT = """
SELECT
    uniqExact(mutation_id),
    (SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'facts' AND active),
    max(parts_to_do),
    anyIf(latest_fail_reason, latest_fail_reason != '')
FROM system.mutations WHERE database = currentDatabase() AND table = 'facts' AND NOT is_done
"""


class BackfillError(OperatorError):
    """A backfill can't go on; the message has ClickHouse's reason."""


class Backfill(NamedTuple):
    """A backfill of `facts` that runs: its mutations, the table's parts, and how many of those are still to be written
    anew by the mutation that has most left."""

    mutations: int
    parts: int
    parts_left: int


def backfill_of(clickhouse: ClickHouse) -> Backfill:
    """The backfill of `facts` as it is now. Raises BackfillError where ClickHouse says that it fails."""
    ((mutations, parts, parts_left, failure),) = clickhouse.query(_LEFT)
    if failure:
        raise BackfillError(f"ClickHouse can't write the history's older rows anew: {failure}")
    return Backfill(mutations, parts, parts_left)


def wait_for_backfill(clickhouse: ClickHouse, tell: Callable[[Backfill], None]) -> None:
    """Wait until all rows of `facts` have all columns, indexes and projections; `tell` hears how far it is.

    It may be given up: ClickHouse goes on by itself. Raises BackfillError.
    """
    while (backfill := backfill_of(clickhouse)).mutations:
        tell(backfill)
        time.sleep(_POLL_SECONDS)
