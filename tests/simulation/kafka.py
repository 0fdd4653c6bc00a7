"""A Kafka of lists: partitioned logs with compaction and retention, and one consumer group with its generations."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from schemas.replies import KeptFor
from streams.kafka.topics import Topics

TopicPartition = tuple[str, int]


class Record(NamedTuple):
    """A record as it stands on its log."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes

    @property
    def timestamp(self) -> int:
        """The time of the record, as aiokafka's records name it."""
        return self.at_ms


@dataclass(slots=True)
class Log:
    """The log of one partition: records in offset order, with holes where some were removed."""

    records: list[Record] = field(default_factory=list)
    end: int = 0

    def read(self, offset: int, end: int | None = None, limit: int | None = None) -> list[Record]:
        """Read at most `limit` records from `offset` on, below `end`."""
        start = bisect_left(self.records, offset, key=attrgetter("offset"))
        stop = len(self.records)
        if end is not None and end < self.end:
            stop = bisect_left(self.records, end, key=attrgetter("offset"))
        return self.records[start : stop if limit is None else min(stop, start + limit)]


class Kafka:
    """A simulated Kafka has the topics that `Topics.configs` describes; `committed` are the worker group's offsets."""

    def __init__(self, topics: Topics, partitions: int, dedup_days: int, kept_for: KeptFor) -> None:
        self.topics = topics
        self.partitions = partitions
        self.committed: dict[TopicPartition, int] = {}
        self._configs = topics.configs(dedup_days, kept_for)
        self._logs: dict[TopicPartition, Log] = defaultdict(Log)

    def log(self, topic: str, partition: int) -> Log:
        """The log of one partition."""
        return self._logs[topic, partition]

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes, at_ms: int) -> Record:
        """Put one record at the end of a log."""
        log = self._logs[topic, partition]
        record = Record(topic, partition, log.end, at_ms, key, value)
        log.records.append(record)
        log.end += 1
        return record

    def clean(self, topic: str, partition: int, now_ms: int, rng: random.Random) -> int:
        """Clean a log as the broker may at any moment, by the topic's settings; returns how many records went.

        Compaction drops records that have a newer one of their key, up to any point but the end. Retention drops a
        prefix that is too old. The newest record stays, as it does in an active segment.
        """
        config = self._configs[topic]
        log = self._logs[topic, partition]
        before = len(log.records)
        if before < 2:
            return 0
        if config.get("cleanup.policy") == "compact":
            cut = rng.randint(1, before - 1)
            newest = {record.key: record.offset for record in log.records[:cut]}
            head = [record for record in log.records[:cut] if newest[record.key] == record.offset]
            log.records[:cut] = head
        elif config.get("retention.ms", "-1") != "-1":
            oldest_ms = now_ms - int(config["retention.ms"])
            while len(log.records) > 1 and log.records[0].at_ms < oldest_ms:
                del log.records[0]
        return before - len(log.records)
