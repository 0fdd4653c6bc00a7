"""Payments that were booked longer ago than the worker remembers their references: only the history knows those."""

from __future__ import annotations

from datetime import timedelta

from schemas.facts import entry_id
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.history.facts import kind_in, newest_facts
from streams.kafka.clock import now_ms


def booked_before(clickhouse: ClickHouse, project: str, reference: str, dedup_days: int) -> str:
    """The entry that a payment was booked by, or "", where that is `dedup_days` less an hour ago, or more.

    What is newer the worker finds itself, in the same step in which it books.
    """
    found = newest_facts(
        clickhouse,
        f"project = {{project:String}} AND {kind_in('grant')} AND reason = 'top_up' "
        "AND booked_at < {until:DateTime64(3, 'UTC')} "
        "AND JSONExtractString(metadata, 'reference') = {reference:String}",
        {
            "project": project,
            "reference": reference,
            "until": utc(now_ms()) - timedelta(days=dedup_days, hours=-1),
        },
        limit=1,
    )
    return "".join(entry_id(partition, fact.offset, fact.index) for partition, fact in found)
