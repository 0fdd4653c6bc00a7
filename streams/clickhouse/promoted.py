"""Promoted metadata keys: each has a column of its own in `facts`, so usage by it reads no JSON.

The column's value is that of `metadata.<key>` in usage: a string's text, and any other value as JSON.
"""

from __future__ import annotations

import re

from streams.clickhouse.client import ClickHouse, sql_literal
from streams.errors import OperatorError

# Each costs disk and a little of every insert, whether or not anybody asks for it.
PROMOTED_KEYS_MAX = 4
# Apart from letters only what needs no thought inside quotes. A dot would make the column a part of another.
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PREFIX = "metadata_"
# This one has always had a column.
BUILT_IN = {"customer_id": "customer_id"}
_READ = """
SELECT name FROM system.columns
WHERE database = currentDatabase() AND table = 'facts' AND startsWith(name, {prefix:String}) ORDER BY name
"""


class PromotionError(OperatorError):
    """A metadata key can't be promoted or demoted; the message says why."""


def promoted_keys(clickhouse: ClickHouse) -> dict[str, str]:
    """The metadata keys that have a column, each with its column's name, by key."""
    columns = [str(name) for (name,) in clickhouse.query(_READ, {"prefix": _PREFIX})]
    found = {name.removeprefix(_PREFIX): name for name in columns}
    return BUILT_IN | {key: name for key, name in found.items() if _KEY.fullmatch(key)}


def promote(clickhouse: ClickHouse, key: str) -> bool:
    """Give a metadata key a column; gives whether that is new. Rows written before get it in the background
    (`wait_for_backfill`), and are right meanwhile. Raises PromotionError for a key that can't be a column's name, and
    where there are PROMOTED_KEYS_MAX already."""
    if not _KEY.fullmatch(key):
        raise PromotionError(
            "A key to promote has 1 to 64 letters, digits, _ and - only; others can be asked for as is"
        )
    promoted = promoted_keys(clickhouse)
    if key in promoted:
        return False
    others = sorted(promoted.keys() - BUILT_IN.keys())
    if len(others) >= PROMOTED_KEYS_MAX:
        raise PromotionError(f"{PROMOTED_KEYS_MAX} keys are promoted: {', '.join(others)}. Demote one of them first")
    name, quoted = sql_literal(key), f"`{_PREFIX}{key}`"
    clickhouse.command(
        f"ALTER TABLE facts ADD COLUMN IF NOT EXISTS {quoted} String MATERIALIZED {value_of('metadata', name)} "
        f"COMMENT {sql_literal(f'the value of the metadata key {key}, or empty: a promoted key')} CODEC(ZSTD)"
    )
    clickhouse.command(f"ALTER TABLE facts MATERIALIZE COLUMN {quoted} SETTINGS mutations_sync = 0")
    return True


def demote(clickhouse: ClickHouse, key: str) -> None:
    """Take a promoted key's column away; usage by it reads `metadata` again. Raises PromotionError where the key has
    none, or one that was always there."""
    column = promoted_keys(clickhouse).get(key)
    if column is None or key in BUILT_IN:
        raise PromotionError(f"{key[:64]!r} is not a key that was promoted: see `meterline history promoted`")
    clickhouse.command(f"ALTER TABLE facts DROP COLUMN IF EXISTS `{column}` SETTINGS mutations_sync = 0")


def value_of(metadata: str, key: str) -> str:
    """SQL for the value of a metadata key; both are SQL expressions."""
    return (
        f"if(JSONType({metadata}, {key}) = 'String', JSONExtractString({metadata}, {key}), "
        f"JSONExtractRaw({metadata}, {key}))"
    )
