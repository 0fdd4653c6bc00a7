"""Retention: facts that move no credits are kept so many days, and then removed by ClickHouse itself.

The historian's mark is the table's own maximum. Where a partition's newest facts are of these kinds, and were removed,
it falls back to the newest that is left, and what was removed is read and written once more when the historian starts.
That does no harm: every fact that moves credits is at the mark or below it, and those above it are removed again.
"""

from __future__ import annotations

import logging
import re

from schemas.facts import PASSING_KINDS
from streams.clickhouse.client import ClickHouse, sql_literal
from streams.settings import Settings

log = logging.getLogger(__name__)

_READ = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'facts'"
_KINDS = ", ".join(map(sql_literal, PASSING_KINDS))
# The table's own words for a rule, as `_READ` gives them.
_RULE = "TTL toDateTime(booked_at) + toIntervalDay({days}) WHERE kind IN ({kinds})"


def keep_passing_facts(clickhouse: ClickHouse, settings: Settings) -> bool:
    """Have ClickHouse keep the facts of `PASSING_KINDS` for `settings.passing_facts_days`, 0 for ever; gives whether
    that is new. Call it after the migrations. Old facts are removed in the background, over hours."""
    days = settings.passing_facts_days
    ((text,),) = clickhouse.query(_READ)
    if not days:
        if not re.search(r"\bTTL toDateTime\(booked_at\)", text):
            return False
        clickhouse.command("ALTER TABLE facts REMOVE TTL")
        log.info("the history keeps every fact for ever")
        return True
    if _RULE.format(days=days, kinds=_KINDS) in text:
        return False
    clickhouse.command(
        f"ALTER TABLE facts MODIFY TTL toDateTime(booked_at) + INTERVAL {days:d} DAY DELETE WHERE kind IN ({_KINDS})"
    )
    log.info("the history keeps %s for %d days", ", ".join(PASSING_KINDS), days)
    return True
