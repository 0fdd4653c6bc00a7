"""The cashier buys the bundles that the journal says are wanted, and tells the owner what became of each.

It keeps no state of its own. A request is open until the journal, or the reply to our command, says that it has ended;
the group's offset never passes an open request. So after a crash the bundle is asked for again, under the same key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from schemas.commands import SettleRecharge
from schemas.facts import Fact
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.cashier.payments import Failed, Paid, Payment, Payments, PaymentUnknownError
from streams.collector import CycleCollector
from streams.core.foreign import read
from streams.kafka.command_client import CommandClient
from streams.kafka.formats import FormatError
from streams.kafka.pace import FetchPace
from streams.kafka.publisher import Publisher
from streams.kafka.stored import BrokenRecordError, facts_of
from streams.kafka.topics import FETCH_BYTES, kafka_client_settings, topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

# The facts that the cashier causes bear this in place of a key's id.
ACTOR = "cashier"
PURCHASES_AT_ONCE_MAX = 8
FIRST_PAUSE_SECONDS = 0.5
PAUSE_SECONDS_MAX = 300.0
# Once a purchase is paid, the customer waits for the credits.
TELLING_PAUSE_SECONDS_MAX = 5.0
_UNREADABLE_PAUSE_SECONDS = 10.0
_COMMIT_SECONDS = 1.0
_POLL_MS = 200
_IDLE_POLL_MS = 1_000
_FETCH_MIN_BYTES = 64 * 1024
_RECORDS_MAX = 64
# The word is in the bytes of every fact about a purchase, so records without it need not be taken apart.
_WORD = b"recharge"


class _Terms(msgspec.Struct):
    """The metadata of a fact about a purchase; that of a grant names the purchase that paid for it."""

    id: str = ""
    recharge: str = ""
    bundle_usd: int = 0
    payment_method: str = ""


_decode_terms = partial(read, msgspec.json.Decoder(_Terms).decode)


@dataclass(slots=True)
class _PurchaseRequest:
    """A purchase that is wanted, and the journal record that says so."""

    journal_offset: int
    recharge_id: str
    payment: Payment
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Desk:
    """The work on one partition: requests that have not ended, by id, and how far the journal was read.

    Nothing is bought before `begins_at`, the journal's end when the partition was assigned: a request before that may
    have ended since.
    """

    position: int
    begins_at: int
    committed: int
    mark: tuple[int, int] = (-1, -1)
    open: dict[str, _PurchaseRequest] = field(default_factory=dict)


class Cashier:
    """A Cashier buys until it is stopped. It counts this process's purchases that were `paid` or have `failed`, and the
    tries whose outcome was `unknown`."""

    def __init__(self, settings: Settings, payments: Payments, publisher: Publisher, commands: CommandClient) -> None:
        self.settings = settings
        self.paid = self.failed = self.unknown = 0
        self._payments = payments
        self._publisher = publisher
        self._commands = commands
        self._pool = ThreadPoolExecutor(PURCHASES_AT_ONCE_MAX, thread_name_prefix="cashier")
        self._desks: dict[int, _Desk] = {}
        # Counts changes of assignment: records asked for under another assignment may not be the next ones.
        self._assignment = 0
        self._interrupted = True
        self._committed_at = 0.0
        self._pace = FetchPace(_POLL_MS, _IDLE_POLL_MS, _FETCH_MIN_BYTES)
        self._collector = CycleCollector()

    @property
    def waiting(self) -> int:
        """The number of purchases that are wanted and have not ended."""
        return sum(len(desk.open) for desk in self._desks.values())

    async def run(self) -> None:
        """Run the cashier until cancelled. Raises RuntimeError once no command can be sent any more."""
        consumer = AIOKafkaConsumer(
            **kafka_client_settings(self.settings),
            group_id=topics_of(self.settings).cashier_group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_min_bytes=_FETCH_MIN_BYTES,
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            session_timeout_ms=int(self.settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(self.settings.session_timeout_seconds * 1000 / 3),
        )
        consumer.subscribe([topics_of(self.settings).journal], listener=_CashierAssignment(self))
        try:
            # Inside the `try`: a member told to stop while it joins must leave, or the others wait for it.
            await consumer.start()
            while True:
                if not (self._publisher.is_alive and self._commands.is_alive):
                    raise RuntimeError("commands can't be sent any more")
                try:
                    if self._interrupted:
                        await self._resume(consumer)
                    else:
                        await self._step(consumer)
                except FormatError:
                    raise
                except BrokenRecordError as error:
                    log.error("purchases wait: %s", error)
                    self.interrupt()
                    await asyncio.sleep(_UNREADABLE_PAUSE_SECONDS)
                except Exception:
                    log.exception("the journal could not be read; trying again from the last commit")
                    self.interrupt()
                    await asyncio.sleep(1.0)
        finally:
            self.interrupt()
            self._pool.shutdown(wait=False, cancel_futures=True)
            await consumer.stop()

    def interrupt(self) -> None:
        """Note that the assignment changes. Purchases under way are left to whoever gets the partition, and are asked
        for again under the same keys."""
        self._assignment += 1
        self._interrupted = True
        for desk in self._desks.values():
            for request in desk.open.values():
                if request.task is not None:
                    request.task.cancel()
        self._desks.clear()

    async def _resume(self, consumer: AIOKafkaConsumer) -> None:
        """Read the journal on after the last commit."""
        assignment = self._assignment
        partitions = list(consumer.assignment())
        if not partitions:
            await asyncio.sleep(_POLL_MS / 1000)
            return
        committed = {tp: await consumer.committed(tp) for tp in partitions}
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        if assignment != self._assignment:
            return  # and so another resume follows
        for tp in partitions:
            position = max(committed[tp] or 0, begins[tp])
            self._desks[tp.partition] = _Desk(position, ends[tp], position)
            consumer.seek(tp, position)
        self._interrupted = False

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        assignment = self._assignment
        found = await consumer.getmany(timeout_ms=self._pace.wait_ms, max_records=_RECORDS_MAX)
        self._pace.note(consumer, bool(found))
        if assignment != self._assignment:
            return  # some partitions may be another's now; records of those still ours are read again
        for tp, records in found.items():
            desk = self._desks[tp.partition]
            for record in records:
                if _WORD in record.value:
                    self._read(desk, record)
                desk.position = record.offset + 1
        for desk in self._desks.values():
            if desk.position >= desk.begins_at:
                for request in desk.open.values():
                    if request.task is None:
                        request.task = asyncio.create_task(self._carry_out(desk, request))
        if found:
            self._collector.tick()
        await self._commit(consumer)

    def _read(self, desk: _Desk, record: Any) -> None:
        for fact in facts_of(record):
            mark = (fact.offset, fact.index)
            if mark <= desk.mark:
                continue  # of a batch that the owner repeated
            desk.mark = mark
            if fact.kind == "recharge" and fact.reason == "requested":
                request = self._request_of(fact, record.offset)
                desk.open.setdefault(request.recharge_id, request)
            elif fact.kind == "recharge" and fact.reason == "failed":
                desk.open.pop(_decode_terms(fact.metadata).id, None)
            elif fact.kind == "grant" and fact.reason == "top_up" and _WORD.decode() in fact.metadata:
                desk.open.pop(_decode_terms(fact.metadata).recharge, None)

    def _request_of(self, fact: Fact, journal_offset: int) -> _PurchaseRequest:
        terms = _decode_terms(fact.metadata)
        # The id says where in a log the purchase was asked for, the rest which log: deployments may share a provider.
        key = f"{self.settings.topic_prefix}:{fact.project}:{terms.id}:{fact.booked_at_ms}"
        payment = Payment(key, fact.project, terms.bundle_usd * 100, terms.payment_method, fact.booked_at_ms)
        return _PurchaseRequest(journal_offset, terms.id, payment)

    async def _carry_out(self, desk: _Desk, request: _PurchaseRequest) -> None:
        """Buy a bundle and tell the owner, until both are known to be done. A request that has ended meanwhile is
        bought no more, but a paid purchase is told all the same."""
        outcome: Paid | Failed | None = None
        pause_seconds = FIRST_PAUSE_SECONDS
        while request.recharge_id in desk.open or isinstance(outcome, Paid):
            try:
                if outcome is None:
                    outcome = await asyncio.get_running_loop().run_in_executor(
                        self._pool, self._payments.buy, request.payment
                    )
                    pause_seconds = FIRST_PAUSE_SECONDS
                await self._tell(request, outcome)
                desk.open.pop(request.recharge_id, None)
                return
            except PaymentUnknownError as error:
                self.unknown += 1
                why = str(error)
            except Rejection as rejection:
                why = rejection.code
            except Exception as error:
                # The error's message may quote what was sent.
                why = type(error).__name__
            log.warning(
                "%s of project %s is not settled: %s; again in %g s",
                request.recharge_id,
                request.payment.project,
                why,
                pause_seconds,
            )
            await asyncio.sleep(pause_seconds)
            longest = PAUSE_SECONDS_MAX if outcome is None else TELLING_PAUSE_SECONDS_MAX
            pause_seconds = min(longest, 2 * pause_seconds)

    async def _tell(self, request: _PurchaseRequest, outcome: Paid | Failed) -> None:
        """Have the owner end the purchase. Raises Rejection where it is not known whether it did."""
        payment = request.payment
        reply, _ = await self._commands.decide(
            SettleRecharge(
                project=payment.project,
                recharge_id=request.recharge_id,
                is_paid=isinstance(outcome, Paid),
                reference=outcome.reference if isinstance(outcome, Paid) else "",
                detail=outcome.detail if isinstance(outcome, Failed) else "",
                **self._commands.addressing(f"recharge:{request.recharge_id}", ACTOR),
            )
        )
        if reply.status < 300:
            if isinstance(outcome, Paid):
                self.paid += 1
                log.info("%s of project %s is paid: %s", request.recharge_id, payment.project, outcome.reference)
            else:
                self.failed += 1
                log.info("%s of project %s failed: %s", request.recharge_id, payment.project, outcome.detail)
        elif reply.status in (404, 409):
            self._note_late(request, outcome, reply)
        else:
            raise Rejection(reply.code, reply.detail)

    def _note_late(self, request: _PurchaseRequest, outcome: Paid | Failed, reply: Reply) -> None:
        """Note that a purchase had ended before: by us, as a rule. If it ended otherwise, money was taken for
        nothing."""
        if isinstance(outcome, Paid):
            log.error(
                "%s of project %s was paid (%s), but had ended before (%s): if there is no grant for it, refund it",
                request.recharge_id,
                request.payment.project,
                outcome.reference,
                reply.code,
            )

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        """Commit, in each partition, the offset before which all requests have ended."""
        if time.monotonic() - self._committed_at < _COMMIT_SECONDS:
            return
        self._committed_at = time.monotonic()
        assignment = self._assignment
        topic = topics_of(self.settings).journal
        reached = {
            partition: min([desk.position, *(request.journal_offset for request in desk.open.values())])
            for partition, desk in self._desks.items()
        }
        moved = {
            TopicPartition(topic, partition): offset
            for partition, offset in reached.items()
            if offset > self._desks[partition].committed
        }
        if moved:
            await consumer.commit(moved)
            if assignment == self._assignment:
                for tp, offset in moved.items():
                    self._desks[tp.partition].committed = offset


class _CashierAssignment(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, cashier: Cashier) -> None:
        self._cashier = cashier

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._cashier.interrupt()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._cashier.interrupt()
