"""Topics: the names of all topics and groups on Kafka, how it is reached, and the partition of a project."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from aiokafka.partitioner import murmur2

from schemas.replies import KEPT_FOR, KeptFor
from schemas.times import DAY_MS, HOUR_MS
from streams.errors import OperatorError

# The most of one partition in one fetch, compressed; ten times that once decompressed. A larger record still comes.
FETCH_BYTES = 1024 * 1024
# How records are read that others than we may write: those of an open or aborted transaction are not there.
ISOLATION = "read_committed"
# Of one partition, until a segment is dropped: the history has long taken what is older.
ANSWERS_BYTES_MAX = 256 * 1024 * 1024


class Reach(Protocol):
    """A Reach says how Meterline's Kafka is reached, and how its topics are laid out: a process's own Settings, or a
    client's KafkaSettings. The names are those of the settings."""

    @property
    def kafka_url(self) -> str | None: ...
    @property
    def kafka_security_protocol(self) -> str: ...
    @property
    def kafka_sasl_mechanism(self) -> str: ...
    @property
    def kafka_sasl_username(self) -> str | None: ...
    @property
    def kafka_sasl_secret(self) -> str | None: ...
    @property
    def kafka_ssl_cafile(self) -> Path | str | None: ...
    @property
    def kafka_ssl_certfile(self) -> Path | str | None: ...
    @property
    def kafka_ssl_keyfile(self) -> Path | str | None: ...
    @property
    def topic_prefix(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def reply_timeout_seconds(self) -> float: ...


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
    def deliveries(self) -> str:
        """Attempts to deliver notices, and what came of them."""
        return f"{self.prefix}.deliveries"

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
    def courier_group(self) -> str:
        """The couriers' consumer group."""
        return f"{self.prefix}-courier"

    @property
    def courier_changelog(self) -> str:
        """The couriers' records of deliveries and endpoints, the newest value of each."""
        return f"{self.courier_group}-deliveries-changelog"

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
            self.deliveries: {"retention.ms": str(30 * DAY_MS)},
            self.accounts_changelog: {"cleanup.policy": "compact", "segment.ms": str(DAY_MS)},
            self.courier_changelog: {"cleanup.policy": "compact", "segment.ms": str(DAY_MS)},
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


def topics_of(settings: Reach) -> Topics:
    """The topics that these settings name."""
    return Topics(settings.topic_prefix)


@lru_cache(maxsize=1 << 17)
def partition_of(project: str, partitions: int) -> int:
    """The partition of a project, as Kafka's default has it: by murmur2 of the key's bytes."""
    return int((murmur2(project.encode()) & 0x7FFFFFFF) % partitions)


def kafka_client_settings(settings: Reach) -> dict[str, Any]:
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
        options["sasl_plain_password"] = settings.kafka_sasl_secret
    if settings.kafka_security_protocol.endswith("SSL"):
        from aiokafka.helpers import create_ssl_context

        options["ssl_context"] = create_ssl_context(
            cafile=_text(settings.kafka_ssl_cafile),
            certfile=_text(settings.kafka_ssl_certfile),
            keyfile=_text(settings.kafka_ssl_keyfile),
        )
    return options


def _text(path: object) -> str | None:
    return None if path is None else str(path)
