"""Erasures in the history: rows keep their amounts and names, and lose what an event said of itself.

The historian erases before it inserts the fact that says so. So that fact is there only once ClickHouse has taken the
order, which it carries out by itself, also after a restart; and a history that is written anew from the journal is
erased anew, where it was before. What an erasure is of comes before it: facts in its partition, dead letters by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.facts import Fact
from streams.clickhouse.client import ClickHouse, sql_literal
from streams.clickhouse.promoted import value_of

_INDEX = {name: number for number, name in enumerate(Fact.__struct_fields__)}
_KIND = "erasure"
# A row of such a fact has these bytes; other rows rarely do, and lose a little time by it.
_SIGN = msgspec.msgpack.encode(_KIND)

# What events brought. The metadata of all other facts is Meterline's own note.
_KINDS = ", ".join(map(sql_literal, ("charge", "hold", "refusal", "duplicate", "shadow", "correction")))
_FROM_EVENTS = f"kind IN ({_KINDS}) AND source != '' AND reason != 'extended'"
# The names that a correction adds to the metadata of what it corrects (`streams.history.corrections`).
_NOTES = ("correction_reason", "correction_request")
_NOTES_LEFT = (
    "mapFilter((name, said) -> said != '', map("
    + ", ".join(f"{sql_literal(name)}, JSONExtractString(metadata, {sql_literal(name)})" for name in _NOTES)
    + "))"
)
_ERASED_METADATA = (
    f"if(kind = {sql_literal('correction')} AND notEmpty({_NOTES_LEFT}), toJSONString({_NOTES_LEFT}), '')"
)
_CUSTOMER = value_of("metadata", "'customer_id'")

# A dead letter is whatever came. What names it stays, where that can be read.
_ERASED_EVENT = (
    "concat('{\"source\":', toJSONString(JSONExtractString(event, 'source')), ',\"id\":', "
    "toJSONString(JSONExtractString(event, 'id')), ',\"subject\":', "
    "toJSONString(JSONExtractString(event, 'subject')), '}')"
)
IS_ERASED_LETTER = f"event = {_ERASED_EVENT}"
# Each value that stands behind "customer_id", as JSON: also where the text as a whole is none.
_CUSTOMERS_OF_LETTER = (
    """extractAll(event, '"customer_id"\\\\s*:\\\\s*("(?:[^"\\\\\\\\]|\\\\\\\\.)*"|[^\\\\s,}\\\\]"]+)')"""
)
_TEXT = "if(startsWith(said, '\"'), JSONExtractString(concat('{\"text\":', said, '}'), 'text'), said)"


class Erasure(NamedTuple):
    """An erasure of what came before the fact (partition, offset, position): of a project, or of the customer of it
    that `customer_sha256` names. `booked_at_ms` is in Unix milliseconds."""

    project: str
    customer_sha256: str
    partition: int
    offset: int
    position: int
    booked_at_ms: int


class Unerased(NamedTuple):
    """The numbers of rows that still have what an erasure takes from them; among `facts` are backfilled uses."""

    facts: int
    dead_letters: int


def may_erase(rows: bytes) -> bool:
    """Whether there may be an erasure among rows of facts, as MessagePack."""
    return _SIGN in rows


def erasure_of(partition: int, row: Sequence[Any]) -> Erasure | None:
    """The erasure that a row of facts asks for, or None."""
    if row[_INDEX["kind"]] != _KIND:
        return None
    note = msgspec.json.decode(row[_INDEX["metadata"]] or "{}")
    customer = str(note.get("customer_sha256", ""))
    # One that names nobody is none: it must not be taken for that of the whole project.
    if bool(customer) != (row[_INDEX["reason"]] == "customer"):
        return None
    return Erasure(
        row[_INDEX["project"]],
        customer,
        partition,
        row[_INDEX["offset"]],
        row[_INDEX["index"]],
        row[_INDEX["booked_at_ms"]],
    )


def erase(clickhouse: ClickHouse, erasure: Erasure) -> None:
    """Have ClickHouse erase what came before an erasure: it goes on in the background. Once more changes nothing."""
    clickhouse.command(
        "INSERT INTO erasures (partition, offset, position, project, customer_sha256, booked_at) "
        "SETTINGS async_insert = 0 VALUES ({partition:UInt16}, {offset:UInt64}, {position:UInt32}, {project:String}, "
        "{customer_sha256:String}, fromUnixTimestamp64Milli({booked_at_ms:Int64}, 'UTC'))",
        erasure._asdict(),
    )
    for table, condition in (
        ("facts", _facts_of(erasure)),
        ("dead_letters", _letters_of(erasure)),
        ("backfilled", _backfilled_of(erasure)),
    ):
        _erase(clickhouse, table, condition)


def erase_late_letters(clickhouse: ClickHouse, since_ms: int | None, newest: int) -> None:
    """Erase what dead letters since then say that came to the history after the erasure that they are of. Call it once
    they are inserted; and with None, for the `newest` of each partition, where whoever inserted them may have died."""
    if since_ms is None and clickhouse.query("SELECT count() FROM erasures")[0][0]:
        ((since_ms,),) = clickhouse.query(
            "SELECT toUnixTimestamp64Milli(min(received_at)) FROM (SELECT received_at FROM dead_letters "
            f"ORDER BY journal_offset DESC LIMIT {newest:d} BY journal_partition)"
        )
    for erasure in _begun(clickhouse, since_ms) if since_ms is not None else ():
        _erase(clickhouse, "dead_letters", _letters_of(erasure))


def erase_backfilled(clickhouse: ClickHouse) -> None:
    """Erase what uses say that were backfilled after the erasure that they are of: all happened before it. Call it once
    they are inserted."""
    for erasure in _begun(clickhouse, 0):
        _erase(clickhouse, "backfilled", _backfilled_of(erasure))


def unerased(clickhouse: ClickHouse, erasure: Erasure) -> Unerased:
    """Count the rows that still have what an erasure takes."""
    facts = _count(clickhouse, "facts", _facts_of(erasure))
    old = _count(clickhouse, "backfilled", _backfilled_of(erasure))
    return Unerased(facts + old, _count(clickhouse, "dead_letters", _letters_of(erasure)))


def failure_of(clickhouse: ClickHouse) -> str:
    """Why ClickHouse can't go on with what it was told to erase, in its own words, or ""."""
    ((failure,),) = clickhouse.query(
        "SELECT anyIf(latest_fail_reason, latest_fail_reason != '') FROM system.mutations "
        "WHERE database = currentDatabase() AND table IN ('facts', 'dead_letters', 'backfilled') AND NOT is_done"
    )
    return str(failure)


def _begun(clickhouse: ClickHouse, since_ms: int) -> list[Erasure]:
    """The erasures that were asked for since then, and begun."""
    rows = clickhouse.query(
        "SELECT project, customer_sha256, partition, offset, position, toUnixTimestamp64Milli(booked_at) "
        "FROM erasures FINAL WHERE booked_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')",
        {"since": since_ms},
    )
    return [Erasure(*row) for row in rows]


_ERASED = {
    "facts": f"metadata = {_ERASED_METADATA}",
    "dead_letters": f"event = {_ERASED_EVENT}",
    "backfilled": "metadata = ''",
}


def _erase(clickhouse: ClickHouse, table: str, condition: str) -> None:
    """Give the order, unless there is nothing to erase: parts would be gone through for it all the same."""
    if _count(clickhouse, table, condition):
        clickhouse.command(f"ALTER TABLE {table} UPDATE {_ERASED[table]} WHERE {condition} SETTINGS mutations_sync = 0")


def _count(clickhouse: ClickHouse, table: str, condition: str) -> int:
    ((count,),) = clickhouse.query(f"SELECT count() FROM {table} WHERE {condition}")
    return int(count)


def _facts_of(erasure: Erasure) -> str:
    condition = (
        f"project = {sql_literal(erasure.project)} AND partition = {erasure.partition:d} "
        f"AND (offset, position) < ({erasure.offset:d}, {erasure.position:d}) "
        f"AND {_FROM_EVENTS} AND metadata != '' AND metadata != {_ERASED_METADATA}"
    )
    return condition if not erasure.customer_sha256 else f"{condition} AND {_is_customer(_CUSTOMER, erasure)}"


def _backfilled_of(erasure: Erasure) -> str:
    condition = f"project = {sql_literal(erasure.project)} AND metadata != ''"
    return condition if not erasure.customer_sha256 else f"{condition} AND {_is_customer(_CUSTOMER, erasure)}"


def _letters_of(erasure: Erasure) -> str:
    project = sql_literal(erasure.project)
    quoted = sql_literal(f'"{erasure.project}"')
    condition = (
        f"received_at <= fromUnixTimestamp64Milli({erasure.booked_at_ms:d}, 'UTC') AND NOT ({IS_ERASED_LETTER}) "
        # Of a text that names no project in its place, whatever mentions this one.
        f"AND (project = {project} OR (project = '' AND position(event, {quoted}) > 0))"
    )
    if not erasure.customer_sha256:
        return condition
    return f"{condition} AND arrayExists(said -> {_is_customer(_TEXT, erasure)}, {_CUSTOMERS_OF_LETTER})"


def _is_customer(value: str, erasure: Erasure) -> str:
    """SQL for whether a value, an SQL expression, is the customer's name (`streams.core.erasures.customer_hash`)."""
    hashed = f"lower(hex(SHA256(concat({sql_literal(erasure.project)}, '\\n', {value}))))"
    return f"({value} != '' AND {hashed} = {sql_literal(erasure.customer_sha256)})"
