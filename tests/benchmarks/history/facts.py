"""A history made inside ClickHouse, from numbers: the same facts for the same size."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from streams.clickhouse.client import ClickHouse, sql_literal
from streams.errors import OperatorError

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 90
BLOCK_FACTS = 500_000
# The project that has a tenth of all facts, and one of the others, which have as many as each other.
LARGEST, MEDIAN = "prj_000000", "prj_000001"
CUSTOMERS = 1_000_000
PROMOTED_KEY, OTHER_KEY = "team", "feature"

# One block is one part for each month, as the historian's inserts are.
_ONE_BLOCK = (
    f"SETTINGS max_insert_threads = 1, max_threads = 1, min_insert_block_size_rows = {BLOCK_FACTS + 1}, "
    "min_insert_block_size_bytes = 0"
)
_KINDS = ["charge"] * 88 + ["refusal"] * 5 + ["request"] * 4 + ["correction"] * 1 + ["hold"] * 2
# A project has a tenth as many customers as it has a share of the facts; the rest share what is left of a million.
_SELECT = f"""
WITH
    cityHash64(number, 'fact') AS h,
    h % 10 = 0 OR {{projects:UInt32}} = 1 AS is_largest,
    if(is_largest, 0, 1 + intDiv(h, 10) % ({{projects:UInt32}} - 1)) AS p,
    if(is_largest, intDiv(h, 100) % {CUSTOMERS // 10}, p * 90 + intDiv(h, 100) % 90) AS customer,
    [{", ".join(map(sql_literal, _KINDS))}][1 + intDiv(h, 1000) % 100] AS what,
    fromUnixTimestamp64Milli({{begin:Int64}} + toInt64(number * {{step:Float64}}), 'UTC') AS at
SELECT
    {{partition:UInt16}} + p % 8, number, 0, intDiv(number, 500), what, concat('prj_', leftPad(toString(p), 6, '0')),
    if(intDiv(h, 7) % 10 = 0, 'preview', 'production'), concat('operation_', toString(intDiv(h, 11) % 12)),
    if(what = 'correction', -1, 1 + intDiv(h, 13) % 3),
    multiIf(what = 'charge', -1000 * toInt64(1 + h % 40), what = 'correction', 1000 * toInt64(1 + h % 40), 0),
    1000000000000 - number * 100, concat('top_up-', toString(p), '-0'), '2026-01', '/gateway',
    lower(hex(sipHash128(number))), if(h % 50 = 0, lower(hex(sipHash64(number))), ''), concat('key_', toString(p)),
    at - toIntervalMillisecond(h % 5000), at,
    concat('{{"customer_id":"cus_', toString(customer), '","{PROMOTED_KEY}":"team_', toString(customer % 1000),
        '","{OTHER_KEY}":"feature_', toString(intDiv(h, 17) % 50), '"}}')
FROM numbers({{first:UInt64}}, {{count:UInt64}})
"""
_COLUMNS = (
    "partition, offset, position, journal_offset, kind, project, environment, operation, quantity, amount, balance, "
    "grant_id, price_version, source, event_id, job_id, key_id, occurred_at, booked_at, metadata"
)


def insert(
    clickhouse: ClickHouse,
    table: str,
    first: int,
    count: int,
    all_facts: int,
    projects: int,
    begin: datetime = BEGIN,
    partition: int = 0,
) -> None:
    """Insert the facts from number `first` on, of a history of `all_facts` in DAYS days, as one block; eight partitions
    from `partition` on."""
    parameters = {
        "first": first,
        "count": count,
        "projects": projects,
        "begin": round(begin.timestamp() * 1000),
        "partition": partition,
        "step": DAYS * 86_400_000 / all_facts,
    }
    clickhouse.command(f"INSERT INTO {table} ({_COLUMNS}) {_SELECT} {_ONE_BLOCK}", parameters)


def fill(
    clickhouse: ClickHouse,
    facts: int,
    projects: int,
    tell: Callable[[str], None],
    begin: datetime = BEGIN,
    partition: int = 0,
) -> int:
    """Make a history of so many facts, the oldest first, or go on with one that is there; gives how many were made.
    Raises OperatorError for one that is larger."""
    ((there,),) = clickhouse.query("SELECT count() FROM facts")
    if there > facts or there % BLOCK_FACTS and there != facts:
        raise OperatorError(f"There are {there:,} facts, which is no beginning of {facts:,}; name another folder")
    for first in range(there, facts, BLOCK_FACTS):
        tell(f"{first:,} of {facts:,} facts made")
        insert(clickhouse, "facts", first, min(BLOCK_FACTS, facts - first), facts, projects, begin, partition)
    return int(facts - there)


def event_id(clickhouse: ClickHouse, number: int) -> str:
    """The event id of the fact of this number."""
    return str(clickhouse.query("SELECT lower(hex(sipHash128({number:UInt64})))", {"number": number})[0][0])


def month() -> tuple[datetime, datetime]:
    """The month that is asked about: [begin, end)."""
    return datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)


def day() -> tuple[datetime, datetime]:
    """The day that is asked about: [begin, end)."""
    begin = datetime(2026, 2, 10, tzinfo=UTC)
    return begin, begin + timedelta(days=1)
