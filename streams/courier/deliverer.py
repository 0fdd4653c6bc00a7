"""The deliverer makes the attempts: each endpoint has a lane of its own, and what follows from an attempt is written
before the next.

An attempt's number follows from those that are noted. So one that a crash took the note of is made again under the same
ids, `webhook-id` and the attempt's, and is billed once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.accounts import Endpoint
from schemas.commands import BillDelivery, DisableEndpoint
from schemas.courier import Delivery, EndpointHealth
from schemas.notices import DeliveryAttempt
from schemas.problems import Rejection
from streams.courier.lanes import RATE_MAX, Lane, RateCap, Width
from streams.courier.matching import endpoint_of, is_platforms
from streams.courier.schedule import after_attempt, attempt_id, is_retry
from streams.courier.store import Change, DeliveryStore, ended, health_key, waiting_key
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_attempt
from streams.kafka.command_client import CommandClient
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.worker.lease import AssignmentEndedError, Lease, LeaseLostError

if TYPE_CHECKING:
    from streams.courier.outgoing import Outcome, Sender

log = logging.getLogger(__name__)

# The facts that the courier causes bear this in place of a key's id.
ACTOR = "courier"
# Attempts under way, in all. Sockets are the bound: a process has a few thousand.
FLYING_MAX = 1_000
# Of these, those at endpoints whose last attempt was slow: however many such there are, others need not wait for them.
FLYING_SLOW_MAX = 500
# Deliveries that wait for one endpoint; above them a notice is not kept for it, and says so. Where so many wait in all,
# each endpoint has only as many as FEW.
WAITING_MAX = 10_000
WAITING_IN_ALL = 500_000
FEW = 100
# A lane looks again so often at an endpoint that was paused, and at the clock.
LOOK_SECONDS = 60.0
_FULL_SECONDS = 0.02
_FIRST_PAUSE_SECONDS = 0.5
_PAUSE_SECONDS_MAX = 30.0
# The answer of an owner that can't be asked: it is asked again.
_PASSING = ("decision_timeout", "unreadable_account")


@dataclass(slots=True, eq=False)
class DeliveryLane:
    """A lane of one endpoint, with the cap and the width of the endpoint, which has other lanes in other partitions if
    it is the platform's."""

    endpoint_id: str
    lane: Lane
    cap: RateCap
    width: Width
    is_platforms: bool
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    is_paused: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class DeliveryDesk:
    """The work on one partition under one assignment, which has the group's `generation`. Nothing is sent before
    `sends_from`, by the monotonic clock: an attempt of whoever had the partition before may just have ended."""

    partition: int
    store: DeliveryStore
    generation: int
    sends_from: float
    lanes: dict[str, DeliveryLane] = field(default_factory=dict)
    health: dict[str, EndpointHealth] = field(default_factory=dict)
    flights: set[asyncio.Task[None]] = field(default_factory=set)
    is_open: bool = True


class Deliverer:
    """A Deliverer sends the deliveries that it is given, and counts attempts by their outcome in `attempts`. It calls
    `failed` where something could not be written."""

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        commands: CommandClient,
        accounts: AccountsView,
        lease: Lease,
        failed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._commands = commands
        self._accounts = accounts
        self._lease = lease
        self._failed = failed
        self._caps: dict[str, RateCap] = {}
        self._widths: dict[str, Width] = {}
        self._room = asyncio.Semaphore(FLYING_MAX)
        self._slow_room = asyncio.Semaphore(FLYING_SLOW_MAX)
        self._disabling: dict[str, asyncio.Task[None]] = {}
        self.desks: dict[int, DeliveryDesk] = {}
        self.attempts: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """The number of deliveries that have not ended."""
        return sum(len(each.lane) for desk in self.desks.values() for each in desk.lanes.values())

    def open(self, desk: DeliveryDesk) -> None:
        """Begin to send a partition's deliveries."""
        self.desks[desk.partition] = desk
        self._share()

    def waiting_max(self) -> int:
        """How many deliveries to one endpoint may wait, as things are."""
        return WAITING_MAX if self.waiting < WAITING_IN_ALL else FEW

    def waiting_for(self, desk: DeliveryDesk, endpoint_id: str) -> int:
        """How many deliveries to an endpoint wait."""
        there = desk.lanes.get(endpoint_id)
        return len(there.lane) if there is not None else 0

    def add(self, desk: DeliveryDesk, delivery: Delivery, is_ordered: bool | None = None) -> None:
        """Send a delivery that waits, in order or not; None where that is not known here."""
        if not desk.is_open:
            return
        there = desk.lanes.get(delivery.endpoint_id)
        if there is None:
            if is_ordered is None:
                with suppress(Rejection):
                    endpoint = endpoint_of(self._accounts.get(delivery.account), delivery.endpoint_id)
                    is_ordered = endpoint is not None and endpoint.is_ordered
            cap = self._caps.setdefault(delivery.endpoint_id, RateCap(self._limit(delivery.account)))
            width = self._widths.setdefault(delivery.endpoint_id, Width())
            there = desk.lanes[delivery.endpoint_id] = DeliveryLane(
                delivery.endpoint_id, Lane(width), cap, width, is_platforms(delivery.account)
            )
        if is_ordered is not None:
            there.lane.order(is_ordered)
        there.lane.put(delivery.notice.id, delivery.place, delivery.next_at_ms)
        there.changed.set()
        if there.task is None or there.task.done():
            there.task = asyncio.create_task(self._serve(desk, there))

    def wake(self, endpoint_id: str) -> None:
        """Look at an endpoint's lanes again: it has changed."""
        for desk in self.desks.values():
            if (there := desk.lanes.get(endpoint_id)) is not None:
                there.is_paused = False
                there.changed.set()

    async def close(self, seconds: float) -> list[DeliveryDesk]:
        """Begin no more attempts, give those under way some time to end, and let go of all partitions."""
        desks, self.desks = list(self.desks.values()), {}
        for desk in desks:
            desk.is_open = False
            for there in desk.lanes.values():
                if there.task is not None:
                    there.task.cancel()
        flights = [flight for desk in desks for flight in desk.flights]
        if flights:
            await asyncio.wait(flights, timeout=seconds)
            for flight in flights:
                flight.cancel()
            await asyncio.gather(*flights, return_exceptions=True)
        self._caps.clear()
        self._widths.clear()
        return desks

    def stop(self) -> None:
        """Give up disabling endpoints: the next failure asks for it again."""
        for task in self._disabling.values():
            task.cancel()

    def _share(self) -> None:
        for desk in self.desks.values():
            for there in desk.lanes.values():
                if there.is_platforms:
                    there.cap.limit = self._platforms_limit()

    def _limit(self, account: str) -> int:
        return self._platforms_limit() if is_platforms(account) else RATE_MAX

    def _platforms_limit(self) -> int:
        """The part that this process has of the cap of an endpoint that hears of every partition."""
        return max(1, RATE_MAX * len(self.desks) // self._settings.partitions)

    async def _serve(self, desk: DeliveryDesk, there: DeliveryLane) -> None:
        """Begin a lane's attempts, each at its time, until nothing waits."""
        lane, cap = there.lane, there.cap
        while len(lane):
            seconds = self._pause(desk, there)
            if seconds > 0:
                there.changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await there.changed.wait()
                        continue
                there.is_paused = False
                continue
            cap.start()
            flight = asyncio.create_task(self._fly(desk, there, lane.take()))
            desk.flights.add(flight)
            flight.add_done_callback(desk.flights.discard)
        if desk.lanes.get(there.endpoint_id) is there and not len(lane):
            del desk.lanes[there.endpoint_id]
            if there.width.is_as_new and not there.is_platforms:
                self._widths.pop(there.endpoint_id, None)

    def _pause(self, desk: DeliveryDesk, there: DeliveryLane) -> float:
        """The seconds until a lane's next attempt may begin, 0 for now; or until it is to be looked at again."""
        next_at_ms = there.lane.next_at_ms()
        if there.is_paused or next_at_ms is None:
            return LOOK_SECONDS
        now = time.monotonic()
        free_at = there.cap.free_at(now * 1000)
        if free_at is None:
            return _FULL_SECONDS
        return min(LOOK_SECONDS, max(0.0, (next_at_ms - now_ms()) / 1000, free_at / 1000 - now, desk.sends_from - now))

    async def _fly(self, desk: DeliveryDesk, there: DeliveryLane, notice_id: str) -> None:
        """Make one attempt, and write what follows from it."""
        is_counted = False
        try:
            delivery = desk.store.delivery(there.endpoint_id, notice_id)
            is_billed = delivery is not None and is_retry(delivery) and not is_platforms(delivery.account)
            if delivery is not None and is_billed:
                # Before it has a place: whoever has to bill it may be away for a while.
                if await self._ready(desk, there, notice_id, delivery) is None:
                    return
                await self._bill(delivery)
            async with self._place(there):
                endpoint = await self._ready(desk, there, notice_id, delivery)
                if delivery is None or endpoint is None:
                    return
                # A courier that was paused, or has given the partition away, leaves this to its successor.
                self._check(desk)
                sent_at_ms, began_at = now_ms(), time.monotonic()
                is_counted = True
                outcome = await self._sender.send(endpoint, delivery.notice, sent_at_ms)
                ended_at = time.monotonic()
                log.debug("%s: %d in %.3f s", attempt_id(delivery), outcome.status, ended_at - began_at)
                there.cap.end(ended_at * 1000)
                is_counted = False
            if outcome.is_void:
                # It may have come all the same: it has had its place in the cap, and now the attempt is made.
                there.lane.put(notice_id, delivery.place, delivery.next_at_ms)
                return
            there.width.note(round((ended_at - began_at) * 1000), outcome.is_delivered)
            await self._note(desk, there, delivery, outcome, sent_at_ms, is_billed)
        except asyncio.CancelledError:
            raise
        except (AssignmentEndedError, LeaseLostError) as error:
            if desk.is_open:
                desk.is_open = False
                log.warning("notices of partition %d are another courier's by now: %s", desk.partition, error)
            self._failed()
        except Exception:
            log.exception("a delivery to %s could not be noted", there.endpoint_id)
            self._failed()
        finally:
            if is_counted:
                there.cap.end(time.monotonic() * 1000)
            there.changed.set()

    @asynccontextmanager
    async def _place(self, there: DeliveryLane) -> AsyncIterator[None]:
        """A place among the attempts that are under way."""
        async with AsyncExitStack() as stack:
            if there.width.is_slow:
                await stack.enter_async_context(self._slow_room)
            await stack.enter_async_context(self._room)
            yield

    async def _ready(
        self, desk: DeliveryDesk, there: DeliveryLane, notice_id: str, delivery: Delivery | None
    ) -> Endpoint | None:
        """The endpoint that a delivery may be sent to now, or None where there is none. The place in the cap is given
        back then."""
        endpoint: Endpoint | None = None
        try:
            if delivery is None:
                there.lane.end(notice_id)
                return None
            endpoint = endpoint_of(self._accounts.get(delivery.account), there.endpoint_id)
            if endpoint is None or endpoint.state == "disabled":
                await desk.store.write(ended(delivery, False, delivery.attempts, now_ms()))
                there.lane.end(notice_id)
                endpoint = None
            elif endpoint.state == "paused":
                there.is_paused = True
                there.lane.put(notice_id, delivery.place, delivery.next_at_ms)
                endpoint = None
            else:
                there.lane.order(endpoint.is_ordered)
        except Rejection as rejection:
            log.error("a notice waits for %s: %s", there.endpoint_id, rejection)
            assert delivery is not None
            there.lane.put(notice_id, delivery.place, now_ms() + round(LOOK_SECONDS * 1000))
        finally:
            if endpoint is None:
                there.cap.cancel()
        return endpoint

    async def _note(
        self,
        desk: DeliveryDesk,
        there: DeliveryLane,
        delivery: Delivery,
        outcome: Outcome,
        sent_at_ms: int,
        is_billed: bool,
    ) -> None:
        """Write and report what follows from an attempt that was made."""
        at_ms, endpoint_id = now_ms(), delivery.endpoint_id
        after = after_attempt(
            delivery,
            desk.health.get(endpoint_id),
            status=outcome.status,
            is_delivered=outcome.is_delivered,
            asked_pause_seconds=outcome.retry_after_seconds,
            at_ms=at_ms,
        )
        next_at_ms = after.delivery.next_at_ms if after.delivery is not None else 0
        report = attempt_of(delivery, outcome, sent_at_ms, next_at_ms, is_billed)
        changes: list[Change] = []
        if after.delivery is not None:
            changes.append((waiting_key(endpoint_id, delivery.notice.id), after.delivery))
        else:
            changes += ended(delivery, outcome.is_delivered, delivery.attempts + 1, at_ms)
        if after.health != desk.health.get(endpoint_id):
            changes.append((health_key(endpoint_id), after.health))
            if after.health is None:
                desk.health.pop(endpoint_id, None)
            else:
                desk.health[endpoint_id] = after.health
        # Whoever has lost the partition meanwhile writes nothing.
        self._check(desk)
        await desk.store.write(changes, [encode_attempt(report)])
        self.attempts["delivered" if outcome.is_delivered else "retried" if after.delivery else "failed"] += 1
        if after.delivery is not None:
            there.lane.put(delivery.notice.id, delivery.place, next_at_ms)
        else:
            there.lane.end(delivery.notice.id)
        if after.disable_for:
            self._disable(delivery.account, endpoint_id, after.disable_for)

    def _check(self, desk: DeliveryDesk) -> None:
        """Check that a partition is still ours. Raises AssignmentEndedError or LeaseLostError."""
        self._lease.check(desk.generation)

    async def _bill(self, delivery: Delivery) -> None:
        """Have a retry billed before it is made: once, however often this is asked for."""
        name, pause_seconds = attempt_id(delivery), _FIRST_PAUSE_SECONDS
        while True:
            try:
                reply, _ = await self._commands.decide(
                    BillDelivery(
                        project=delivery.account,
                        environment=delivery.notice.environment,
                        attempt_id=name,
                        endpoint_id=delivery.endpoint_id,
                        **self._commands.addressing(f"delivery:{name}", ACTOR),
                    )
                )
            except Rejection as rejection:
                log.warning("%s is not billed yet: %s; again in %g s", name, rejection.code, pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(_PAUSE_SECONDS_MAX, 2 * pause_seconds)
                continue
            if reply.status >= 300:
                log.error("%s is sent without a bill: %s", name, reply.code)
            return

    def _disable(self, account: str, endpoint_id: str, reason: str) -> None:
        task = self._disabling.get(endpoint_id)
        if task is None or task.done():
            self._disabling = {name: each for name, each in self._disabling.items() if not each.done()}
            self._disabling[endpoint_id] = asyncio.create_task(self._ask_to_disable(account, endpoint_id, reason))

    async def _ask_to_disable(self, account: str, endpoint_id: str, reason: str) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        # The same key while it is asked again; another one when it is disabled another time.
        key = f"disable:{endpoint_id}:{now_ms()}"
        while True:
            try:
                reply, _ = await self._commands.decide(
                    DisableEndpoint(
                        project=account,
                        endpoint_id=endpoint_id,
                        reason=reason,
                        **self._commands.addressing(key, ACTOR),
                    )
                )
                log.warning(
                    "endpoint %s of %s is disabled: %s (%s)", endpoint_id, account, reason, reply.code or "done"
                )
                return
            except Rejection as rejection:
                log.warning("endpoint %s is not disabled yet: %s", endpoint_id, rejection.code)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(_PAUSE_SECONDS_MAX, 2 * pause_seconds)


def attempt_of(
    delivery: Delivery, outcome: Outcome, sent_at_ms: int, next_at_ms: int, is_billed: bool
) -> DeliveryAttempt:
    """The report of a delivery's next attempt, which had this outcome."""
    notice = delivery.notice
    return DeliveryAttempt(
        attempt_id(delivery),
        delivery.account,
        notice.environment,
        delivery.endpoint_id,
        notice.id,
        notice.type,
        delivery.attempts + 1,
        sent_at_ms,
        outcome.status,
        outcome.ms,
        outcome.answer,
        outcome.error,
        next_at_ms,
        outcome.is_delivered,
        is_billed,
    )
