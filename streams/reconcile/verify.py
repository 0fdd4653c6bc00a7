"""The three-way reconciliation: state tables, journal and ClickHouse must tell the same of every grant, and no use that
was accepted may have led to nothing.

It runs on a live system. Accounts are read first, each as of its last applied offset. The journal is read to its end
after that, so it has all facts of those accounts. ClickHouse is asked once it has all of that journal. Each pair is
then compared over the same facts: journal and accounts up to each account's offset, journal and ClickHouse up to the
mark.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.facts import PASSING_KINDS, entry_id
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.historian import check_marks, journal_sink, marks_of
from streams.clickhouse.limits import LONG
from streams.errors import OperatorError
from streams.history.facts import kind_in
from streams.kafka.stored import check_stored, facts_of
from streams.kafka.topic_creation import require_topics
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.accounts_view import read_accounts

CATCH_UP_SECONDS_MAX = 120.0
_NAMED_MAX = 20

# Project, grant, and which of the two is summed up: the grant's "balance", or its "held" credits.
Budget = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two of the three about one grant of a project, in microcredits."""

    project: str
    grant_id: str
    measure: str
    between: str
    first: int
    second: int
    entry_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """The verdict: how much was compared, and the differences. `drift_microcredits` is the sum of all of them.

    `use_accepted_but_unbilled` counts the uses that were taken for decided before, though none was charged or refused
    under their id or their job's; `unbilled` names some of them, by the ids of their facts.
    """

    projects: int = 0
    facts: int = 0
    repeated_in_journal: int = 0
    drift_microcredits: int = 0
    differences: list[Difference] = field(default_factory=list)
    use_accepted_but_unbilled: int = 0
    unbilled: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything agreed, and every use was billed or refused."""
        return not self.differences and not self.drift_microcredits and not self.use_accepted_but_unbilled

    def as_json(self) -> dict[str, Any]:
        """The verdict as one JSON object."""
        return {"ok": self.ok} | asdict(self)


@dataclass(slots=True)
class _JournalSums:
    """The journal folded: sums by (project, grant), over everything and up to each account's own offset."""

    sums: dict[Budget, int] = field(default_factory=lambda: defaultdict(int))
    sums_in_state: dict[Budget, int] = field(default_factory=lambda: defaultdict(int))
    marks: dict[int, tuple[int, int]] = field(default_factory=dict)
    # The marks of those facts that the history keeps for good.
    lasting: dict[int, tuple[int, int]] = field(default_factory=dict)
    facts: int = 0
    repeated: int = 0


async def check_comparable(settings: Settings) -> None:
    """Raise OperatorError where there is nothing that could be compared: no topics, or those of another version."""
    await require_topics(settings)
    await check_stored(settings, "accounts", "journal")


async def verify(
    settings: Settings, clickhouse: ClickHouse, on_progress: Callable[[str], None] = lambda _text: None
) -> Verdict:
    """Compare accounts, journal and ClickHouse. Raises OperatorError where ClickHouse does not catch up with the
    journal, or is ahead of it."""
    began_at = time.monotonic()
    clickhouse = clickhouse.limited(LONG).consistent()
    verdict = Verdict()
    await _check_timeline(settings, clickhouse)
    on_progress("reading accounts")
    state, offsets = await _read_accounts(settings)
    verdict.projects = len(offsets)
    journal = await _read_journal(settings, offsets, on_progress)
    verdict.facts, verdict.repeated_in_journal = journal.facts, journal.repeated
    on_progress("waiting for ClickHouse to have it all")
    await _wait_for(clickhouse, journal.lasting)
    on_progress("asking ClickHouse")
    history = await _read_history(clickhouse, journal.marks)
    for between, first, second in (
        ("accounts and journal", state, journal.sums_in_state),
        ("journal and ClickHouse", journal.sums, history),
    ):
        for budget in sorted(first.keys() | second.keys()):
            one, other = first.get(budget, 0), second.get(budget, 0)
            if one != other:
                verdict.drift_microcredits += abs(one - other)
                verdict.differences.append(Difference(*budget, between, one, other))
    await _name_entries(settings, clickhouse, journal.marks, verdict)
    await _find_unbilled(settings, clickhouse, journal.marks, verdict)
    verdict.seconds = round(time.monotonic() - began_at, 3)
    return verdict


async def _check_timeline(settings: Settings, clickhouse: ClickHouse) -> None:
    """Raise TimelineError where ClickHouse is ahead of the journal: rows above its end would not be compared."""
    sink = journal_sink(settings)
    held = marks_of(await asyncio.to_thread(clickhouse.query, sink.marks_sql))
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings))
    try:
        await consumer.start()
        places = [TopicPartition(sink.topic, number) for number in range(settings.partitions)]
        check_marks(sink, held, await consumer.end_offsets(places))
    finally:
        await consumer.stop()


async def _read_accounts(settings: Settings) -> tuple[dict[Budget, int], dict[str, int]]:
    """Read afresh the balance and the held credits of each grant, and the last offset applied to each account."""
    sums: dict[Budget, int] = {}
    offsets: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="meterline-") as directory:
        async with read_accounts(settings, Path(directory) / "accounts") as view:
            for account in view.all():
                offsets[account.project] = account.last_offset
                for grant in account.grants:
                    sums[account.project, grant.id, "balance"] = grant.remaining
                    sums[account.project, grant.id, "held"] = grant.held
    return sums, offsets


async def _read_journal(
    settings: Settings, offsets: dict[str, int], on_progress: Callable[[str], None]
) -> _JournalSums:
    journal = _JournalSums()

    def add(record: Any, fact: Any) -> None:
        journal.facts += 1
        if fact.kind not in PASSING_KINDS:
            journal.lasting[record.partition] = (fact.offset, fact.index)
        for measure, change in (("balance", fact.amount), ("held", fact.held)):
            if change:
                budget = (fact.project, fact.grant_id, measure)
                journal.sums[budget] += change
                if fact.offset <= offsets.get(fact.project, -1):
                    journal.sums_in_state[budget] += change

    journal.marks, journal.repeated = await _each_fact(settings, add, on_progress)
    return journal


async def _each_fact(
    settings: Settings, take: Callable[[Any, Any], None], on_progress: Callable[[str], None]
) -> tuple[dict[int, tuple[int, int]], int]:
    """Call `take` with each fact of the journal up to its present end, once; gives the marks and the repeats."""
    consumer = AIOKafkaConsumer(
        **kafka_client_settings(settings), auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES
    )
    await consumer.start()
    marks: dict[int, tuple[int, int]] = {}
    repeated = 0
    try:
        partitions = [TopicPartition(topics_of(settings).journal, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
        left = {tp for tp in partitions if ends[tp] > begins[tp]}
        total = sum(ends.values())
        done = 0
        while left:
            for tp, records in (await consumer.getmany(*left, timeout_ms=1000)).items():
                for record in records:
                    if record.offset >= ends[tp]:
                        break
                    mark = marks.get(tp.partition, (-1, -1))
                    for fact in facts_of(record):
                        if (fact.offset, fact.index) > mark:
                            mark = (fact.offset, fact.index)
                            take(record, fact)
                        else:
                            repeated += 1
                    marks[tp.partition] = mark
                    done += 1
                if records[-1].offset >= ends[tp] - 1:
                    left.discard(tp)
            on_progress(f"reading the journal: {done:,} of {total:,} records")
    finally:
        await consumer.stop()
    return marks, repeated


async def _wait_for(clickhouse: ClickHouse, marks: dict[int, tuple[int, int]]) -> None:
    deadline = time.monotonic() + CATCH_UP_SECONDS_MAX
    while True:
        rows = await asyncio.to_thread(
            clickhouse.query, "SELECT partition, max((offset, position)) FROM facts GROUP BY partition"
        )
        held = {row[0]: tuple(row[1]) for row in rows}
        behind = [partition for partition, mark in marks.items() if held.get(partition, (-1, -1)) < mark]
        if not behind:
            return
        if time.monotonic() > deadline:
            raise OperatorError(
                f"ClickHouse is behind the journal in partitions {sorted(behind)} and does not catch up; "
                "is the historian running?"
            )
        await asyncio.sleep(0.1)


def _up_to(marks: dict[int, tuple[int, int]]) -> tuple[str, dict[str, Any]]:
    """The SQL condition that holds for rows up to the marks, and its parameters."""
    ordered = sorted(marks.items())
    parameters = {
        "partitions": [partition for partition, _ in ordered],
        "offsets": [mark[0] for _, mark in ordered],
        "positions": [mark[1] for _, mark in ordered],
    }
    condition = (
        "(offset, position) <= ("
        "transform(partition, {partitions:Array(UInt16)}, {offsets:Array(UInt64)}, toUInt64(0)), "
        "transform(partition, {partitions:Array(UInt16)}, {positions:Array(UInt32)}, toUInt32(0)))"
    )
    return condition, parameters


async def _read_history(clickhouse: ClickHouse, marks: dict[int, tuple[int, int]]) -> dict[Budget, int]:
    if not marks:
        return {}
    condition, parameters = _up_to(marks)
    rows = await asyncio.to_thread(
        clickhouse.query,
        f"SELECT project, grant_id, sum(amount), sum(held) FROM facts WHERE (amount != 0 OR held != 0) AND {condition} "
        "GROUP BY project, grant_id",
        parameters,
    )
    sums: dict[Budget, int] = {}
    for project, grant_id, balance, held in rows:
        sums[project, grant_id, "balance"] = balance
        sums[project, grant_id, "held"] = held
    return sums


async def _name_entries(
    settings: Settings, clickhouse: ClickHouse, marks: dict[int, tuple[int, int]], verdict: Verdict
) -> None:
    """Name the entries on which journal and ClickHouse disagree: those that one of them lacks, or has twice."""
    wrong = {(d.project, d.grant_id): d for d in verdict.differences if d.between == "journal and ClickHouse"}
    wrong = dict(list(wrong.items())[:_NAMED_MAX])
    if not wrong:
        return
    expected: dict[tuple[str, str], dict[str, tuple[int, int]]] = defaultdict(dict)

    def take(record: Any, fact: Any) -> None:
        if (fact.project, fact.grant_id) in wrong:
            identity = entry_id(record.partition, fact.offset, fact.index)
            expected[fact.project, fact.grant_id][identity] = (fact.amount, fact.held)

    await _each_fact(settings, take, lambda _text: None)
    condition, parameters = _up_to(marks)
    for budget, difference in wrong.items():
        rows = await asyncio.to_thread(
            clickhouse.query,
            "SELECT concat(toString(partition), '-', toString(offset), '-', toString(position)) AS entry_id, "
            "sum(amount), sum(held), count() FROM facts WHERE project = {project:String} "
            f"AND grant_id = {{grant:String}} AND {condition} GROUP BY entry_id",
            parameters | {"project": budget[0], "grant": budget[1]},
        )
        found = {row[0]: ((row[1], row[2]), row[3]) for row in rows}
        for identity in sorted(expected[budget].keys() | found.keys()):
            if found.get(identity) != (expected[budget].get(identity), 1):
                difference.entry_ids.append(identity)
            if len(difference.entry_ids) >= _NAMED_MAX:
                break


# A repeat repeats something: what its id, or its job's, was charged or refused. Sets of hashes are small beside the
# history; two names that share one could hide an unbilled use, never make one up.
_EVENT = "cityHash64(project, source, event_id)"
_JOB = "cityHash64(project, environment, job_id)"
_REPEATS = kind_in("duplicate") + " AND reason = '' AND booked_at >= {since:DateTime64(3, 'UTC')}"
_ID = "concat(toString(partition), '-', toString(offset), '-', toString(position))"
# The capture of a hold for 0 credits charges nothing, and gives all of it back: it is known by the hold alone.
_RELEASED = f"{kind_in('release')} AND reason = 'captured'"
_UNBILLED = f"""
SELECT {_ID} FROM facts
WHERE {_REPEATS} AND {{condition}}
AND {_EVENT} NOT IN (
    SELECT {_EVENT} FROM facts WHERE {kind_in("charge", "refusal", "correction")}
    AND {_EVENT} IN (SELECT {_EVENT} FROM facts WHERE {_REPEATS})
)
AND {_EVENT} NOT IN (
    SELECT {_EVENT} FROM facts WHERE {kind_in("hold")} AND {_EVENT} IN (SELECT {_EVENT} FROM facts WHERE {_REPEATS})
    AND {_ID} IN (SELECT JSONExtractString(metadata, 'hold') FROM facts WHERE {_RELEASED})
)
AND (job_id = '' OR {_JOB} NOT IN (
    SELECT {_JOB} FROM facts WHERE {kind_in("charge", "release")} AND reason = 'captured' AND job_id != ''
    AND {_JOB} IN (SELECT {_JOB} FROM facts WHERE {_REPEATS} AND job_id != '')
))
ORDER BY partition, offset, position
"""


async def _find_unbilled(
    settings: Settings, clickhouse: ClickHouse, marks: dict[int, tuple[int, int]], verdict: Verdict
) -> None:
    """Find the uses that the history has repeats of alone. What they might repeat is there only as long as refusals are
    kept: older repeats are left out."""
    if not marks:
        return
    condition, parameters = _up_to(marks)
    since = datetime.fromtimestamp(0, UTC)
    if settings.passing_facts_days:
        since = datetime.now(UTC) - timedelta(days=max(0, settings.passing_facts_days - settings.dedup_days))
    rows = await asyncio.to_thread(
        clickhouse.query, _UNBILLED.replace("{condition}", condition), parameters | {"since": since}
    )
    verdict.use_accepted_but_unbilled = len(rows)
    verdict.unbilled = [row[0] for row in rows[:_NAMED_MAX]]
