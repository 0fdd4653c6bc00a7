"""Away lets a gateway go on while Meterline gives no answers: within a lease, the gateway admits requests by itself,
and settles them once Meterline answers again.

By default there is no lease (fail-closed): a request that can't be decided is refused with 503. With a lease, a gateway
process goes on for `seconds_max` after the last decision it was given, and admits requests worth `credits_max` a
project and `total_credits_max` in all. Both limits count every request that was admitted here and is not settled yet,
also those from before a restart.

**The greatest overdraft** is `total_credits_max` times the number of gateway processes: the cost of requests that were
admitted here and are refused when they are settled, since the credits are gone. That cost is given away, not booked:
the refusal is put on record, and no balance goes below zero. A project whose last answer was that it has no credits is
given no lease; else it could run requests for nothing each time that Meterline is away.

A request that is admitted here is on disk before it runs. To settle it, the gateway asks for the decision again under
the same idempotency key, which finds a decision whose answer was lost. Then it captures or releases the hold, and sends
the usage event, which is billed once. Only then does the request leave the journal.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict, defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec

from schemas.events import UsageData
from schemas.prices import PriceBook
from schemas.problems import Rejection
from streams.client.admissions import Admissions, Decision, MeterlineAway
from streams.client.amounts import Credits, credits_of, microcredits_of
from streams.client.arguments import ArgumentError, Count, Seconds, check
from streams.client.away_journal import Asked, AwayJournal, Entry, Outcome
from streams.client.producer import Producer, ProducerError
from streams.core.foreign import decoded
from streams.core.pricing import meter

log = logging.getLogger(__name__)

SETTLED_AT_ONCE_MAX = 16
PRICES_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 5.0
# How long Meterline seems away after a request waited in vain. Settling asks more often: its first answer ends this.
SILENCE_SECONDS = 15.0
_REFUSED_PROJECTS_MAX = 10_000
_NO_CREDITS = ("out_of_credits", "project_closed", "unknown_project")
# The code for a request that was decided before, and whose answer is no longer kept.
_EXPIRED = "idempotency_reply_expired"


@dataclass(frozen=True, slots=True)
class AwayCounts:
    """The counts of a gateway process: `waiting` entries, not settled yet, and the credits `leased` for them;
    since the process started, requests `admitted` here, entries `settled`, and the credits of those that were
    refused, `uncovered`."""

    waiting: int
    leased: Decimal
    admitted: int
    settled: int
    uncovered: Decimal


class Away:
    """An Away has a gateway process's lease, and the journal of what the process still has to settle. Credits are
    `Decimal` or decimal strings. Without `journal`, a path, there can be no lease, and entries that are not settled are
    forgotten when the process ends. With `entries_max` entries to settle, no more requests are admitted.

    A request that is running when the process is killed is settled at the next start, as it would be without a lease:
    a hold is released, a charge stands.
    """

    def __init__(
        self,
        journal: Path | None = None,
        *,
        credits_max: Credits = "0",
        total_credits_max: Credits = "0",
        seconds_max: float = 0.0,
        entries_max: int = 10_000,
    ) -> None:
        check("seconds_max", seconds_max, Seconds)
        check("entries_max", entries_max, Count)
        self._credits_max = microcredits_of(credits_max, "credits_max")
        self._total_max = microcredits_of(total_credits_max, "total_credits_max")
        self._seconds_max = seconds_max
        self._entries_max = entries_max
        if seconds_max and journal is None:
            raise ArgumentError("journal", "a lease needs one, a path: what was admitted must outlive the process")
        self._journal = AwayJournal(journal)
        self._entries: dict[int, Entry] = {}
        self._due: deque[int] = deque()
        self._succeeded: set[tuple[str, str, str]] = set()
        self._abandoned: set[tuple[str, str, str]] = set()
        self._abandoned_count = 0
        self._leased: dict[str, int] = defaultdict(int)
        self._leased_total = 0
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._decided_at: float | None = None
        self._silent_at: float | None = None
        self._book: PriceBook | None = None
        self._priced_at = 0.0
        self._admitted = self._settled = self._uncovered = 0
        self._wake = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None
        self._admissions: Admissions | None = None
        self._producer: Producer | None = None

    @property
    def overdraft_max(self) -> Decimal:
        """The most credits that this process may give away while Meterline is away."""
        return credits_of(self._total_max if self._seconds_max else 0)

    @property
    def counts(self) -> AwayCounts:
        """The counts of this process as they are now."""
        leased, uncovered = credits_of(self._leased_total), credits_of(self._uncovered)
        return AwayCounts(len(self._entries), leased, self._admitted, self._settled, uncovered)

    async def start(self, admissions: Admissions, producer: Producer | None) -> None:
        """Take up the entries of the journal, and settle all entries that are due from now on. Raises OperatorError
        where another process has the journal, and ValueError for a lease without a producer."""
        if self._seconds_max and producer is None:
            raise ValueError("A lease needs a producer: what is refused later is put on record by its usage event")
        self._admissions, self._producer = admissions, producer
        for number, entry in (await self._journal.open()).items():
            if entry.outcome == "running":
                outcome: Outcome = "release" if entry.asked.hold else "capture"
                entry = msgspec.structs.replace(entry, outcome=outcome, reason="the gateway ended meanwhile")
            self._reserve(entry.asked.project, entry.leased)
            self._enter(number, entry)
        await self._refresh_prices()
        self._settling = asyncio.create_task(self._settle_all())

    async def stop(self) -> None:
        """Stop settling; entries that are not settled wait for the next start."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
            await self._journal.close()

    @property
    def is_silent(self) -> bool:
        """Whether Meterline seems away: the newest question waited in vain, and no other had an answer meanwhile. A
        request that can have a lease then need not wait as well."""
        return self._silent_at is not None and time.monotonic() - self._silent_at < SILENCE_SECONDS

    async def ask(self, asked: Asked, idempotency_key: str = "") -> Decision:
        """Ask Meterline for its decision on a request; the lease's time begins anew with it. Raises MeterlineAway."""
        assert self._admissions is not None
        asked_at = time.monotonic()
        try:
            decision = await asked.ask(self._admissions, idempotency_key)
        except MeterlineAway:
            if self._decided_at is None or self._decided_at < asked_at:
                self._silent_at = time.monotonic()
            raise
        self._decided(decision)
        return decision

    def _decided(self, decision: Decision) -> None:
        self._decided_at = time.monotonic()
        self._silent_at = None
        if decision.code in _NO_CREDITS:
            self._refused[decision.project] = None
            self._refused.move_to_end(decision.project)
            if len(self._refused) > _REFUSED_PROJECTS_MAX:
                self._refused.popitem(last=False)
        elif decision.allowed and decision.credits:
            self._refused.pop(decision.project, None)

    def has_succeeded(self, asked: Asked) -> bool:
        """Whether this request was admitted here, ran well, and is not settled yet."""
        return _identity(asked) in self._succeeded

    async def admit(self, asked: Asked) -> tuple[int, int] | None:
        """Admit a request here if the lease allows it; gives the number of its entry, which is on disk, and its cost.

        The cost is in microcredits. None means that the request is not admitted: the lease does not allow it, its
        price is not known here, it needs a plan, or the journal can't be written.
        """
        amount = self._price(asked)
        if amount is None or not self._has_room(asked.project, amount):
            return None
        # The credits are taken before the write is waited for: many ask at once.
        self._reserve(asked.project, amount)
        entry = Entry(asked=asked, leased=amount)
        writing = asyncio.ensure_future(self._journal.add(entry))
        try:
            number = await asyncio.shield(writing)
        except sqlite3.Error as error:
            log.error("the away journal can't be written, so nothing is admitted: %s", error)
            self._reserve(asked.project, -amount)
            return None
        except asyncio.CancelledError:
            # Nobody runs the request now; the entry that is being written is taken back.
            writing.add_done_callback(lambda done: self._entered(done, entry))
            raise
        self._entries[number] = entry
        self._admitted += 1
        return number, amount

    async def finish(self, number: int, outcome: Outcome, credits: Credits | None = None, reason: str = "") -> None:
        """Note what became of a request that was admitted here, which makes it due to be settled."""
        entry = msgspec.structs.replace(
            self._entries[number], outcome=outcome, credits=_microcredits(credits), reason=reason
        )
        try:
            await self._journal.replace(number, entry)
        except sqlite3.Error as error:
            log.error(
                "the away journal can't be written; what became of request %s is known here alone: %s", number, error
            )
        self._enter(number, entry)

    async def resolve_later(
        self, asked: Asked, hold_id: str, outcome: Outcome, credits: Credits | None = None, reason: str = ""
    ) -> None:
        """Note a hold that is to be captured or released once Meterline answers. Raises sqlite3.Error."""
        entry = Entry(asked=asked, hold_id=hold_id, outcome=outcome, credits=_microcredits(credits), reason=reason)
        self._enter(await self._journal.add(entry), entry)

    def abandon(self, asked: Asked) -> None:
        """Release the hold of a request that was refused for want of a decision: the owner may have placed it all
        the same. This is not kept on disk, since a hold ends by itself."""
        if asked.hold and len(self._entries) * 2 < self._entries_max:
            self._abandoned_count += 1
            self._abandoned.add(_identity(asked))
            self._enter(-self._abandoned_count, Entry(asked=asked, outcome="release", reason="not decided in time"))

    def take_up(self, asked: Asked) -> None:
        """Keep the hold of an abandoned request that is asked for again."""
        self._abandoned.discard(_identity(asked))

    def _enter(self, number: int, entry: Entry) -> None:
        self._entries[number] = entry
        if number < 0:
            # Abandoned requests come first: the credits that they hold may be those that others lack.
            self._due.appendleft(number)
        else:
            self._due.append(number)
        if entry.outcome in ("capture", "keep"):
            self._succeeded.add(_identity(entry.asked))
        self._wake.set()

    def _entered(self, written: asyncio.Future[int], entry: Entry) -> None:
        if written.cancelled() or written.exception() is not None:
            self._reserve(entry.asked.project, -entry.leased)
        else:
            self._enter(written.result(), msgspec.structs.replace(entry, outcome="release", reason="cancelled"))

    def _has_room(self, project: str, amount: int) -> bool:
        if not self._seconds_max or self._decided_at is None:
            return False
        if time.monotonic() - self._decided_at > self._seconds_max:
            return False
        if len(self._entries) >= self._entries_max or (amount and project in self._refused):
            return False
        has_credits = self._leased.get(project, 0) + amount <= self._credits_max
        return has_credits and self._leased_total + amount <= self._total_max

    def _reserve(self, project: str, amount: int) -> None:
        self._leased[project] += amount
        self._leased_total += amount
        if not self._leased[project]:
            del self._leased[project]

    def _price(self, asked: Asked) -> int | None:
        book = self._book
        if book is None:
            return None
        try:
            data = decoded(partial(msgspec.convert, type=UsageData), {"operation": asked.operation, **asked.details})
            operation, quantity, surcharge = meter(data, book.rates)
        except Rejection:
            return None
        if operation in book.plan_required or (surcharge and surcharge not in book.rates):
            return None
        return (book.rates[operation] + (book.rates[surcharge] if surcharge else 0)) * quantity

    async def _refresh_prices(self) -> None:
        assert self._admissions is not None
        if self._book is None or time.monotonic() - self._priced_at >= PRICES_SECONDS:
            with suppress(MeterlineAway):
                self._book = await self._admissions._price_book()
                self._priced_at = time.monotonic()

    async def _settle_all(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            if not self._due:
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), PRICES_SECONDS)
            await self._refresh_prices()
            some = [self._due.popleft() for _ in range(min(SETTLED_AT_ONCE_MAX, len(self._due)))]
            if not some:
                continue
            if any(await asyncio.gather(*map(self._settle_one, some))):
                pause_seconds = FIRST_PAUSE_SECONDS
            else:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(PAUSE_SECONDS_MAX, pause_seconds * 2)

    async def _settle_one(self, number: int) -> bool:
        """Settle an entry, or put it behind the others; gives whether it is settled."""
        entry = self._entries[number]
        try:
            uncovered = 0
            if number > 0 or _identity(entry.asked) in self._abandoned:
                uncovered = await self._settle(entry)
            if number > 0:
                await self._journal.remove(number)
        except (MeterlineAway, ProducerError) as error:
            log.debug("entry %s is not settled yet: %s", number, error)
            self._due.append(number)
            return False
        except Exception:
            log.exception("entry %s can't be settled; it is tried again: %s", number, entry)
            self._due.append(number)
            return False
        del self._entries[number]
        if number > 0:
            self._succeeded.discard(_identity(entry.asked))
            self._settled += 1
        self._reserve(entry.asked.project, -entry.leased)
        if uncovered:
            self._uncovered += uncovered
            project = entry.asked.project
            log.warning("project %s: %s credits were admitted here and are not covered", project, credits_of(uncovered))
        return True

    async def _settle(self, entry: Entry) -> int:
        """Settle an entry with Meterline; gives its microcredits that no credits cover. May be repeated at any point.
        Raises MeterlineAway, ProducerError, and Rejection where the API refuses the event."""
        asked = entry.asked
        if entry.hold_id:
            return await self._resolve(entry, entry.hold_id)
        if entry.outcome == "release" and not asked.hold:
            return 0
        if entry.outcome == "capture" and not entry.leased:
            await self._record(asked)
            return 0
        decision = await self._ask(asked)
        if decision.code == "out_of_credits" and entry.outcome != "release":
            # What was refused at that time may be covered by now.
            decision = await self._ask(asked, f"{asked.idempotency_key}:later")
        if decision.hold_id:
            return await self._resolve(entry, decision.hold_id)
        return await self._without_hold(entry, decision)

    async def _resolve(self, entry: Entry, hold_id: str) -> int:
        """Capture or release the hold of an entry, or leave it to whoever ends the job; gives what is not covered, as
        `_settle` does."""
        assert self._admissions is not None
        asked = entry.asked
        if entry.outcome == "keep":
            return 0
        if entry.outcome == "release":
            await self._admissions.release(asked.project, hold_id, entry.reason)
            return 0
        captured = await self._admissions.capture(asked.project, hold_id, _credits(entry))
        if captured.allowed or captured.code == _EXPIRED or entry.credits is None:
            # Where the hold has expired, or somebody released it, the event charges the use.
            await self._record(asked)
            return 0
        # An event would charge the whole use: hold its credits anew, to charge a part.
        decision = await self._ask(asked, f"{asked.idempotency_key}:{hold_id}")
        if decision.hold_id and decision.hold_id != hold_id:
            await self._admissions.capture(asked.project, decision.hold_id, _credits(entry))
            return 0
        return await self._without_hold(entry, decision)

    async def _without_hold(self, entry: Entry, decision: Decision) -> int:
        """Settle an entry without a hold: it is charged now, was charged before, or is refused. Gives what is not
        covered, as `_settle` does."""
        if decision.allowed:
            if entry.outcome == "capture":
                await self._record(entry.asked)
            return 0
        if entry.outcome == "release":
            return 0
        if entry.credits is None:
            # The request window does not limit an event: its use has happened. Without credits the event is refused.
            await self._record(entry.asked)
        elif decision.status == 429:
            raise MeterlineAway("The window is full")
        if decision.status == 429:
            return 0
        return entry.leased if entry.credits is None else min(entry.credits, entry.leased)

    async def _ask(self, asked: Asked, idempotency_key: str = "") -> Decision:
        decision = await self.ask(asked, idempotency_key)
        if decision.code == _EXPIRED:
            # The event's own id still says whether it was charged, or that its hold is open.
            decision = await self.ask(asked, f"{idempotency_key or asked.idempotency_key}:again")
        return decision

    async def _record(self, asked: Asked) -> None:
        """Send the usage event; returns once it is on the log."""
        if self._producer is not None:
            await (await self._producer.send(asked.event()))


def _microcredits(credits: Credits | None) -> int | None:
    return None if credits is None else microcredits_of(credits, "credits")


def _credits(entry: Entry) -> Decimal | None:
    return None if entry.credits is None else credits_of(entry.credits)


def _identity(asked: Asked) -> tuple[str, str, str]:
    return asked.project, asked.source, asked.id
