"""Key uses: when each API key of a project was last used, as far back as the history is kept."""

from __future__ import annotations

from datetime import datetime

from schemas.times import in_utc
from streams.clickhouse.client import ClickHouse
from streams.history.facts import kind_in


def last_uses(clickhouse: ClickHouse, project: str) -> dict[str, datetime]:
    """The time of the newest fact that each key of a project led to, by the key's id. Facts about a key are no use."""
    rows = clickhouse.query(
        f"SELECT key_id, max(booked_at) FROM facts WHERE project = {{project:String}} AND NOT ({kind_in('key')}) "
        "AND key_id != '' GROUP BY key_id LIMIT 1000",
        {"project": project},
    )
    return {key_id: in_utc(at) for key_id, at in rows}
