"""The live ledger: streams of a project's ledger entries, each told as soon as it is decided.

Streams are fed from the journal, which this process reads once for all of them (`streams.state.journal_tail`). One that
comes back is first told, from the history, what was booked since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

from aiokafka.errors import KafkaError

from api.entries import LiveEntry, Place, entry_of_row
from api.reads import HistoryReads
from schemas.accounts import Account, ApiKey
from schemas.facts import ENTRY_KINDS, EntryKind, Fact, entry_id
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.core.projects import has_ended
from streams.history.ledger import LedgerQuestion, ledger_page
from streams.kafka.clock import now_ms
from streams.kafka.commits import Commits
from streams.kafka.topics import partition_of, topics_of
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.state.journal_tail import NOWHERE, JournalTail

log = logging.getLogger(__name__)

# What waits for one reader, and for all of them; some entries wait for each, whatever the others do.
STREAM_BYTES_MAX = 4 * 1024 * 1024
QUEUED_BYTES_MAX = 64 * 1024 * 1024
STREAM_BYTES_MIN = 64 * 1024
# How many entries a stream that comes back may have missed.
MISSED_MAX = 1000
_MISSED_PAGE = 250
MISSED_SECONDS_MAX = 30.0
# Keys are looked at this often; accounts, where no fact says that a project's keys have changed, more seldom.
_CHECK_SECONDS = 0.25
_ACCOUNT_SECONDS = 5.0
# A stream that has told something rests: all of them together write about so often in a second.
_WRITES_A_SECOND = 600
_REST_SECONDS_MIN = 0.05

GapReason = Literal["too_much", "too_slow", "interrupted"]
_GAPS: dict[GapReason, str] = {
    "too_much": f"More than {MISSED_MAX} entries were booked since, or they can't be read now",
    "too_slow": "Entries came faster than they were read here",
    "interrupted": "Some entries could not be read",
}


class Portal(Protocol):
    """A Portal is a portal link that was opened: what it shows bounds a stream, whatever is asked for."""

    @property
    def environment(self) -> str:
        """The environment that it shows."""

    @property
    def customer(self) -> str:
        """The customer that it shows, or "" for all of the project."""


class StreamReader(Protocol):
    """A StreamReader is whoever opens a stream: an admin, a key of a project, or whoever has opened a portal link."""

    @property
    def name(self) -> str:
        """The caller whose keys share limits."""

    @property
    def project(self) -> str | None:
        """The project whose key it is; None for an admin."""

    @property
    def key_id(self) -> str:
        """The key's id."""

    @property
    def portal(self) -> Portal | None:
        """The portal that the reader looks through; None for all others."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The entries of a project that a stream is to tell of: all, or those with this environment, operation, customer or
    kind."""

    environment: str | None = None
    operation: str | None = None
    customer_id: str | None = None
    kind: EntryKind | None = None

    def within(self, portal: Portal) -> Wanted:
        """Narrow what is wanted to the bounds of a portal."""
        return replace(self, environment=portal.environment, customer_id=portal.customer or self.customer_id)

    def has(self, entry: LiveEntry) -> bool:
        """Whether an entry is one of them."""
        fact = entry.fact
        return (
            self.environment in (None, fact.environment)
            and self.operation in (None, fact.operation)
            and self.kind in (None, fact.kind)
            and self.customer_id in (None, entry.customer_id)
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """A Turn is what a stream has to tell at a time: entries, the oldest first, and before them a gap, where some are
    not told. With neither it is a heartbeat. `place` names how far the stream is then, or is ""; `ended` says why it is
    the last turn."""

    entries: Sequence[LiveEntry] = ()
    gap: GapReason | None = None
    place: str = ""
    ended: Rejection | None = None

    @property
    def gap_detail(self) -> str:
        """The gap in a sentence, with what to do."""
        return f"{_GAPS[self.gap]}: load the page again" if self.gap else ""


class LedgerStream:
    """A LedgerStream tells one reader of one project's entries, each once and in order. What waits for a reader that is
    too slow is dropped, and a gap says so."""

    def __init__(
        self,
        ledger: LiveLedger,
        reader: StreamReader,
        project: str,
        partition: int,
        wanted: Wanted,
        after: Place | None,
        is_signed_out: Callable[[], bool],
    ) -> None:
        self.reader, self.project, self.partition = reader, project, partition
        self.wanted = wanted if reader.portal is None else wanted.within(reader.portal)
        self._is_of_customer = reader.portal is not None and bool(reader.portal.customer)
        self._ledger = ledger
        self._after = after
        self.is_signed_out = is_signed_out
        self._wants_all = self.wanted == Wanted()
        self.place = NOWHERE
        self.begun_at = NOWHERE
        self._is_begun = False
        self._queue: deque[LiveEntry] = deque()
        self._bytes = 0
        self._gap: GapReason | None = None
        self._ended: Rejection | None = None
        self._is_over = False
        self._has_news = asyncio.Event()

    def begin(self, place: Place) -> None:
        """Take what comes from now on; the last fact before it has this place."""
        self._is_begun = True
        self.begun_at = place
        self.place = place if self._after is None else self._after

    def offer(self, entry: LiveEntry) -> None:
        """Have an entry told, if it is wanted."""
        if not self._is_begun or entry.place <= self.place or not (self._wants_all or self.wanted.has(entry)):
            return
        ledger, size = self._ledger, entry.size
        is_crowded = ledger.queued_bytes + size > QUEUED_BYTES_MAX and self._bytes > STREAM_BYTES_MIN
        if is_crowded or self._bytes + size > STREAM_BYTES_MAX:
            self._forget()
            self.lose("too_slow")
        if not self._queue:
            self._has_news.set()
        self._queue.append(entry)
        self._bytes += size
        ledger.queued_bytes += size

    def lose(self, reason: GapReason) -> None:
        """Note that entries are missing before what comes next."""
        if self._is_over:
            return
        self._gap = reason
        self._ledger.gaps[reason] += 1
        self._has_news.set()

    def end(self, why: Rejection | None = None) -> None:
        """End the stream: nothing more is told, but why."""
        self._forget()
        self._gap, self._ended, self._is_over = None, why, True
        self._has_news.set()

    async def turns(self, heartbeat_seconds: float, seconds: float | None = None) -> AsyncIterator[Turn]:
        """Tell what there is, turn by turn, until the stream ends, or for so many seconds. A stream that came back
        is told first what it missed."""
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        yield Turn(place=self._place_id())
        if self._after is not None:
            reading = asyncio.ensure_future(self._ledger.missed(self, self._after))
            try:
                while not (await asyncio.wait([reading], timeout=heartbeat_seconds))[0]:
                    yield Turn(place=self._place_id())
            finally:
                reading.cancel()
            missed = reading.result()
            if missed is None:
                # What came since it was opened waits to be told.
                self.place = max(self.place, self.begun_at)
                self.lose("too_much")
            elif missed and not self._is_over:
                yield self._turn(missed, None)
        while not self._is_over:
            left = heartbeat_seconds if until is None else min(heartbeat_seconds, until - loop.time())
            if left <= 0:
                return
            # Under load there is news after each rest: a timer for nothing would cost as much as the turn.
            if not self._has_news.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._has_news.wait()
            if until is not None and loop.time() >= until and not self._queue:
                return
            if not self._is_over:
                yield self._next()
                await asyncio.sleep(self._ledger.rest_seconds)
        if self._ended is not None:
            yield Turn(ended=self._ended)

    def _next(self) -> Turn:
        self._has_news.clear()
        gap, entries = self._gap, list(self._queue)
        self._gap = None
        self._forget()
        if not entries:
            self.place = max(self.place, self._ledger.place_of(self.partition))
        return self._turn(entries, gap)

    def _turn(self, entries: Sequence[LiveEntry], gap: GapReason | None) -> Turn:
        """The turn that tells of those of some entries that were not told yet."""
        # They are in order, and seldom told in part.
        is_new = bool(entries) and entries[0].place > self.place
        news = entries if is_new else [entry for entry in entries if entry.place > self.place]
        if news:
            self.place = news[-1].place
        if self._is_of_customer:
            news = [entry.of_customer() for entry in news]
        return Turn(news, gap, self._place_id())

    def _place_id(self) -> str:
        return "" if self.place == NOWHERE else entry_id(self.partition, *self.place)

    def _forget(self) -> None:
        self._ledger.queued_bytes -= self._bytes
        self._queue.clear()
        self._bytes = 0


@dataclass(slots=True)
class _ProjectKeys:
    """The keys of a project, as of an offset of its account, and until when they are looked at all the time."""

    offset: int | None = None
    keys: dict[str, ApiKey] = field(default_factory=dict)
    due_at: float = 0.0
    changing_until: float = 0.0


class LiveLedger:
    """The LiveLedger has the open streams of this process. `queued_bytes` is what waits for their readers, and `gaps`
    counts the times that they were not told of all, by reason."""

    def __init__(self, settings: Settings, accounts: AccountsView, reads: HistoryReads) -> None:
        self._settings, self._accounts, self._reads = settings, accounts, reads
        self._streams: dict[str, set[LedgerStream]] = {}
        self._of_keys = Counter[tuple[str, str]]()
        self._tail = JournalTail(settings, (*ENTRY_KINDS, "key"), self._streams, self._tell, self._lose)
        topics = topics_of(settings)
        self._history = Commits(settings, topics.historian_group_of("facts"), topics.journal)
        self._keys: dict[str, _ProjectKeys] = {}
        self._is_over = False
        self.queued_bytes = 0
        self.gaps = Counter[GapReason]()
        # Raises Rejection where a portal has ended. Until it is set, none is open.
        self.check_portal: Callable[[Any, Account], object] = _no_portal

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self._of_keys.total()

    @property
    def rest_seconds(self) -> float:
        """How long a stream rests after each turn: the more there are, the longer."""
        return max(_REST_SECONDS_MIN, self.count / _WRITES_A_SECOND)

    @asynccontextmanager
    async def stream(
        self,
        reader: StreamReader,
        project: str,
        wanted: Wanted,
        after: Place | None = None,
        is_signed_out: Callable[[], bool] = bool,
    ) -> AsyncIterator[LedgerStream]:
        """Open a stream of a project's entries that were booked after a place, or from now on. It ends once the
        reader's key has, or the reader `is_signed_out`. Raises Rejection `too_many_streams`, or `not_ready` where the
        journal can't be read."""
        key = (reader.name, reader.key_id)
        self.check_room(reader)
        partition = partition_of(project, self._settings.partitions)
        stream = LedgerStream(self, reader, project, partition, wanted, after, is_signed_out)
        self._of_keys[key] += 1
        self._streams.setdefault(project, set()).add(stream)
        try:
            try:
                place = await self._tail.listen(partition)
            except KafkaError:
                raise Rejection("not_ready", "The journal can't be read now") from None
            stream.begin(place)
            try:
                yield stream
            finally:
                self._tail.leave(partition)
        finally:
            stream.end()
            self._of_keys[key] -= 1
            if not self._of_keys[key]:
                del self._of_keys[key]
            self._streams[project].discard(stream)
            if not self._streams[project]:
                del self._streams[project]

    async def run(self) -> None:
        """End the streams of keys that have ended, and of whoever has signed out, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self._keys = {project: keys for project, keys in self._keys.items() if project in self._streams}
            for project in list(self._streams):
                try:
                    if self._check_keys(project):
                        await asyncio.sleep(0)
                except Exception as error:
                    log.error("the keys of %s can't be looked at: %r", project, error)

    def end_all(self) -> None:
        """End all streams, and open no more: the process is about to stop."""
        self._is_over = True
        for stream in self._all():
            stream.end()

    async def stop(self) -> None:
        """Stop reading the journal."""
        self.end_all()
        await self._tail.stop()
        await self._history.stop()

    def place_of(self, partition: int) -> Place:
        """The place of the last fact that was read of a partition."""
        return self._tail.places.get(partition, NOWHERE)

    async def missed(self, stream: LedgerStream, after: Place) -> list[LiveEntry] | None:
        """The wanted entries of a stream that were booked after a place, the oldest first; None where they are too
        many, or the history does not have them in time."""
        # A reader who knows the last fact from before the stream has missed nothing, and waits for no history.
        if NOWHERE < stream.begun_at <= after:
            return []
        try:
            async with asyncio.timeout(MISSED_SECONDS_MAX):
                end = self._tail.end(stream.partition)
                await self._history.wait_for(stream.partition, end)
                return await self._booked_since(stream, after)
        except Exception as error:
            log.info("what a stream has missed can't be read: %r", error)
            return None

    async def _booked_since(self, stream: LedgerStream, after: Place) -> list[LiveEntry] | None:
        wanted, found = stream.wanted, list[LiveEntry]()
        question = LedgerQuestion(
            stream.project,
            _MISSED_PAGE,
            environment=wanted.environment,
            operation=wanted.operation,
            customer_id=wanted.customer_id,
            kind=wanted.kind,
        )
        while len(found) < MISSED_MAX:
            rows, cursor = await self._reads.ask(stream.reader.name, partial(_page, question))
            for row in rows:
                place: Place = row["offset"], row["position"]
                if place <= after:
                    return found[::-1]
                found.append(entry_of_row(stream.project, row))
            if cursor is None:
                return found[::-1]
            question = replace(question, cursor=cursor)
        return None

    def check_room(self, reader: StreamReader) -> None:
        """Raise Rejection where no more streams may be opened, by anybody or by this reader."""
        settings, key = self._settings, (reader.name, reader.key_id)
        if self._is_over:
            raise Rejection("not_ready", "This process is about to stop")
        if self._of_keys[key] >= settings.ledger_streams_per_key_max:
            detail = f"At most {settings.ledger_streams_per_key_max} streams are open of one key"
            raise Rejection("too_many_streams", detail)
        if self.count >= settings.ledger_streams_max:
            raise Rejection("too_many_streams", f"At most {settings.ledger_streams_max} streams are open at once")

    def _check_keys(self, project: str) -> bool:
        """End the streams of a project's keys that have ended, and those of whoever has signed out. Gives whether that
        took a look at its account."""
        for stream in self._streams.get(project, ()):
            if stream.is_signed_out():
                stream.end(Rejection("unauthenticated", "You have signed out"))
        self._check_portals(project)
        streams = [
            stream
            for stream in self._streams.get(project, ())
            if stream.reader.project is not None and stream.reader.portal is None
        ]
        if not streams:
            return False
        known, now = self._keys.setdefault(project, _ProjectKeys()), time.monotonic()
        # A key that is newer than what is known of the project is none that has ended.
        is_new = any(stream.reader.key_id not in known.keys for stream in streams)
        if is_due := is_new or now >= known.due_at or now < known.changing_until:
            known.due_at = now + _ACCOUNT_SECONDS
            if (offset := self._accounts.offset(project)) != known.offset:
                account = self._accounts.get(project)
                known.offset = offset
                known.keys = {key.id: key for key in account.keys} if account is not None else {}
        for stream in streams:
            key = known.keys.get(stream.reader.key_id)
            if key is None or has_ended(key, now_ms()):
                stream.end(Rejection("key_revoked", f"Key {stream.reader.key_id} was revoked, or has ended"))
        return is_due

    def _check_portals(self, project: str) -> None:
        of_portals = [stream for stream in self._streams.get(project, ()) if stream.reader.portal is not None]
        account = self._accounts.get(project) if of_portals else None
        if account is None:
            return
        for stream in of_portals:
            try:
                self.check_portal(stream.reader.portal, account)
            except Rejection as why:
                stream.end(why)

    def _tell(self, partition: int, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if fact.kind == "key":
                # The copy of the account has it in a moment.
                known = self._keys.setdefault(fact.project, _ProjectKeys())
                known.changing_until = time.monotonic() + _ACCOUNT_SECONDS
                continue
            entry = LiveEntry(partition, fact)
            for stream in self._streams.get(fact.project, ()):
                stream.offer(entry)

    def _lose(self, partition: int) -> None:
        for stream in self._all():
            if stream.partition == partition:
                stream.lose("interrupted")

    def _all(self) -> list[LedgerStream]:
        return [stream for some in self._streams.values() for stream in some]


def _page(question: LedgerQuestion, clickhouse: ClickHouse) -> tuple[list[dict[str, Any]], str | None]:
    return ledger_page(clickhouse.consistent(), question)


def _no_portal(portal: object, account: Account) -> object:
    raise Rejection("portal_ended", "No portals are open here")
