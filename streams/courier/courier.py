"""The courier reads the journal, and gives each notice to the endpoints that are to hear of it.

What a record asks for is written, with how far the journal was read, before anything of it is sent. So a courier that
was killed goes on where the state says, whichever machine it is on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from schemas.accounts import Account
from schemas.courier import Delivery, WantedReplay
from schemas.facts import Fact, entry_id
from schemas.notices import DeliveryAttempt, Notice
from schemas.problems import Rejection
from schemas.times import DAY_MS, MINUTE_MS
from streams.collector import CycleCollector
from streams.core.endpoints import PLATFORM_ID, hears_of
from streams.core.notices import notice_of
from streams.courier.deliverer import Deliverer, DeliveryDesk
from streams.courier.matching import (
    FORGIVING,
    WAKING,
    endpoint_named,
    endpoint_of,
    hearing,
    is_platforms,
    may_tell,
    partition_of_notice,
    replay_of,
    tried_by,
)
from streams.courier.store import (
    KEPT_MS,
    Change,
    DeliveryStore,
    again,
    ended,
    health_key,
    recover,
    replay_key,
    waiting_key,
)
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_attempt
from streams.kafka.command_client import CommandClient
from streams.kafka.formats import FormatError
from streams.kafka.pace import FetchPace
from streams.kafka.publisher import Publisher
from streams.kafka.stored import BrokenRecordError, facts_of
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings
from streams.slices import in_slices
from streams.state.accounts_view import AccountsView, decoded_account
from streams.worker.lease import AssignmentEndedError, Lease, LeaseLostError
from streams.worker.membership import note_member

if TYPE_CHECKING:
    from streams.courier.outgoing import Sender

log = logging.getLogger(__name__)

_POLL_MS = 100
_IDLE_POLL_MS = 1000
_RECORDS_MAX = 64
# Deliveries written at once.
_CHANGES_MAX = 500
_COMMIT_SECONDS = 1.0
# Where no record had anything for us the state need not know of it at once: they are read again.
_UNMARKED_MAX = 10_000
_UNREADABLE_PAUSE_SECONDS = 10.0
_ACCOUNT_SECONDS = 10.0
_SWEEP_SECONDS = 3600.0
# How long attempts that are under way may take to end when the partitions go to another, or the process ends.
_SETTLE_SECONDS = 3.0
_HANDOVER_SECONDS = 1.0
_ACCOUNTS_AT_ONCE = 200


class Courier:
    """A Courier delivers until it is stopped. It counts attempts by outcome, and the deliveries that wait."""

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        publisher: Publisher,
        commands: CommandClient,
        accounts: AccountsView,
    ) -> None:
        self.settings = settings
        self._publisher = publisher
        self._commands = commands
        self._accounts = accounts
        self._topic = topics_of(settings).journal
        self.lease = Lease(settings.session_timeout_seconds)
        self.deliverer = Deliverer(settings, sender, commands, accounts, self.lease, self.interrupt)
        # Where each partition's journal is read on, and the place of the last fact.
        self._positions: dict[int, int] = {}
        self._places: dict[int, tuple[int, int]] = {}
        self._marked: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._replays: set[asyncio.Task[None]] = set()
        self._letting_go = asyncio.Lock()
        # Counts changes of assignment: records asked for under another assignment may not be the next ones.
        self._assignment = 0
        self._generation = -1
        self._interrupted = True
        self._committed_at = self._swept_at = time.monotonic()
        self._pace = FetchPace(_POLL_MS, _IDLE_POLL_MS)
        self._collector = CycleCollector()
        self._consumer: AIOKafkaConsumer | None = None
        # When the reading loop was last seen to run, by the monotonic clock.
        self.ran_at: float | None = None

    @property
    def partitions(self) -> list[int]:
        """The partitions that this courier has."""
        return sorted(self.deliverer.desks)

    @property
    def behind(self) -> int:
        """The number of journal records that are to be read, of this courier's partitions."""
        consumer, behind = self._consumer, 0
        for partition, position in self._positions.items():
            highwater = consumer.highwater(TopicPartition(self._topic, partition)) if consumer is not None else None
            behind += max(0, (highwater or position) - position)
        return behind

    async def run(self) -> None:
        """Run the courier until cancelled. Raises RuntimeError once nothing can be sent to Kafka any more."""
        session_ms = int(self.settings.session_timeout_seconds * 1000)
        consumer = self._consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            group_id=topics_of(self.settings).courier_group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 3,
        )
        consumer.subscribe([self._topic], listener=_CourierAssignment(self))
        try:
            # Inside the `try`: a member told to stop while it joins must leave, or the others wait for it.
            await consumer.start()
            self._renew_by_heartbeats(consumer)
            while True:
                self.ran_at = time.monotonic()
                if not (self._publisher.is_alive and self._commands.is_alive and self._accounts.is_alive):
                    raise RuntimeError("commands can't be sent, or accounts not be read, any more")
                try:
                    if self._interrupted:
                        await self._resume(consumer)
                    else:
                        await self._step(consumer)
                except FormatError:
                    raise
                except BrokenRecordError as error:
                    log.error("notices wait: %s", error)
                    self.interrupt()
                    await asyncio.sleep(_UNREADABLE_PAUSE_SECONDS)
                except (AssignmentEndedError, LeaseLostError) as error:
                    log.warning("the partitions are another courier's by now: %s", error)
                    self.interrupt()
                    await asyncio.sleep(_POLL_MS / 1000)
                except Exception:
                    log.exception("notices could not be read or noted; going on from what is noted")
                    self.interrupt()
                    await asyncio.sleep(1.0)
        finally:
            self.interrupt()
            self.deliverer.stop()
            await self.let_go()
            await consumer.stop()

    def interrupt(self) -> None:
        """Go on from what the state says, once the reading loop comes to it."""
        self._assignment += 1
        self._interrupted = True

    def assigned(self) -> None:
        """Note that the group has given us partitions."""
        assert self._consumer is not None
        self._generation = self._consumer._coordinator.generation
        self.lease.assign(self._generation)
        note_member(self.settings.courier_dir, self._consumer._coordinator.member_id)
        self.interrupt()

    async def let_go(self) -> None:
        """Let attempts that are under way end, and go from all partitions."""
        async with self._letting_go:
            for task in self._replays:
                task.cancel()
            self._replays.clear()
            for desk in await self.deliverer.close(_SETTLE_SECONDS):
                await desk.store.close()
            self._positions.clear()

    def _renew_by_heartbeats(self, consumer: AIOKafkaConsumer) -> None:
        coordinator, lease = consumer._coordinator, self.lease
        beat = coordinator._do_heartbeat

        async def beat_and_renew() -> bool:
            sent_at = lease.now()
            answered = bool(await beat())
            if answered:
                lease.renew(sent_at)
            return answered

        coordinator._do_heartbeat = beat_and_renew

    async def _resume(self, consumer: AIOKafkaConsumer) -> None:
        """Read the state of our partitions, and then the journal on from where it says."""
        await self.let_go()
        assignment, generation = self._assignment, self._generation
        partitions = sorted(tp.partition for tp in consumer.assignment())
        if not partitions or not self._accounts.is_ready:
            await asyncio.sleep(_POLL_MS / 1000)
            return
        sends_from = time.monotonic() + _HANDOVER_SECONDS
        check = partial(self.lease.check, generation)
        stores = {number: DeliveryStore(self.settings, self._publisher, number, check) for number in partitions}
        desks: list[DeliveryDesk] = []
        try:
            await recover(self.settings, list(stores.values()))
            for partition, store in stores.items():
                if assignment != self._assignment:
                    return  # and so another resume follows
                mark = await store.claim()
                desk = DeliveryDesk(partition, store, generation, sends_from)
                desk.health |= await in_slices(store.health())
                desks.append(desk)
                self._positions[partition] = self._marked[partition] = mark.journal_offset
                self._committed[partition] = -1
                self._places[partition] = mark.offset, mark.index
            waiting = [(desk, await in_slices(desk.store.waiting())) for desk in desks]
            replays = [(desk, await in_slices(desk.store.replays())) for desk in desks]
            if assignment != self._assignment:
                return
            for desk in desks:
                consumer.seek(TopicPartition(self._topic, desk.partition), self._positions[desk.partition])
                self.deliverer.open(desk)
        finally:
            for partition, store in stores.items():
                if partition not in self.deliverer.desks:
                    await store.close()
        for desk, some in waiting:
            for number, delivery in enumerate(some, 1):
                self.deliverer.add(desk, delivery)
                if not number % _CHANGES_MAX:
                    await asyncio.sleep(0)
        for desk, wanted in replays:
            for key, each in wanted:
                self._begin_replay(desk, key, each)
        self._interrupted = False
        log.info("%d notices wait in %d partitions", self.deliverer.waiting, len(desks))

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        assignment = self._assignment
        found = await consumer.getmany(timeout_ms=self._pace.wait_ms, max_records=_RECORDS_MAX)
        self._pace.note(consumer, bool(found))
        if assignment != self._assignment:
            return  # some partitions may be another's now; records of those still ours are read again
        desks = self.deliverer.desks
        # Each partition waits for its own writes and accounts, and for no other's.
        taking = [
            self._take(desks[tp.partition], some, assignment) for tp, some in found.items() if tp.partition in desks
        ]
        failures = [each for each in await asyncio.gather(*taking, return_exceptions=True) if each is not None]
        # What can't be read by this version ends the process, whatever else has failed.
        for failure in sorted(failures, key=lambda each: not isinstance(each, FormatError)):
            raise failure
        if found:
            self._collector.tick()
        if assignment == self._assignment:
            await self._commit(consumer, assignment)
            await self._sweep()

    async def _take(self, desk: DeliveryDesk, records: Sequence[Any], assignment: int) -> None:
        """Write what records ask for, and begin to carry it out."""
        partition = desk.partition
        work = _Work(self, desk)
        for record in records:
            for fact in facts_of(record) if may_tell(record.value) else ():
                if (fact.offset, fact.index) <= self._places[partition]:
                    continue  # of a batch that the owner repeated
                await self._read(work, fact, record.offset)
                if assignment != self._assignment:
                    return
                self._places[partition] = fact.offset, fact.index
            self._positions[partition] = record.offset + 1
            if len(work.changes) >= _CHANGES_MAX:
                await work.carry_out()
        if work.changes or work.waking or self._positions[partition] - self._marked[partition] >= _UNMARKED_MAX:
            await work.carry_out()

    def marking(self, desk: DeliveryDesk) -> Change:
        """The change that notes how far a partition's journal was read by now."""
        position = self._marked[desk.partition] = self._positions[desk.partition]
        return desk.store.mark(position, self._places[desk.partition])

    async def _read(self, work: _Work, fact: Fact, journal_offset: int) -> None:
        """Note what a fact asks for."""
        partition = work.desk.partition
        notice = notice_of(partition, fact)
        tried, replay = None, None
        if fact.kind == "endpoint":
            tried, replay = tried_by(partition, fact), replay_of(fact, journal_offset)
            if fact.reason in WAKING:
                # Whoever looks at the endpoint then must find it as it is now.
                await self._await_account(fact)
                work.waking.append(endpoint_named(fact))
            if fact.reason in FORGIVING and work.desk.health.pop(endpoint_named(fact), None) is not None:
                work.changes.append((health_key(endpoint_named(fact)), None))
        if notice is None and tried is None and replay is None:
            return
        place = fact.offset, fact.index
        if notice is not None and notice.type == "price.announced":
            async for each in self._accounts_of(partition):
                work.hear(each, notice, place)
            # All partitions are told of a price book, and the platform's endpoints once.
            if partition == 0:
                work.hear(self._account(PLATFORM_ID), notice, place)
            return
        await self._await_account(fact)
        account = self._account(fact.project)
        if notice is not None:
            work.hear(account, notice, place)
            if not is_platforms(fact.project):
                work.hear(self._account(PLATFORM_ID), notice, place)
        if tried is not None and endpoint_of(account, tried[0]) is not None:
            work.add(Delivery(tried[1], fact.project, tried[0], place))
        if replay is not None:
            key = replay_key(entry_id(partition, fact.offset, fact.index))
            work.changes.append((key, replay))
            work.replays.append((key, replay))

    def _account(self, project: str) -> Account | None:
        try:
            return self._accounts.get(project)
        except Rejection as rejection:
            log.error("notices of %s reach none of its endpoints: %s", project, rejection)
            return None

    async def _await_account(self, fact: Fact) -> None:
        """Wait until the copy of the accounts has what a fact says: its endpoints may be as new as that."""
        while not await self._accounts.wait_for(fact.project, fact.offset, _ACCOUNT_SECONDS):
            log.warning("the account of %s is not as of intake %d yet; notices wait", fact.project, fact.offset)
            if not self._accounts.is_alive or self._interrupted:
                raise RuntimeError("the accounts can't be read any more, or the partitions have changed")

    async def _accounts_of(self, partition: int) -> AsyncIterator[Account]:
        """Yield the accounts of a partition's projects that have endpoints, as of now."""
        since = time.monotonic()
        while self._accounts.lags().get(partition, float("inf")) >= time.monotonic() - since:
            await self._accounts.advanced(_POLL_MS / 1000)
        for number, (key, value) in enumerate(self._accounts.values(partition)):
            if not number % _ACCOUNTS_AT_ONCE:
                await asyncio.sleep(0)
            if b":" not in key:
                try:
                    account = decoded_account(value)
                except Rejection as rejection:
                    log.error("a price book does not reach the endpoints of %r: %s", key, rejection)
                    continue
                if account.endpoints:
                    yield account

    def _begin_replay(self, desk: DeliveryDesk, key: bytes, replay: WantedReplay) -> None:
        task = asyncio.create_task(self._replay(desk, key, replay))
        self._replays.add(task)
        task.add_done_callback(self._replays.discard)

    def begin_replays(self, desk: DeliveryDesk, replays: Sequence[tuple[bytes, WantedReplay]]) -> None:
        """Begin to send notices again, as was asked for."""
        for key, replay in replays:
            self._begin_replay(desk, key, replay)

    async def _replay(self, desk: DeliveryDesk, key: bytes, replay: WantedReplay) -> None:
        """Read the journal again, and send what a replay asks for. It begins anew where it is interrupted."""
        try:
            since_ms = replay.since_ms
            if replay.notice_id:
                where = self.deliverer.desks.get(partition_of_notice(replay.notice_id), desk)
                known = where.store.ended(replay.endpoint_id, replay.notice_id)
                since_ms = known.at_ms - MINUTE_MS if known is not None else now_ms() - KEPT_MS - DAY_MS
            count = 0
            async for partition, fact in self._facts_since(desk.partition, since_ms, replay):
                notice = notice_of(partition, fact)
                tried = tried_by(partition, fact)
                if tried is not None and tried[0] == replay.endpoint_id and tried[1].id == replay.notice_id:
                    notice = tried[1]
                # All partitions are told of a price book, and the platform's endpoints once.
                if notice is None or (notice.type == "price.announced" and is_platforms(replay.account) and partition):
                    continue
                # How it went is known where its partition is: with us, or else with another courier.
                holding = self.deliverer.desks.get(partition, None if replay.only_failed else desk)
                if holding is None:
                    continue
                while self.deliverer.waiting_for(holding, replay.endpoint_id) >= self.deliverer.waiting_max():
                    await asyncio.sleep(1.0)
                count += await self._send_again(holding, notice, replay, (fact.offset, fact.index))
            await desk.store.write([(key, None)])
            log.info("%d notices are sent to %s again", count, replay.endpoint_id)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a replay for %s is not done; it begins anew", replay.endpoint_id)
            self.interrupt()

    async def _send_again(
        self, desk: DeliveryDesk, notice: Notice, replay: WantedReplay, place: tuple[int, int]
    ) -> int:
        """Send a notice again if a replay asks for it; gives how many are."""
        account = self._account(replay.account)
        endpoint = endpoint_of(account, replay.endpoint_id)
        is_for_all = is_platforms(replay.account) or notice.type == "price.announced"
        if endpoint is None or not (is_for_all or notice.project == replay.account):
            return 0
        is_wanted = notice.id == replay.notice_id if replay.notice_id else notice.at_ms >= replay.since_ms
        if not replay.notice_id and not hears_of(endpoint, notice.type, notice.environment):
            return 0
        if not is_wanted or desk.store.delivery(replay.endpoint_id, notice.id) is not None:
            return 0
        before = desk.store.ended(replay.endpoint_id, notice.id)
        if replay.only_failed and before is not None and before.is_delivered:
            return 0
        attempts = before.attempts if before is not None else 0
        delivery = Delivery(notice, replay.account, replay.endpoint_id, place, attempts, attempts)
        await desk.store.write(again(delivery))
        self.deliverer.add(desk, delivery, endpoint.is_ordered)
        return 1

    async def _facts_since(
        self, partition: int, since_ms: int, replay: WantedReplay
    ) -> AsyncIterator[tuple[int, Fact]]:
        """Yield the facts of the journal from a time on until a replay was asked for, each with its partition. The
        platform's endpoints hear of all partitions."""
        ends = {TopicPartition(self._topic, partition): replay.until_offset}
        consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await consumer.start()
        try:
            if is_platforms(replay.account):
                others = [TopicPartition(self._topic, number) for number in range(self.settings.partitions)]
                ends = await consumer.end_offsets(others) | ends
            for tp, end in ends.items():
                consumer.assign([tp])
                begins = (await consumer.offsets_for_times({tp: max(0, since_ms)}))[tp]
                if begins is None:
                    continue
                consumer.seek(tp, begins.offset)
                while await consumer.position(tp) < end:
                    records = (await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)).get(tp, [])
                    for record in records:
                        if record.offset < end and may_tell(record.value):
                            for fact in facts_of(record):
                                yield tp.partition, fact
        finally:
            await consumer.stop()

    async def _commit(self, consumer: AIOKafkaConsumer, assignment: int) -> None:
        """Commit how far the journal was read, for whoever looks at the group: what counts is in the state."""
        if time.monotonic() - self._committed_at < _COMMIT_SECONDS:
            return
        self._committed_at = time.monotonic()
        moved = {number: at for number, at in self._positions.items() if at != self._committed[number]}
        if moved:
            await consumer.commit({TopicPartition(self._topic, number): at for number, at in moved.items()})
            if assignment == self._assignment:
                self._committed |= moved

    async def _sweep(self) -> None:
        """Forget how deliveries ended that ended long ago."""
        if time.monotonic() - self._swept_at < _SWEEP_SECONDS:
            return
        self._swept_at = time.monotonic()
        for desk in list(self.deliverer.desks.values()):
            keys = await in_slices(desk.store.expired(now_ms()))
            for start in range(0, len(keys), _CHANGES_MAX):
                await desk.store.write([(key, None) for key in keys[start : start + _CHANGES_MAX]])


class _Work:
    """The work that journal records of one partition ask for."""

    def __init__(self, courier: Courier, desk: DeliveryDesk) -> None:
        self.desk = desk
        self.changes: list[Change] = []
        self.waking: list[str] = []
        self.replays: list[tuple[bytes, WantedReplay]] = []
        self._courier = courier
        self._waiting_max = courier.deliverer.waiting_max()
        self._deliveries: list[tuple[Delivery, bool | None]] = []
        self._reports: list[bytes] = []
        # How many deliveries of this work each endpoint has.
        self._added: dict[str, int] = {}

    def hear(self, account: Account | None, notice: Notice, place: tuple[int, int]) -> None:
        """Have a notice sent to all endpoints of an account that are to hear of it."""
        if account is not None:
            for endpoint in hearing(account, notice):
                self.add(Delivery(notice, account.project, endpoint.id, place), endpoint.is_ordered)

    def add(self, delivery: Delivery, is_ordered: bool | None = None) -> None:
        """Have a notice sent to an endpoint, unless that was done before. Too many waiting for it, it is noted, and
        reported, as one that failed: a replay sends it."""
        endpoint_id = delivery.endpoint_id
        if self.desk.store.is_known(endpoint_id, delivery.notice.id):
            return
        added = self._added[endpoint_id] = self._added.get(endpoint_id, 0) + 1
        if self._courier.deliverer.waiting_for(self.desk, endpoint_id) + added > self._waiting_max:
            at_ms = now_ms()
            self.changes += ended(delivery, False, 0, at_ms)
            self._reports.append(encode_attempt(_not_kept(delivery, at_ms)))
            return
        self.changes.append((waiting_key(endpoint_id, delivery.notice.id), delivery))
        self._deliveries.append((delivery, is_ordered))

    async def carry_out(self) -> None:
        """Write all that was asked for, and how far the journal was read, and begin it."""
        await self.desk.store.write([*self.changes, self._courier.marking(self.desk)], self._reports)
        for delivery, is_ordered in self._deliveries:
            self._courier.deliverer.add(self.desk, delivery, is_ordered)
        for endpoint_id in self.waking:
            self._courier.deliverer.wake(endpoint_id)
        self._courier.begin_replays(self.desk, self.replays)
        for each in (self.changes, self.waking, self.replays, self._deliveries, self._reports):
            each.clear()
        self._added.clear()


def _not_kept(delivery: Delivery, at_ms: int) -> DeliveryAttempt:
    """The report of a notice for which there was no room: attempt 0, which was not made."""
    notice, endpoint_id = delivery.notice, delivery.endpoint_id
    return DeliveryAttempt(
        f"{endpoint_id}.{notice.id}.0",
        delivery.account,
        notice.environment,
        endpoint_id,
        notice.id,
        notice.type,
        0,
        at_ms,
        0,
        0,
        b"",
        "Too many notices wait for this endpoint: this one was not tried. Replay it once they are through",
        0,
        False,
        False,
    )


class _CourierAssignment(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        # The coordinator hears of it after this: what ends meanwhile is noted, and not repeated by a successor.
        self._courier.interrupt()
        await self._courier.let_go()
        self._courier.lease.revoke()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._courier.assigned()
