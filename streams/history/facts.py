"""Facts read from the history: a project's, in order, and whether they are all there yet.

A fact counts from `EFFECTIVE_AT` on. A fact of an event or a command counts from when it was booked. A fact of time (a
renewal, an expired hold, a month's bill) counts from when it was due, even if it was booked later, since a live balance
takes due things into account. In the order in which an account's facts were booked, that time never falls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.facts import LIMITED_AT_EDGE, PASSING_KINDS, Fact, Kind
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse, sql_literal
from streams.core.booking import FACTS_PER_SLOT
from streams.kafka.clock import now_ms
from streams.kafka.stored import facts_of
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings

# `least`, since a change of plan that waits for the renewal is stated with a time that is yet to come.
EFFECTIVE_AT = "if(source = '', least(occurred_at, booked_at), booked_at)"
POLL_SECONDS = 0.1
FACTS_A_PAGE = 20_000

Mark = tuple[int, int]

_COLUMNS = ", ".join(
    {
        "index": "position",
        "occurred_at_ms": "toUnixTimestamp64Milli(occurred_at)",
        "booked_at_ms": "toUnixTimestamp64Milli(booked_at)",
    }.get(name, name)
    for name in Fact.__struct_fields__
)
AT = "fromUnixTimestamp64Milli({at:Int64}, 'UTC')"
UNTIL, _BOOKED = AT.replace("at:", "until:"), AT.replace("at:", "booked:")


def kind_in(*kinds: Kind) -> str:
    """Gives the SQL condition that a fact is of one of these kinds."""
    names = ", ".join(map(sql_literal, kinds))
    return f"kind = {names}" if len(kinds) == 1 else f"kind IN ({names})"


# A use that was charged or held; no capture, no hold extended, no month's bill.
USED = f"({kind_in('charge', 'hold')} AND reason = '')"
# A request that was refused, or many; no month that is unpaid (`fact_words.refuses_request`).
REFUSED = f"({kind_in('refusal')} AND (source != '' OR reason IN ('rate_limited', '{LIMITED_AT_EDGE}')))"
# The requests that a refusal, or what a trial said of it, stands for.
REQUESTS = "if(source = '', quantity, 1)"
# What became of an event, or of the request that named it; a repeat of it changes nothing.
DECIDED = kind_in("charge", "hold", "refusal", "correction")


@dataclass(frozen=True, slots=True)
class DecidedFacts:
    """A decision on one event or command of an intake record: the facts that came of it, in order."""

    partition: int
    facts: list[Fact]

    @property
    def place(self) -> Mark:
        """The (offset, slot) that say which event or command of which record was decided."""
        first = self.facts[0]
        return first.offset, first.index // FACTS_PER_SLOT


def decisions(
    clickhouse: ClickHouse, condition: str, parameters: dict[str, Any], limit: int | None = None
) -> list[DecidedFacts]:
    """The decisions with the facts under a condition, partition by partition, the oldest first; at most `limit`
    facts."""
    sql = f"SELECT partition, {_COLUMNS} FROM facts WHERE {condition} ORDER BY partition, offset, position"
    if limit is not None:
        sql += f" LIMIT {limit:d}"
    return list(_grouped((row[0], Fact(*row[1:])) for row in clickhouse.query(sql, parameters)))


def newest_facts(
    clickhouse: ClickHouse, condition: str, parameters: dict[str, Any], limit: int
) -> list[tuple[int, Fact]]:
    """The (partition, fact) pairs of facts under a condition, the newest first; at most `limit`."""
    rows = clickhouse.query(
        f"SELECT partition, {_COLUMNS} FROM facts WHERE {condition} "
        f"ORDER BY booked_at DESC, partition DESC, offset DESC, position DESC LIMIT {limit:d}",
        parameters,
    )
    return [(row[0], Fact(*row[1:])) for row in rows]


def decisions_between(
    clickhouse: ClickHouse, since: Mapping[str, int], until_ms: int
) -> Iterator[tuple[str, Iterator[DecidedFacts]]]:
    """Read the decisions on projects, each project's after its time in `since` and booked until `until_ms`: the
    projects by name, those with decisions alone, and the decisions of each, oldest first.

    A page of facts is in memory at a time, of as many projects as it has room for. Facts of a decision that count from
    the time in `since` or before are left out.
    """
    for project, facts in groupby(_facts_between(clickhouse, since, until_ms), key=lambda each: each[1].project):
        yield project, _grouped(facts)


def marks(clickhouse: ClickHouse) -> dict[int, Mark]:
    """The (offset, position) that the history goes up to, by partition."""
    rows = clickhouse.query("SELECT partition, max((offset, position)) FROM facts GROUP BY partition")
    return {row[0]: (row[1][0], row[1][1]) for row in rows}


async def wait_for(
    settings: Settings, clickhouse: ClickHouse, partition: int, offset: int, timeout_seconds: float
) -> None:
    """Wait until the history has all facts of the intake record at `offset`, and of those before it.

    Call it for a record that is known to be applied: its facts are on the journal then. Raises Rejection `not_ready`.
    """
    deadline = time.monotonic() + timeout_seconds
    journal_end: Mark | None = None
    while True:
        mark = (await asyncio.to_thread(marks, clickhouse)).get(partition, (-1, -1))
        if mark[0] > offset:
            return
        if journal_end is None:
            # This record may have led to no facts, or be the last that led to any: only the journal knows.
            journal_end = await _journal_end(settings, partition)
        if mark >= journal_end:
            return
        if time.monotonic() > deadline:
            raise Rejection("not_ready", "The history has not come so far yet")
        await asyncio.sleep(POLL_SECONDS)


def held_before(clickhouse: ClickHouse, project: str, environment: str, mark: Mark) -> int:
    """Microcredits of a budget that were held before the fact at (offset, position)."""
    rows = clickhouse.query(
        "SELECT toInt64(sum(held)) FROM facts WHERE project = {project:String} "
        "AND environment = {environment:String} AND (offset, position) < ({offset:UInt64}, {position:UInt32})",
        {"project": project, "environment": environment, "offset": mark[0], "position": mark[1]},
    )
    return int(rows[0][0])


def _facts_between(clickhouse: ClickHouse, since: Mapping[str, int], until_ms: int) -> Iterator[tuple[int, Fact]]:
    projects = sorted(since)
    first_ms = min(since.values(), default=0)
    last: tuple[str, int, int, int] = ("", first_ms, 0, 0)
    while projects:
        rows = clickhouse.query(
            f"SELECT partition, {_COLUMNS} FROM facts WHERE project IN {{projects:Array(String)}} "
            f"AND {EFFECTIVE_AT} > {AT} AND booked_at >= {AT} AND booked_at <= {UNTIL} "
            f"AND (project > {{project:String}} OR booked_at >= {_BOOKED}) "
            "AND (project, booked_at, offset, position) > "
            f"({{project:String}}, {_BOOKED}, {{offset:UInt64}}, {{position:UInt32}}) "
            f"ORDER BY project, booked_at, offset, position LIMIT {FACTS_A_PAGE}",
            {"projects": projects, "at": first_ms, "until": until_ms}
            | dict(zip(("project", "booked", "offset", "position"), last, strict=True)),
        )
        for row in rows:
            fact = Fact(*row[1:])
            effective_at_ms = fact.booked_at_ms if fact.source else min(fact.occurred_at_ms, fact.booked_at_ms)
            if effective_at_ms > since[fact.project]:
                yield row[0], fact
        if len(rows) < FACTS_A_PAGE:
            return
        newest = Fact(*rows[-1][1:])
        last = newest.project, newest.booked_at_ms, newest.offset, newest.index
        projects = [project for project in projects if project >= newest.project]


def _grouped(facts: Iterable[tuple[int, Fact]]) -> Iterator[DecidedFacts]:
    decision: DecidedFacts | None = None
    for partition, fact in facts:
        place = (fact.offset, fact.index // FACTS_PER_SLOT)
        if decision is not None and decision.partition == partition and decision.place == place:
            decision.facts.append(fact)
            continue
        if decision is not None:
            yield decision
        decision = DecidedFacts(partition, [fact])
    if decision is not None:
        yield decision


async def _journal_end(settings: Settings, partition: int) -> Mark:
    """The (offset, position) of the newest fact on the journal, (-1, -1) where there is none, or none that the history
    still has to have.

    The last record of the journal has it: a batch that a crash made the owner repeat ends where it ended before, or
    later.
    """
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings), max_partition_fetch_bytes=FETCH_BYTES)
    await consumer.start()
    try:
        tp = TopicPartition(topics_of(settings).journal, partition)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        if end <= (await consumer.beginning_offsets([tp]))[tp]:
            return -1, -1
        consumer.seek(tp, end - 1)
        record = await consumer.getone(tp)
        last = facts_of(record)[-1]
        days = settings.passing_facts_days
        if days and last.kind in PASSING_KINDS and last.booked_at_ms < now_ms() - days * DAY_MS:
            return -1, -1
        return last.offset, last.index
    finally:
        await consumer.stop()
