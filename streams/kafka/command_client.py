"""The command client asks the owner and waits for its reply: a command goes to intake, its reply comes on `replies`.

Commands that come while earlier ones of their partition are on the way to the log wait, and then go together: many
callers share a record, and a single caller never waits for others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.commands import AnyCommand
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.foreign import UnreadableError
from streams.kafka.codecs import decode_replies, encode_commands
from streams.kafka.formats import FormatError
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Reach, kafka_client_settings, partition_of, topics_of

log = logging.getLogger(__name__)


# After this long without a record sent, nothing is known of the broker's clock: it may have been set.
_CLOCK_SECONDS_MAX = 10.0
# The largest commands, with all the metadata they may have, take some 70 KB: this many fit into a record with ease.
COMMANDS_A_RECORD_MAX = 64
UNANSWERED_SECONDS_KEPT = 30.0
# Of this many projects it is known which decision was answered last; a copy that is behind for longer is behind by far
# more than one decision.
DECIDED_PROJECTS_MAX = 10_000


@dataclass(slots=True)
class _Asked:
    """A command that is asked, and the future that is told its reply and its offset once both are known."""

    command: AnyCommand
    answered: asyncio.Future[tuple[Reply, int]]
    reply: Reply | None = None
    offset: int | None = None

    def note(self, reply: Reply | None = None, offset: int | None = None) -> None:
        """Note what has become known of it: the reply may be read before the offset is told."""
        if reply is not None:
            self.reply = reply
        if offset is not None:
            self.offset = offset
        if self.reply is not None and self.offset is not None and not self.answered.done():
            self.answered.set_result((self.reply, self.offset))

    def fail(self, error: Exception) -> None:
        """End it with an error, unless it has ended."""
        if not self.answered.done():
            self.answered.set_exception(error)

    def expire(self, seconds: float) -> None:
        """End it without a decision, `seconds` after it was asked."""
        self.fail(Rejection("decision_timeout", f"No decision within {seconds:g} seconds"))


# Stands for the reply to a command whose reply nobody waits for.
_NO_REPLY = Reply(status=200, code="", detail="", amount=0, available=0, entry_id="")


@dataclass(slots=True)
class _Group:
    """Commands of one partition that wait for earlier ones on the way."""

    waiting: list[_Asked] = field(default_factory=list)
    sending: asyncio.Task[None] | None = None


class CommandClient:
    """A CommandClient sends commands and hands each reply to the call that waits for it; any number at once."""

    def __init__(self, settings: Reach, publisher: Publisher) -> None:
        self.instance = secrets.token_hex(8)
        self.reply_partition = int(self.instance, 16) % settings.partitions
        self._settings = settings
        self._topics = topics_of(settings)
        self._publisher = publisher
        self._waiting: dict[str, _Asked] = {}
        # By project, that of the newest answer last: the newest intake record of which the caller knows the effect.
        self._decided: dict[str, int] = {}
        # A correlation may become an event's id, so it is of this process alone: its name, and a number.
        self._name, self._numbers = secrets.token_hex(8), count()
        self._groups: dict[int, _Group] = defaultdict(_Group)
        # By partition: the broker's time of the newest record, and this machine's time just before it was sent.
        self._heard: dict[int, tuple[int, float]] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._reader: asyncio.Task[None] | None = None
        # When a reply was read last; since when commands have been sent without one; when the newest was sent.
        self.answered_at: float | None = None
        self._unanswered_since: float | None = None
        self._asked_at = 0.0

    async def start(self) -> None:
        """Listen for replies from now on. The caller starts the publisher."""
        consumer = self._consumer = AIOKafkaConsumer(
            **kafka_client_settings(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            # The first reply ends a fetch, however long the fetch would wait.
            fetch_max_wait_ms=500,
        )
        await consumer.start()
        partition = TopicPartition(self._topics.replies, self.reply_partition)
        consumer.assign([partition])
        await consumer.seek_to_end(partition)
        await consumer.position(partition)
        self._reader = asyncio.create_task(self._read(consumer))

    async def stop(self) -> None:
        """Stop listening; calls that still wait get `decision_timeout`."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    @property
    def is_alive(self) -> bool:
        """Whether replies are being read."""
        return self._reader is not None and not self._reader.done()

    @property
    def waiting(self) -> int:
        """How many commands wait for their reply."""
        return len(self._waiting)

    @property
    def unanswered_seconds(self) -> float:
        """How long commands have been sent without a reply to any. They are forgotten where no more come: a process
        that nobody asks could never get a reply that takes this back."""
        now = time.monotonic()
        if self._unanswered_since is None or now - self._asked_at > UNANSWERED_SECONDS_KEPT:
            return 0.0
        return now - self._unanswered_since

    def addressing(self, idempotency_key: str = "", actor: str = "") -> dict[str, Any]:
        """The fields of a command that say who asks, with a new correlation; `actor` is the id of the key that asks."""
        return {
            "actor": actor,
            "idempotency_key": idempotency_key,
            "correlation": f"{self._name}{next(self._numbers):08x}",
            "reply_instance": self.instance,
            "reply_partition": self.reply_partition,
        }

    async def decide(
        self, command: AnyCommand, partition: int | None = None, timeout_seconds: float | None = None
    ) -> tuple[Reply, int]:
        """Have the owner decide a command; gives its reply, and the offset of the intake record that has its effect.

        For a repeated command that is the offset of the first time. The command goes to its project's partition,
        unless `partition` names another. It may take `timeout_seconds`, by default the settings' time for replies.

        Raises Rejection `decision_timeout` where there is no reply in time. The command may have been decided all the
        same, so a caller that needs to know sends it again with the same idempotency key.
        """
        seconds = self._settings.reply_timeout_seconds if timeout_seconds is None else timeout_seconds
        now = time.monotonic()
        if self._unanswered_since is None or now - self._asked_at > UNANSWERED_SECONDS_KEPT:
            self._unanswered_since = now
        self._asked_at = now
        # One future and one timer: at thousands of decisions a second each costs some hundredths of a core.
        loop = asyncio.get_running_loop()
        asked = _Asked(command, loop.create_future())
        self._waiting[command.correlation] = asked
        late = loop.call_later(seconds, asked.expire, seconds)
        try:
            self._send(
                partition_of(command.project, self._settings.partitions) if partition is None else partition, asked
            )
            reply, offset = await asked.answered
            offset = int(reply.entry_id.split("-")[1]) if reply.entry_id else offset
            if not reply.code:
                self._note_decided(command.project, offset)
            return reply, offset
        finally:
            late.cancel()
            del self._waiting[command.correlation]

    def decided_offset(self, project: str) -> int | None:
        """The newest intake record with a command of this project that took effect, of those that this client was told
        of; None where it was told of none of late."""
        return self._decided.get(project)

    def _note_decided(self, project: str, offset: int) -> None:
        newest = max(self._decided.pop(project, -1), offset)
        self._decided[project] = newest
        if len(self._decided) > DECIDED_PROJECTS_MAX:
            del self._decided[next(iter(self._decided))]

    async def tell(self, command: AnyCommand) -> None:
        """Send a command whose reply nobody waits for; returns once it is on the log. Raises KafkaError."""
        told = _Asked(command, asyncio.get_running_loop().create_future(), _NO_REPLY)
        self._send(partition_of(command.project, self._settings.partitions), told)
        await told.answered

    def latest_ms(self, project: str) -> int | None:
        """The latest that the broker's clock can show now, in Unix milliseconds: that of the broker of a project's
        partition, which stamps its records. None where no record was sent there of late.

        A record was stamped after it was sent, so the clock is behind what the time since then makes of the stamp;
        this machine's own clock does not come into it.
        """
        heard = self._heard.get(partition_of(project, self._settings.partitions))
        if heard is None:
            return None
        broker_ms, sent_at = heard
        seconds = time.monotonic() - sent_at
        return broker_ms + 1 + math.ceil(seconds * 1000) if seconds <= _CLOCK_SECONDS_MAX else None

    def _send(self, partition: int, asked: _Asked) -> None:
        """Have a command sent, with those that wait already, once no other is on its way."""
        group = self._groups[partition]
        group.waiting.append(asked)
        if group.sending is None or group.sending.done():
            group.sending = asyncio.create_task(self._send_waiting(partition, group))

    async def _send_waiting(self, partition: int, group: _Group) -> None:
        while group.waiting:
            # A caller that gave up meanwhile is told that there was no decision, so its command is not sent.
            waiting = [each for each in group.waiting if not each.answered.done()]
            group.waiting = waiting[COMMANDS_A_RECORD_MAX:]
            some = waiting[:COMMANDS_A_RECORD_MAX]
            if not some:
                return
            try:
                value = encode_commands([each.command for each in some])
                sent_at = time.monotonic()
                offset, broker_ms = await self._publisher.append(self._topics.intake, partition, value)
                self._heard[partition] = (broker_ms, sent_at)
            except Exception as error:
                for each in some:
                    each.fail(error)
            else:
                for each in some:
                    each.note(offset=offset)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            try:
                sent = decode_replies(record.value)
            except FormatError as error:
                # Passing over them would let every call wait for its timeout; whoever runs this client ends with it.
                log.critical("%s-%s at offset %s: %s", record.topic, record.partition, record.offset, error)
                raise
            except UnreadableError as error:
                log.error("a record on %s is no replies, and is passed over: %s", record.topic, error)
                continue
            if sent.instance != self.instance:
                continue
            self.answered_at, self._unanswered_since = time.monotonic(), None
            for correlation, reply in sent.replies:
                asked = self._waiting.get(correlation)
                if asked is not None:
                    asked.note(reply)
