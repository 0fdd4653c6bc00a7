"""Topics: the names of all topics and groups on Kafka, their creation, and the partition that a project belongs to."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import collect_hosts
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError
from aiokafka.partitioner import murmur2

from schemas.replies import KEPT_FOR, KeptFor
from schemas.times import DAY_MS, HOUR_MS
from streams.errors import OperatorError
from streams.settings import Settings

# The most of one partition in one fetch, compressed; ten times that once decompressed. A larger record still comes.
FETCH_BYTES = 1024 * 1024
# How records are read that others than we may write: those of an open or aborted transaction are not there.
ISOLATION = "read_committed"
FIRST_RECORD_SECONDS = 10
# Of one partition, until a segment is dropped: the history has long taken what is older.
ANSWERS_BYTES_MAX = 256 * 1024 * 1024
# How often a process looks whether the Kafka that it waits for is there.
WAIT_POLL_SECONDS = 0.05


class TopicError(OperatorError):
    """The topics on the cluster are not as Meterline needs them; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of all topics and groups. Changelogs are named as Faust names them: <app id>-<table>-changelog."""

    prefix: str

    @property
    def usage(self) -> str:
        """CloudEvents from producers. The topic is open to them, so nothing in it is trusted."""
        return f"{self.prefix}.usage"

    @property
    def intake(self) -> str:
        """The ordered log of everything that may change an account."""
        return f"{self.prefix}.intake"

    @property
    def journal(self) -> str:
        """Facts: ledger entries, decisions, notices."""
        return f"{self.prefix}.journal"

    @property
    def replies(self) -> str:
        """Replies to commands."""
        return f"{self.prefix}.replies"

    @property
    def dead_letters(self) -> str:
        """Events that were refused, with the reason."""
        return f"{self.prefix}.dead-letters"

    @property
    def answers(self) -> str:
        """Answers of the HTTP service, for whoever asks by a request's id."""
        return f"{self.prefix}.answers"

    @property
    def worker_app(self) -> str:
        """The Faust app's id, which is its consumer group too."""
        return f"{self.prefix}-worker"

    @property
    def historian_group(self) -> str:
        """The beginning of the names of the historians' consumer groups."""
        return f"{self.prefix}-historian"

    def historian_group_of(self, table: str) -> str:
        """The consumer group of the historians that write a table."""
        return f"{self.historian_group}-{table}"

    @property
    def cashier_group(self) -> str:
        """The cashier's consumer group."""
        return f"{self.prefix}-cashier"

    @property
    def accounts_changelog(self) -> str:
        """Accounts, the newest value of each."""
        return f"{self.worker_app}-accounts-changelog"

    @property
    def seen_changelog(self) -> str:
        """The dedup index, one record a batch."""
        return f"{self.worker_app}-seen-changelog"

    @property
    def replies_changelog(self) -> str:
        """The replies that are kept under callers' keys, one record a batch."""
        return f"{self.worker_app}-replies-changelog"

    @property
    def recent_replies_changelog(self) -> str:
        """The replies to requests without a key, one record a batch."""
        return f"{self.worker_app}-recent_replies-changelog"

    def configs(self, dedup_days: int = 32, kept_for: KeptFor = KEPT_FOR) -> dict[str, dict[str, str]]:
        """Each topic's own Kafka settings: topic → setting → value."""
        arrival = {"message.timestamp.type": "LogAppendTime"}
        return {
            self.usage: {"retention.ms": str(7 * DAY_MS), **arrival},
            self.intake: {"retention.ms": "-1", **arrival},
            self.journal: {"retention.ms": "-1", **arrival},
            self.replies: {"retention.ms": str(HOUR_MS)},
            self.dead_letters: {"retention.ms": str(90 * DAY_MS)},
            self.answers: {"retention.ms": str(kept_for.key_ms), "retention.bytes": str(ANSWERS_BYTES_MAX)},
            self.accounts_changelog: {"cleanup.policy": "compact", "segment.ms": str(DAY_MS)},
            # A record of the dedup index is needed until its day is past the window, and no longer.
            self.seen_changelog: {"retention.ms": str((dedup_days + 2) * DAY_MS), "segment.ms": str(DAY_MS)},
            self.replies_changelog: _expiring(kept_for.key_ms),
            self.recent_replies_changelog: _expiring(kept_for.request_ms),
        }


def _expiring(kept_ms: int) -> dict[str, str]:
    """The Kafka settings of a changelog whose records are needed for `kept_ms` by the broker's clock, and, so that a
    worker may be away for a while, half as long again. A log's segment is removed whole, once all of it is that old."""
    return {
        "retention.ms": str(kept_ms + kept_ms // 2),
        "segment.ms": str(kept_ms // 4),
        "message.timestamp.type": "LogAppendTime",
    }


def topics_of(settings: Settings) -> Topics:
    """The topics that these settings name."""
    return Topics(settings.topic_prefix)


@lru_cache(maxsize=1 << 17)
def partition_of(project: str, partitions: int) -> int:
    """The partition of a project, as Kafka's default has it: by murmur2 of the key's bytes."""
    return int((murmur2(project.encode()) & 0x7FFFFFFF) % partitions)


def kafka_client_settings(settings: Settings) -> dict[str, Any]:
    """The options with which aiokafka reaches the cluster: address, protocol, credentials.

    Raises TopicError where no address is set.
    """
    if settings.kafka_url is None:
        raise TopicError(
            "No Kafka to connect to: set METERLINE_KAFKA_URL, or use `meterline up`, which starts a broker of its own"
        )
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_url.split(","),
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = (
            settings.kafka_sasl_password.get_secret_value() if settings.kafka_sasl_password else None
        )
    if settings.kafka_security_protocol.endswith("SSL"):
        from aiokafka.helpers import create_ssl_context

        options["ssl_context"] = create_ssl_context(
            cafile=_text(settings.kafka_ssl_cafile),
            certfile=_text(settings.kafka_ssl_certfile),
            keyfile=_text(settings.kafka_ssl_keyfile),
        )
    return options


async def first_record_from(settings: Settings, place: TopicPartition, offset: int) -> int | None:
    """The offset of a partition's first record from `offset` on; None where none comes within FIRST_RECORD_SECONDS.

    A transaction's markers have offsets, but are no records, and neither is what it aborted.
    """
    consumer = AIOKafkaConsumer(
        **kafka_client_settings(settings), auto_offset_reset="earliest", isolation_level=ISOLATION
    )
    await consumer.start()
    try:
        consumer.assign([place])
        consumer.seek(place, offset)
        records = await consumer.getmany(place, timeout_ms=1000 * FIRST_RECORD_SECONDS, max_records=1)
        return int(records[place][0].offset) if records.get(place) else None
    finally:
        await consumer.stop()


async def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing and check those that exist. Returns the names of those created.

    A Kafka that is not there yet is waited for, for `kafka_wait_seconds`. Raises TopicError where a topic has another
    partition count than the settings, and KafkaConnectionError where there is no Kafka.
    """
    topics = topics_of(settings)
    configs = topics.configs(settings.dedup_days, settings.kept_for)
    admin = await _connected(settings)
    try:
        existing = set(await admin.list_topics())
        missing = [name for name in configs if name not in existing]
        if missing:
            await _create(admin, settings, {name: configs[name] for name in missing})
        await _check_partitions(admin, list(configs), settings.partitions)
    finally:
        await admin.close()
    return missing


async def require_topics(settings: Settings) -> None:
    """Raise TopicError where a topic is missing or has another partition count than the settings; create none."""
    names = list(topics_of(settings).configs())
    admin = await _connected(settings)
    try:
        missing = set(names) - set(await admin.list_topics())
        if missing:
            raise TopicError(
                f"There is no topic {min(missing)} at {settings.kafka_url}: is METERLINE_TOPIC_PREFIX that of the "
                "running system? `meterline topics` makes new ones"
            )
        await _check_partitions(admin, names, settings.partitions)
    finally:
        await admin.close()


async def _connected(settings: Settings) -> AIOKafkaAdminClient:
    options = kafka_client_settings(settings)
    deadline = time.monotonic() + settings.kafka_wait_seconds
    while True:
        await _await_listener(options["bootstrap_servers"], deadline)
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            return admin
        except KafkaConnectionError:
            await admin.close()
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(WAIT_POLL_SECONDS)


async def _await_listener(servers: list[str], deadline: float) -> None:
    """Return once one of the servers accepts connections, or at the deadline: asking the client itself until then
    would fill the log with its errors."""
    while (left := deadline - time.monotonic()) > 0:
        for host, port, _ in collect_hosts(servers):
            # A timeout is an OSError too.
            with suppress(OSError):
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), left)
                writer.close()
                return
        await asyncio.sleep(WAIT_POLL_SECONDS)


async def _create(admin: AIOKafkaAdminClient, settings: Settings, configs: dict[str, dict[str, str]]) -> None:
    response = await admin.create_topics(
        [
            NewTopic(name, settings.partitions, settings.replication_factor, topic_configs=config)
            for name, config in configs.items()
        ]
    )
    for error in response.topic_errors:
        name, code, *rest = error
        if code not in (0, TopicAlreadyExistsError.errno):
            raise TopicError(f"Topic {name} could not be created: {rest[0] if rest else code}")


async def _check_partitions(admin: AIOKafkaAdminClient, names: list[str], partitions: int) -> None:
    for _ in range(100):
        found = {topic["topic"]: topic for topic in await admin.describe_topics(names)}
        # A topic that was made a moment ago may not have reached this broker's metadata yet.
        if all(name in found and found[name]["error_code"] == 0 and found[name]["partitions"] for name in names):
            break
        await asyncio.sleep(0.05)
    else:
        raise TopicError(f"The cluster does not show the topics {', '.join(names)}; is it healthy?")
    for name in names:
        count = len(found[name]["partitions"])
        if count != partitions:
            raise TopicError(
                f"Topic {name} has {count} partitions, the settings say {partitions}. Every topic needs the same "
                f"count, and it can't be changed once there is data: set METERLINE_PARTITIONS={count}, or set another "
                "METERLINE_TOPIC_PREFIX to start anew."
            )


def _text(path: object) -> str | None:
    return None if path is None else str(path)
