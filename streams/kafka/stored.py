"""Stored records: the check that a process makes before it starts, and the reading of journal records.

What is stored may be another version's, or of another timeline: one topic restored from an older backup than the rest.
Neither may be found out half-way, when something has been built on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.facts import Fact, FactPack
from streams.errors import LastingError, OperatorError
from streams.kafka.codecs import (
    VERSION_BYTES,
    check_account,
    check_courier,
    check_intake,
    decode_facts,
    decode_raw_pack,
)
from streams.kafka.formats import FACTS, KEPT_REPLIES, REPLIES, FormatError
from streams.kafka.topics import FETCH_BYTES, Topics, kafka_client_settings, topics_of
from streams.settings import Settings

CHECK_SECONDS_MAX = 60.0
_POLL_MS = 200

T = TypeVar("T")
StoredTopic = Literal["accounts", "journal", "intake", "replies", "kept replies", "recent replies", "deliveries"]
Records = dict[TopicPartition, Any]


class BrokenRecordError(OperatorError):
    """A record that only Meterline writes, and that can't be read: nothing after it may be taken, since what it said is
    not known. `partition` and `offset` are its place on its topic."""

    def __init__(self, message: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.partition = partition
        self.offset = offset


class TimelineError(LastingError):
    """Topics, or Kafka and ClickHouse, are not of one history; the message says which is ahead, and the remedy."""


def facts_of(record: Any) -> list[Fact]:
    """The facts of a journal record. Raises FormatError or BrokenRecordError, with the record's place."""
    return read(record, decode_facts)


def raw_pack_of(record: Any) -> FactPack[msgspec.Raw]:
    """The pack of a journal record, its facts undecoded. Raises FormatError or BrokenRecordError, with its place."""
    return read(record, decode_raw_pack)


def read(record: Any, decode: Callable[[bytes], T]) -> T:
    """Decode a record that only Meterline writes. Raises FormatError or BrokenRecordError, with the record's place."""
    try:
        return decode(record.value)
    except FormatError as error:
        raise FormatError(f"{_place(record)}: {error}") from None
    except Exception as error:
        raise BrokenRecordError(
            f"{_place(record)} can't be read ({error}). Meterline did not write it so: restore the topic from a "
            f"backup; or, if a stranger wrote it, delete the records up to it (kafka-delete-records.sh, offset "
            f"{record.offset + 1}) once history has those before it, and see who may write: `meterline topics --acls`",
            record.partition,
            record.offset,
        ) from None


async def check_stored(settings: Settings, *names: StoredTopic) -> None:
    """Look at the first and the last record of every partition of these topics.

    Raises FormatError where one is of a version that is not read here. Where both are named, raises TimelineError
    if accounts or journal go on after the end of intake: new commands would get offsets that were used before, and
    be passed over as old ones.
    """
    topics = topics_of(settings)
    known: dict[StoredTopic, tuple[str, Callable[[bytes], None]]] = {
        "accounts": (topics.accounts_changelog, check_account),
        "journal": (topics.journal, FACTS.check),
        "intake": (topics.intake, check_intake),
        "replies": (topics.replies, REPLIES.check),
        "kept replies": (topics.replies_changelog, KEPT_REPLIES.check),
        "recent replies": (topics.recent_replies_changelog, KEPT_REPLIES.check),
        "deliveries": (topics.courier_changelog, check_courier),
    }
    checks = dict(known[name] for name in names)
    places = [TopicPartition(topic, number) for topic in checks for number in range(settings.partitions)]
    consumer = _reader(settings)
    try:
        await consumer.start()
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        last = await _records_at(consumer, {tp: ends[tp] - 1 for tp in places if ends[tp] > begins[tp]}, ends)
        first = await _records_at(consumer, {tp: begins[tp] for tp in last}, ends)
    finally:
        await consumer.stop()
    for record in (*first.values(), *last.values()):
        if record.value is not None:
            read(record, checks[record.topic])
    if "intake" in names:
        for tp, record in last.items():
            _check_timeline(record, ends[TopicPartition(topics.intake, tp.partition)], topics)


async def other_timelines(
    settings: Settings, held: Mapping[TopicPartition, int], is_held: Callable[[Any], bool]
) -> set[TopicPartition]:
    """The partitions of changelogs whose local copies are of another timeline: an older Kafka was restored beside them.

    `held` is the offset that each copy has come to, and `is_held` says whether a copy has what a record says. A record
    that was compacted away can't tell, and is taken for the same.
    """
    if not held:
        return set()
    consumer = _reader(settings)
    try:
        await consumer.start()
        ends = await consumer.end_offsets(list(held))
        wrong = {tp for tp, offset in held.items() if offset >= ends[tp]}
        records = await _records_at(consumer, {tp: held[tp] for tp in held.keys() - wrong}, ends)
        return wrong | {tp for tp, found in records.items() if found.offset == held[tp] and not is_held(found)}
    finally:
        await consumer.stop()


def _reader(settings: Settings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **kafka_client_settings(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES,
    )


def _check_timeline(record: Any, intake_end: int, topics: Topics) -> None:
    intake = topics.intake
    if record.topic not in (topics.journal, topics.accounts_changelog) or record.value is None:
        return
    try:
        is_fact = record.topic == topics.journal
        applied = raw_pack_of(record).last[0] if is_fact else int.from_bytes(record.value[:VERSION_BYTES], "big") - 1
    except BrokenRecordError:
        return  # the historian says so; whoever only writes the journal goes on
    if applied >= intake_end:
        raise TimelineError(
            f"{_place(record)} tells of the intake record at offset {applied}, but {intake}-{record.partition} ends "
            f"at {intake_end}: intake is older than what followed from it. Restore all topics from one backup"
        )


async def _records_at(consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int], ends: Any) -> Records:
    """The first record at or after an offset of each partition. A transaction's marker has an offset, and is none."""
    found: Records = {}
    if not offsets:
        return found
    consumer.assign(list(offsets))
    for tp, offset in offsets.items():
        consumer.seek(tp, offset)
    left = set(offsets)
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            while left:
                for tp, records in (await consumer.getmany(*left, timeout_ms=_POLL_MS)).items():
                    found[tp] = records[0]
                done = {tp for tp in left if tp in found or await consumer.position(tp) >= ends[tp]}
                left -= done
                consumer.pause(*done)
    except TimeoutError:
        waiting = ", ".join(f"{tp.topic}-{tp.partition}" for tp in sorted(left))
        raise OperatorError(f"{waiting} could not be read within {CHECK_SECONDS_MAX:g} s: is Kafka healthy?") from None
    return found


def _place(record: Any) -> str:
    return f"{record.topic}-{record.partition} at offset {record.offset}"
