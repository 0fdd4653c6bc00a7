"""The pipeline watch looks at Kafka from beside the flow: who reads what, and how far behind. It asks no other process,
and so works for any deployment; `/readyz` and the metrics tell what it saw."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)

from api.flows import LOOKS_KEPT_MAX, Flow, Members, OpenTransactions
from schemas.http.status import WORKERS_SHOWN_MAX, WorkerStatus
from streams.kafka.command_client import CommandClient
from streams.kafka.log_sizes import log_bytes
from streams.kafka.topics import ISOLATION, kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.worker.watchdog import has_record

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# While something is not ready a look is due sooner: who waits for a start should not wait for the watch.
SOON_SECONDS = 0.2
LOOK_SECONDS_MAX = 5.0
# How many topics a record has come through before it is on one of these, of those that have readers.
_STAGES = {"usage": 0, "intake": 1, "journal": 2, "dead_letters": 2}
NOTE_CHARS_MAX = 300
DEAD_LETTERS_SECONDS = 15.0
SIZES_SECONDS = 15.0
CODES_MAX = 200
# A broker's answers about a group that another coordinates, or whose state it has not read yet: they name no members.
_NOT_KNOWN_HERE = (GroupLoadInProgressError, GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader of a topic: the consumer group, and the topic."""

    group: str
    topic: str


class Pipeline:
    """A Pipeline looks once a second. `waiting` says which parts can't serve and why; `flows`, by the names of the
    metrics, and `members` have the figures."""

    def __init__(self, settings: Settings, commands: CommandClient, accounts: AccountsView) -> None:
        self._settings = settings
        self._commands = commands
        self._accounts = accounts
        topics = topics_of(settings)
        self._worker_group = topics.worker_app
        self._historian_group = topics.historian_group_of("facts")
        self._cashier_group = topics.cashier_group
        self._courier_group = topics.courier_group
        self._intake = topics.intake
        self._topics = list(topics.configs())
        self._readers = {
            "usage": Reader(topics.worker_app, topics.usage),
            "intake": Reader(topics.worker_app, topics.intake),
            "journal": Reader(topics.historian_group_of("facts"), topics.journal),
            "dead_letters": Reader(topics.historian_group_of("dead_letters"), topics.dead_letters),
            # The journal again, as the couriers read it.
            "notices": Reader(topics.courier_group, topics.journal),
        }
        self.flows = {name: Flow() for name in self._readers}
        self.members = Members()
        self.workers: list[WorkerStatus] = []
        self.historians = self.cashiers = self.couriers = 0
        self.transactions = OpenTransactions()
        self.dead_letters: dict[str, int] = {}
        self._changelogs_of_replies = {
            "replies": topics.replies_changelog,
            "recent_replies": topics.recent_replies_changelog,
        }
        # By topic, replicas included, and by table of kept replies; one is missing while its size is not known.
        self.topic_bytes: dict[str, int] = {}
        self.kept_replies_bytes: dict[str, int] = {}
        self._looked_at: float | None = None
        # When the last looks began.
        self._looks: deque[float] = deque(maxlen=LOOKS_KEPT_MAX)
        self._sized_at: float | None = None
        # The node that coordinates each group.
        self._coordinators: dict[str, int] = {}

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await self._look_while_connected()
            except (KafkaError, OSError, TimeoutError) as error:
                log.info("the watch over the pipeline can't ask Kafka: %s", error)
            except Exception:
                # A watch that ended would go on saying what it saw last.
                log.exception("the watch over the pipeline could not look; it looks again")
            await asyncio.sleep(SOON_SECONDS)

    async def count_dead_letters(self, counted: Callable[[], Awaitable[Iterable[tuple[str, int]]]]) -> None:
        """Count the dead letters by code, as history has them, again and again until cancelled."""
        while True:
            try:
                self.dead_letters = dict(list(await counted())[:CODES_MAX])
            except Exception as error:
                log.debug("dead letters can't be counted: %s", error)
            await asyncio.sleep(DEAD_LETTERS_SECONDS)

    def waiting(self, at: float | None = None) -> dict[str, str]:
        """The parts, and for each why it can't serve, or "" where it can."""
        at = time.monotonic() if at is None else at
        return {
            "kafka": self._kafka(at),
            "worker": self._worker(at),
            "accounts": self._account_copies(),
            "history": self._history(at),
        }

    def history_lag_ms(self) -> int | None:
        """Milliseconds since the history was last known to have all facts that were stated; None if it never was."""
        complete_at = self.flows["journal"].complete_at
        return None if complete_at is None else round((time.monotonic() - complete_at) * 1000)

    def events_lag_ms(self) -> int | None:
        """Milliseconds since all usage that had been sent by then was known to be in the history, decided or among the
        dead letters; None while that is not known.

        A look sees where all topics end, and then what was taken of them: what went on to the next topic in between is
        seen there only by the look after. So each of the two later topics was complete for one look less.
        """
        moments = [self._looks_before(looks, self.flows[name].complete_at) for name, looks in _STAGES.items()]
        known = [moment for moment in moments if moment is not None]
        return round((time.monotonic() - min(known)) * 1000) if len(known) == len(moments) else None

    def _looks_before(self, looks: int, at: float | None) -> float | None:
        """The time at which the look began that was so many looks before the one at `at`; None where it is not known
        any more."""
        earlier = [each for each in self._looks if at is not None and each <= at]
        return earlier[-1 - looks] if len(earlier) > looks else None

    def _kafka(self, at: float) -> str:
        if self._looked_at is None:
            return "it has not answered yet"
        seconds = at - self._looked_at
        return _for(seconds, "it has not answered") if seconds > self._settings.ready_grace_seconds else ""

    def _worker(self, at: float) -> str:
        settings, members = self._settings, self.members
        if not members.were_seen:
            return "no worker has been there yet"
        if members.empty_seconds(at) > settings.ready_grace_seconds:
            return _for(members.empty_seconds(at), "no worker is there")
        if members.is_looping(at):
            return "workers end and start again and again"
        for name, seconds_max in (
            ("intake", settings.ready_intake_lag_seconds),
            ("usage", settings.ready_usage_lag_seconds),
        ):
            flow = self.flows[name]
            if seconds_max and flow.waiting_seconds(at) > seconds_max:
                return _for(flow.waiting_seconds(at), f"{name} has {flow.records} records that wait, the oldest")
        seconds = self._commands.unanswered_seconds
        if 0 < settings.ready_intake_lag_seconds < seconds:
            return _for(seconds, "commands have been sent and none was answered")
        return ""

    def _account_copies(self) -> str:
        if not self._accounts.is_ready:
            return "this process has not read them all yet"
        seconds = max(self._accounts.lags().values(), default=0.0)
        if seconds > self._settings.ready_accounts_lag_seconds:
            return _for(seconds, "this process's copy has been behind")
        return ""

    def _history(self, at: float) -> str:
        for name in ("journal", "dead_letters"):
            flow = self.flows[name]
            if flow.records and flow.note:
                return f"it stopped: {flow.note[:NOTE_CHARS_MAX]}"
            if flow.still_seconds(at) > self._settings.ready_history_still_seconds:
                return _for(flow.still_seconds(at), f"{flow.records} records of {name} wait, and none was written")
        return ""

    async def _look_while_connected(self) -> None:
        client = kafka_client_settings(self._settings)
        admin = AIOKafkaAdminClient(**client)
        self._coordinators = {}
        # As the worker reads: the end is the last stable offset.
        consumer = AIOKafkaConsumer(
            **client, auto_offset_reset="earliest", isolation_level=ISOLATION, enable_auto_commit=False
        )
        uncommitted = AIOKafkaConsumer(**client, enable_auto_commit=False)
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                await admin.start()
                await consumer.start()
                await uncommitted.start()
                places = list({place for reader in self._readers.values() for place in self._places(reader)})
                consumer.assign(places)
                consumer.pause(*places)
            while True:
                async with asyncio.timeout(LOOK_SECONDS_MAX):
                    await self._look(admin, consumer)
                    await self._look_for_transactions(consumer, uncommitted)
                    await self._look_at_sizes(admin)
                await self._forget_markers(consumer)
                await asyncio.sleep(SOON_SECONDS if any(self.waiting().values()) else LOOK_SECONDS)
        finally:
            await uncommitted.stop()
            await consumer.stop()
            await admin.close()

    async def _look_for_transactions(self, consumer: AIOKafkaConsumer, uncommitted: AIOKafkaConsumer) -> None:
        places = self._places(self._readers["usage"])
        stable, ends = await consumer.end_offsets(places), await uncommitted.end_offsets(places)
        self.transactions.look(
            time.monotonic(), *({tp.partition: at for tp, at in each.items()} for each in (stable, ends))
        )

    async def _look_at_sizes(self, admin: AIOKafkaAdminClient) -> None:
        if self._sized_at is not None and time.monotonic() - self._sized_at < SIZES_SECONDS:
            return
        self._sized_at = time.monotonic()
        try:
            found = await log_bytes(admin, self._topics, self._settings.partitions)
        except Exception as error:
            # A broker may be away, or tell this process nothing: that is no reason to see nothing else.
            log.debug("the size of the kept replies is not known: %r", error)
            found = {}
        self.topic_bytes = found
        tables = self._changelogs_of_replies
        self.kept_replies_bytes = {name: found[topic] for name, topic in tables.items() if topic in found}

    async def _look(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer) -> None:
        members = await self._look_at_groups(admin)
        at = time.monotonic()
        ends = await consumer.end_offsets(
            [place for reader in self._readers.values() for place in self._places(reader)]
        )
        for name, reader in self._readers.items():
            its_ends = {place: ends[place] for place in self._places(reader)}
            committed, note = await self._committed(admin, consumer, reader, its_ends)
            flow = self.flows[name]
            flow.look(at, committed, {place.partition: end for place, end in its_ends.items()}, note)
        self.members.look(time.monotonic(), members)
        self._looked_at = time.monotonic()
        self._looks.append(at)

    async def _forget_markers(self, consumer: AIOKafkaConsumer) -> None:
        """Take no marker of a transaction for a record that waits: they have offsets too."""
        for name, reader in self._readers.items():
            flow = self.flows[name]
            if flow.still_seconds(time.monotonic()) > LOOK_SECONDS_MAX:
                waiting = {TopicPartition(reader.topic, number): at for number, at in flow.waiting_at().items()}
                if not any([await has_record(consumer, place, *span) for place, span in waiting.items()]):
                    flow.nothing_waits()

    async def _look_at_groups(self, admin: AIOKafkaAdminClient) -> frozenset[str]:
        """Look who is in which group; gives the ids of the workers."""
        wanted = [self._worker_group, self._historian_group, self._cashier_group, self._courier_group]
        # aiokafka can't read an answer about several groups. (error, group, state, protocol type, protocol, members, …)
        nodes = [await self._coordinator(admin, group) for group in wanted]
        asked = await asyncio.gather(*map(admin.describe_consumer_groups, [[group] for group in wanted], nodes))
        groups = [group for (answer,) in asked for group in answer.groups]
        for error in (for_code(group[0]) for group in groups):
            if issubclass(error, _NOT_KNOWN_HERE):
                raise error("the members of a group are not known")
        members = {group[1]: group[5] for group in groups}
        workers = members.get(self._worker_group, ())
        self.workers = [self._worker_of(member) for member in workers][:WORKERS_SHOWN_MAX]
        self.historians = len(members.get(self._historian_group, ()))
        self.cashiers = len(members.get(self._cashier_group, ()))
        self.couriers = len(members.get(self._courier_group, ()))
        return frozenset(member[0] for member in workers)

    def _worker_of(self, member: tuple[Any, ...]) -> WorkerStatus:
        """The worker that a member of the group is, as Kafka tells: (id, client's id, host, metadata, assignment)."""
        name, _, version = member[1].partition("@")
        try:
            assigned = ConsumerProtocolMemberAssignment.decode(member[4]).assignment if member[4] else ()
        except Exception as error:
            log.debug("the assignment of %s can't be read: %r", member[0], error)
            assigned = ()
        numbers = sorted(number for topic, some in assigned if topic == self._intake for number in some)
        return WorkerStatus(name=name, version=version, host=member[2].lstrip("/"), partitions=numbers)

    async def _committed(
        self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, reader: Reader, ends: dict[TopicPartition, int]
    ) -> tuple[dict[int, int], str]:
        """The committed offset of each partition, or where it begins, and what the reader noted beside one of them."""
        places = list(ends)
        coordinator = await self._coordinator(admin, reader.group)
        found = await admin.list_consumer_group_offsets(reader.group, coordinator, places)
        if len(found) < len(places):
            raise NotCoordinatorForGroupError(f"what {reader.group} has committed is not known")
        committed = {place.partition: each.offset for place, each in found.items() if each.offset >= 0}
        missing = [place for place in places if place.partition not in committed]
        # What never had a record begins where it ends; who watches an idle stack would ask for it every time.
        filled = [place for place in missing if ends[place]]
        begins = await consumer.beginning_offsets(filled) if filled else {}
        committed |= {place.partition: begins.get(place, 0) for place in missing}
        return committed, next((each.metadata for each in found.values() if each.metadata), "")

    async def _coordinator(self, admin: AIOKafkaAdminClient, group: str) -> int:
        """The node that coordinates a group. It is asked for once: where it is another later, a look fails, and the
        next begins with a connection of its own."""
        if group not in self._coordinators:
            self._coordinators[group] = await admin.find_coordinator(group)
        return self._coordinators[group]

    def _places(self, reader: Reader) -> list[TopicPartition]:
        return [TopicPartition(reader.topic, number) for number in range(self._settings.partitions)]


def _for(seconds: float, what: str) -> str:
    return f"{what} for {seconds:.0f} s"
