"""The decider folds a partition's intake records over its local tables. It writes to none of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from schemas.accounts import Account
from schemas.commands import AnyCommand, IntakeRecord
from schemas.replies import KeptReply, Reply
from streams.core.fold import WHOLE, Effects, IntakeItem, Refused, UnforeseenError, Unreadable, fold, needed
from streams.core.foreign import UnreadableError, why_unreadable
from streams.core.marks import Seen
from streams.core.replies import Kept, request_hash
from streams.kafka.codecs import (
    decode_account,
    decode_intake,
    decode_kept_reply,
    encode_account,
    encode_facts,
    encode_json,
    encode_kept_reply,
    packed,
)
from streams.kafka.formats import FormatError
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.state.rocks import SegmentedFile, VersionedFile
from streams.worker.batches import time_of
from streams.worker.tables import File, claim_of, day_of, replies_file, seen_file

log = logging.getLogger(__name__)

# The most accounts kept in memory for a partition; some 4 KB each.
ACCOUNTS_CACHED_MAX = 3_000
# Where more items of one record can't be decided, the record is given up: each costs another try.
ITEMS_REFUSED_MAX = 100
FOLDED_AT_ONCE_BYTES = 64 * 1024


class KeptRows(NamedTuple):
    """The rows of a batch's kept replies, in key order, for the tables `replies` and `recent_replies`."""

    by_key: list[tuple[bytes, bytes]]
    by_request: list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Decided:
    """The effects of records of one partition, with facts, dead letters, accounts (`values`, by their keys) and kept
    replies (`kept_rows`) as bytes to publish."""

    journal: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    dead_letters: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    values: list[tuple[bytes, bytes]] = field(default_factory=list)
    seen: Seen = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    kept_rows: KeptRows = field(default_factory=lambda: KeptRows([], []))
    replies: list[tuple[AnyCommand, Reply]] = field(default_factory=list)

    def add(self, effects: Effects) -> None:
        self.journal += [(None, value) for value in packed(effects.facts, encode_facts)]
        self.dead_letters += [(None, encode_json(letter)) for letter in effects.dead_letters]
        self.accounts.update(effects.accounts)
        self.seen.update(effects.seen)
        self.kept.update(effects.kept)
        self.replies += effects.replies


class Tables(Protocol):
    """A table of the owner's: one file of rows for each partition."""

    def file(self, partition: int) -> File:
        """The file with a partition's rows."""


@dataclass(frozen=True, slots=True)
class OwnTables:
    """The tables that an owner decides over."""

    accounts: Tables
    seen: Tables
    replies: Tables
    recent_replies: Tables

    def expire(self, partition: int, at_ms: int) -> None:
        """Remove what has expired at this time. No record from before it may be decided after this."""
        for table in (self.seen, self.replies, self.recent_replies):
            file = table.file(partition)
            assert isinstance(file, SegmentedFile)
            file.expire(at_ms)


@dataclass(frozen=True, slots=True)
class _OnlyFile:
    """A table with one partition's file alone, whichever is asked for."""

    only: File

    def file(self, partition: int) -> File:
        return self.only


@contextmanager
def tables_of_one(directory: Path, settings: Settings) -> Iterator[OwnTables]:
    """The tables of one partition, in files of their own in a directory, without Faust."""
    kept_for = settings.kept_for
    files: list[File] = []
    try:
        files.append(VersionedFile(directory / "accounts"))
        files.append(seen_file(directory / "seen", settings.dedup_days))
        files.append(replies_file(directory / "replies", kept_for.key_ms))
        files.append(replies_file(directory / "recent_replies", kept_for.request_ms))
        yield OwnTables(*map(_OnlyFile, files))
    finally:
        for file in files:
            file.close()


class Decider:
    """A Decider folds the records of a partition over local tables, and keeps accounts in memory between batches."""

    def __init__(self, settings: Settings, topics: Topics, tables: OwnTables) -> None:
        self._dedup_days = settings.dedup_days
        self._kept_for = settings.kept_for
        self._intake_topic = topics.intake
        self.tables = tables
        self._cache: dict[int, dict[str, Account]] = defaultdict(dict)

    def forget(self) -> None:
        """Forget the accounts in memory: they may not be what is stored."""
        self._cache.clear()

    def decide(self, partition: int, messages: list[Any]) -> Decided:
        """Fold the records of one partition over the local tables, a few at a time.

        Raises UnforeseenError where a batch can't be decided: then call `forget`, and decide each record by itself. Of
        one alone, the items that can't be decided are left out, each a dead letter; if need be the whole of it.
        """
        if len(messages) > 1:
            return self._decide(partition, messages, {})
        (message,) = messages
        refused: dict[tuple[int, int], str] = {}
        while True:
            try:
                return self._decide(partition, messages, refused)
            except UnforeseenError as failed:
                self.forget()
                place = message.offset, WHOLE if failed.slot is None else failed.slot
                if (message.offset, WHOLE) in refused:
                    raise  # then it is not the record
                if place in refused or len(refused) == ITEMS_REFUSED_MAX:
                    place = message.offset, WHOLE
                refused[place] = f"Deciding it failed: {why_unreadable(failed.__cause__ or failed)}"
                log.error("intake %s-%s, item %s is a dead letter", partition, *place, exc_info=failed)

    def _decide(self, partition: int, messages: list[Any], refused: Refused) -> Decided:
        accounts = self._cache[partition]
        if len(accounts) > ACCOUNTS_CACHED_MAX:
            accounts.clear()
        seen: Seen = {}
        kept = Kept()
        since_day = day_of(time_of(messages[0])) - self._dedup_days
        decided = Decided()
        for few in _warm(messages):
            items = [IntakeItem(message.offset, time_of(message), _intake_body(message, refused)) for message in few]
            self._look_up(partition, items, accounts, seen, kept, since_day)
            effects = fold(partition, items, accounts, seen, kept, self._intake_topic, refused, self._kept_for)
            with _unforeseen():
                decided.add(effects)
        with _unforeseen():
            decided.values = [(name.encode(), encode_account(account)) for name, account in decided.accounts.items()]
            decided.kept_rows = KeptRows(_rows(decided.kept.by_key), _rows(decided.kept.by_request))
        return decided

    def _look_up(
        self,
        partition: int,
        items: list[IntakeItem],
        accounts: dict[str, Account],
        seen: Seen,
        kept: Kept,
        since_day: int,
    ) -> None:
        """Add to `accounts`, `seen` and `kept` what folding the items needs. Entries that they have already go before
        stored ones."""
        with _unforeseen():
            wanted = needed(items)
        keys = [project.encode() for project in wanted.projects if project not in accounts]
        for value in self.tables.accounts.file(partition).get_many(keys):
            if value is not None:
                account = decode_account(value)
                accounts[account.project] = account
        hashes = sorted(wanted.hashes - seen.keys())
        for dedup, value in zip(hashes, self.tables.seen.file(partition).get_many(hashes), strict=True):
            if value is not None and (claim := claim_of(value, since_day)) is not None:
                seen[dedup] = claim
        _find(wanted.keys & seen.keys(), self.tables.replies.file(partition), kept.by_key)
        if wanted.keyed and any(
            name in accounts and accounts[name].last_offset >= items[0].offset for name in wanted.projects
        ):
            wanted.requests.update(map(request_hash, wanted.keyed))
        _find(wanted.requests, self.tables.recent_replies.file(partition), kept.by_request)


def _find(names: set[bytes], file: File, found: dict[bytes, KeptReply]) -> None:
    """Add to `found` the replies that a file keeps under names that are not there yet."""
    missing = sorted(names - found.keys())
    if not missing:
        return
    for name, value in zip(missing, file.get_many(missing), strict=True):
        if value is not None:
            found[name] = decode_kept_reply(value)


def _rows(kept: dict[bytes, KeptReply]) -> list[tuple[bytes, bytes]]:
    return [(name, encode_kept_reply(kept[name])) for name in sorted(kept)]


@contextmanager
def _unforeseen() -> Iterator[None]:
    """Tell what is raised here apart from what the tables raise: it is the records' fault, not the disk's."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise UnforeseenError from error


def _intake_body(message: Any, refused: Refused) -> IntakeRecord | Unreadable:
    """Decode an intake record. Only accept and the API write intake, but a bad record must not stop the partition; one
    of another version must, for it is good."""
    if why := refused.get((message.offset, WHOLE)):
        return Unreadable(message.value or b"", why, "unprocessable_record")
    try:
        return decode_intake(message.value)
    except FormatError as error:
        raise FormatError(f"intake-{message.partition} at offset {message.offset}: {error}") from None
    except UnreadableError as error:
        log.error("intake %s-%s can't be read: %s", message.partition, message.offset, error)
        return Unreadable(message.value or b"", str(error))


def _warm(messages: list[Any]) -> Iterator[list[Any]]:
    """Yield the messages, in order, so few at a time that the objects made of them stay in the processor's cache."""
    few: list[Any] = []
    size = 0
    for message in messages:
        few.append(message)
        size += len(message.value or b"")
        if size >= FOLDED_AT_ONCE_BYTES:
            yield few
            few, size = [], 0
    if few:
        yield few
