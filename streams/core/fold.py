"""The fold: apply a batch of intake records of one partition to its accounts, and say what must be written.

The caller reads and writes. Records that are folded twice, in whole or in part, in the same or other batches, give the
same facts under the same names and the same account values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from schemas.accounts import Account
from schemas.commands import (
    Admit,
    AnyCommand,
    Commands,
    Correct,
    CreateProject,
    Envelope,
    IntakeRecord,
    OpenBillingAccount,
    PublishPrices,
    PutEndpoint,
    Tick,
    WithdrawPrices,
)
from schemas.events import HASH_BYTES, DeadLetter, Usage
from schemas.facts import Fact
from schemas.problems import Rejection
from schemas.replies import KEPT_FOR, KeptFor, KeptReply, Reply, refusal
from streams.core.acceptance import dead_letter
from streams.core.admission import count_repeat
from streams.core.booking import Booking
from streams.core.claims import claimed, claims
from streams.core.crossings import look_after_use
from streams.core.decisions import TELL_NOTHING, command_reply, open_account
from streams.core.endpoints import PLATFORM_ID, no_endpoint
from streams.core.holds import open_for
from streams.core.ledger import capture_for, charge, reschedule, settle, state_again
from streams.core.marks import Claim, Seen, is_charged_in_part, mark_of
from streams.core.price_list import PRICES_ID, Prices, places_of, prices_from
from streams.core.replies import Kept, decides, fingerprint, is_reply_kept, key_hash, request_hash
from streams.core.spending import note_spent


class UnforeseenError(Exception):
    """Raised where deciding a record fails in a way that no rule foresees. `offset` and `slot` are the record, and the
    event, command or project in it, that was being decided; None where that can't be told.

    The accounts are not what they were. Nothing of the batch has been written.
    """

    def __init__(self, offset: int | None = None, slot: int | None = None) -> None:
        super().__init__(f"record {offset}, item {slot}")
        self.offset = offset
        self.slot = slot


# The items that are left out: the reason by (offset, slot). A record as a whole stands under slot WHOLE.
Refused = Mapping[tuple[int, int], str]
WHOLE = -1


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of the intake topic that is none of ours, or that can't be decided (`code` says which), and why."""

    value: bytes
    why: str
    code: str = "unreadable_record"


@dataclass(frozen=True, slots=True)
class IntakeItem:
    """One intake record: its offset, its broker time in Unix milliseconds, and what it says."""

    offset: int
    at_ms: int
    body: IntakeRecord | Unreadable


@dataclass(slots=True)
class Effects:
    """The effects of a batch, in the order they are to be written: facts and dead letters, state, replies.

    `accounts` holds every account the batch touched, changed or not, `seen` every id that the batch decided first, and
    `kept` every reply that it decided, for a repeat. After a crash the stored values may be ahead of their changelog;
    writing them again makes the two agree. `replies` holds each reply with the command that it answers.
    """

    facts: list[Fact] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    seen: Seen = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    replies: list[tuple[AnyCommand, Reply]] = field(default_factory=list)


@dataclass(slots=True)
class Needed:
    """The needs of a fold, which it will look up: projects, dedup hashes, the names of kept replies by key and by
    request.

    `keys` are among the hashes too: there is no reply under one that is not seen. `keyed` are the commands under a key,
    whose requests have replies of their own only where the window stopped them, or where they are repeats; those are
    sent again where an account has their record in it already, and are needed for nothing else.
    """

    projects: set[str] = field(default_factory=lambda: {PRICES_ID})
    hashes: set[bytes] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)
    requests: set[bytes] = field(default_factory=set)
    keyed: list[AnyCommand] = field(default_factory=list)


def needed(items: Iterable[IntakeItem]) -> Needed:
    """The needs of a fold of `items`."""
    found = Needed()
    for item in items:
        body = item.body
        if isinstance(body, Envelope):
            found.projects.update([usage.project for usage in body.events])
            found.hashes.update([usage.dedup_hash for usage in body.events])
        elif isinstance(body, Tick):
            found.projects.update(body.projects)
        elif not isinstance(body, Unreadable):
            for command in _commands(body):
                found.projects.add(command.project)
                found.hashes.update(claims(command))
                if command.idempotency_key:
                    found.keys.add(key_hash(command))
                    found.keyed.append(command)
                elif is_reply_kept(command):
                    found.requests.add(request_hash(command))
    found.hashes |= found.keys
    return found


def fold(
    partition: int,
    items: Sequence[IntakeItem],
    accounts: dict[str, Account],
    seen: Seen,
    kept: Kept,
    intake_topic: str,
    refused: Refused = MappingProxyType({}),
    kept_for: KeptFor = KEPT_FOR,
) -> Effects:
    """Apply `items`, in offset order, to `accounts` (project → account, changed in place; absent where there is none).

    The partition's price list is one of the accounts.

    `seen` maps a dedup hash to the claim of the record that decided it first; new hashes are added to it. An id with an
    earlier offset is decided, an id with the same offset is a redelivery. A later offset was left by a crash: the batch
    is now repeated, and a record behind this one claimed the id, which this one had not.

    `kept` has the replies to earlier commands, and gets those of the batch. One at a command's own offset, or at a
    later one, was left by a crash too, unless the account has the record in it already: the command is decided again,
    as it was. No reply counts once `kept_for` has passed between the two records' times.

    `refused` items become dead letters, and nothing else of their record does. Raises UnforeseenError.
    """
    effects = Effects()
    batch = _Batch(partition, accounts, seen, kept, kept_for, intake_topic, effects, refused)
    for item in items:
        batch.slot = None
        try:
            batch.apply(item)
        except MemoryError:
            raise
        except Exception as error:
            raise UnforeseenError(item.offset, batch.slot) from error
    return effects


def _commands(body: Commands | AnyCommand) -> list[AnyCommand]:
    return body.commands if isinstance(body, Commands) else [body]


@dataclass(slots=True)
class _Batch:
    partition: int
    accounts: dict[str, Account]
    seen: Seen
    kept: Kept
    kept_for: KeptFor
    intake_topic: str
    effects: Effects
    refused: Refused
    # The place of what was being decided when an error was raised.
    slot: int | None = None
    _prices: Prices = field(init=False)
    _announced: tuple[int, int] = field(init=False)
    # The claims that commands of the present record have made, the names under which their replies are kept, and the
    # accounts that they have opened.
    _fresh: set[bytes] = field(default_factory=set)
    _opened_here: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._read_prices()

    def apply(self, item: IntakeItem) -> None:
        """Apply one record."""
        body = item.body
        if isinstance(body, Envelope):
            self.apply_envelope(item, body)
        elif isinstance(body, Tick):
            self.apply_tick(item, body)
        elif isinstance(body, Unreadable):
            self.dead_letter(item, 0, body.value, Rejection(body.code, body.why))
        else:
            self.apply_commands(item, _commands(body))

    def apply_envelope(self, item: IntakeItem, envelope: Envelope) -> None:
        offset, at_ms = item.offset, item.at_ms
        accounts, seen, prices = self.accounts, self.seen, self._prices_at(offset)
        facts, seen_written = self.effects.facts, self.effects.seen
        fresh: set[bytes] = set()
        touched: dict[str, Account] = {}
        booking: Booking | None = None
        refused = self.refused
        slot = 0
        try:
            for slot, usage in enumerate(envelope.events):
                project = usage.project
                account = accounts.get(project)
                if account is None or account.opened_offset > offset:
                    self._unknown_project(item, slot, usage)
                    continue
                if refused and self._refuse(item, slot, project, usage):
                    continue
                touched[project] = account
                dedup = usage.dedup_hash
                first = seen.get(dedup)
                if account.last_offset >= offset:
                    # Redelivered: the account's value has this record in it already, and the index what it decided.
                    if first is None and account.last_offset == offset and not open_for(account, usage, by_job=False):
                        first = seen[dedup] = Claim(offset)  # the index was lost, and the account not
                    if first is not None and first.offset == offset:
                        seen_written[dedup] = first
                    continue
                if booking is None:
                    booking = Booking(account, self.partition, offset, slot, at_ms, facts, prices)
                else:
                    booking.move_to(account, slot, at_ms)
                if booking.at_ms >= account.due_at_ms:
                    settle(booking)
                if first is not None and (first.offset < offset or dedup in fresh):
                    state_again(booking, usage, first)
                    continue
                held = open_for(account, usage, by_job=False) if account.holds else None
                since = len(facts)
                if held is None:
                    code, _ = charge(booking, usage)
                    seen[dedup] = seen_written[dedup] = Claim(offset, mark_of(usage, code))
                    fresh.add(dedup)
                else:
                    for name, mark in capture_for(booking, usage, held):
                        seen[name] = seen_written[name] = Claim(offset, mark)
                        fresh.add(name)
                look_after_use(booking)
                note_spent(booking, since)
        except Exception:
            self.slot = slot
            raise
        for account in touched.values():
            self._applied(account, item)

    def apply_tick(self, item: IntakeItem, tick: Tick) -> None:
        """Book what is due in these projects; a project in which nothing is due is left alone."""
        for self.slot, project in enumerate(tick.projects):
            slot = self.slot
            account = self.accounts.get(project)
            if account is None or account.opened_offset > item.offset or self._refuse(item, slot, project):
                continue
            if account.last_offset >= item.offset:
                self.effects.accounts[project] = account
                continue
            prices = self._prices_at(item.offset)
            booking = Booking(account, self.partition, item.offset, slot, item.at_ms, self.effects.facts, prices)
            if booking.at_ms >= account.due_at_ms:
                settle(booking)
                self._applied(account, item)

    def apply_commands(self, item: IntakeItem, commands: list[AnyCommand]) -> None:
        """Apply the commands of one record in order, as if each had a record of its own."""
        redelivered = {
            command.project
            for command in commands
            if (account := self.accounts.get(command.project)) is not None and account.last_offset >= item.offset
        }
        self._fresh.clear()
        self._opened_here.clear()
        for self.slot, command in enumerate(commands):
            slot = self.slot
            if self._refuse(item, slot, command.project):
                self._reply(command, _UNPROCESSABLE)
                continue
            account = self.accounts.get(command.project)
            if account is None:
                self._reply(command, self._open(item, slot, command))
            elif command.project in redelivered:
                self._redelivered(item, slot, command, account)
            else:
                self._reply(command, self._decide(item, slot, command, account))

    def _open(self, item: IntakeItem, slot: int, command: AnyCommand) -> Reply:
        opened = self._opened(item, slot, command, self.effects.facts)
        if isinstance(opened, Reply):
            return opened
        account, reply = opened
        self.accounts[command.project] = account
        reschedule(account)
        self._remember(item, command, account, reply)
        return reply

    def _opened(
        self, item: IntakeItem, slot: int, command: AnyCommand, facts: list[Fact]
    ) -> tuple[Account, Reply] | Reply:
        """The account that a command opens, with its reply; a refusal alone where the command opens none."""
        if not isinstance(command, CreateProject | OpenBillingAccount | PublishPrices | WithdrawPrices | PutEndpoint):
            return _no_project(command)
        try:
            prices = self._prices_at(item.offset, slot)
            return open_account(command, self.partition, item.offset, item.at_ms, facts, prices, slot)
        except Rejection as rejection:
            return refusal(rejection)

    def _decide(self, item: IntakeItem, slot: int, command: AnyCommand, account: Account) -> Reply:
        repeated = self._repeat(item, command)
        if repeated is not None and not (isinstance(command, Admit) and command.idempotency_key):
            # Other calls under a key are counted before it is looked at, by a command of their own.
            return repeated
        prices = self._prices_at(item.offset, slot)
        booking = Booking(account, self.partition, item.offset, slot, item.at_ms, self.effects.facts, prices)
        settle(booking)
        booking.actor = command.actor
        if repeated is not None and isinstance(command, Admit):
            reply = count_repeat(booking, command, repeated)
            self._keep(command, KeptReply(item.at_ms, item.offset, fingerprint(command), reply), by_key=False)
            self._applied(account, item)
            return reply
        booking.made = [self._made(item, command, claim) for claim in claims(command)]
        since = len(booking.facts)
        reply = command_reply(booking, command, any(booking.made))
        if type(command) not in TELL_NOTHING:
            note_spent(booking, since)
        reschedule(account)
        self._remember(item, command, account, reply)
        return reply

    def _repeat(self, item: IntakeItem, command: AnyCommand) -> Reply | None:
        """The reply to a command under a name that an earlier record had, or an earlier command of this one; None where
        the name is new."""
        if command.idempotency_key:
            name = key_hash(command)
            stored, kept_ms = self.kept.by_key.get(name), self.kept_for.key_ms
        else:
            name = request_hash(command)
            stored, kept_ms = self.kept.by_request.get(name), self.kept_for.request_ms
        is_kept = stored is not None and item.at_ms - stored.at_ms < kept_ms
        if stored is not None and is_kept and (stored.offset < item.offset or name in self._fresh):
            return _repeated(command, stored)
        if command.idempotency_key and self._is_seen(name, item.offset):
            return _REPLY_EXPIRED
        return None

    def _redelivered(self, item: IntakeItem, slot: int, command: AnyCommand, account: Account) -> None:
        """Answer a redelivered command: write the stored account and send the stored reply again; change nothing."""
        self.effects.accounts[account.project] = account
        if account.opened_offset >= item.offset and account.project not in self._opened_here:
            opened = self._opened(item, slot, command, [])
            if isinstance(opened, Reply):
                # The command came before its account was opened, and nothing of it was remembered: it gets the same
                # refusal.
                self._reply(command, opened)
                return
            self._opened_here.add(account.project)
        if command.idempotency_key and (stored := self._stored_by_request(item, command)) is not None:
            # The window stopped it, or it is a repeat: it decided nothing under its key.
            self._reply(command, stored.reply)
            self._keep(command, stored, by_key=False)
            return
        stored = self._stored_here(item, command)
        reply = self._repeat(item, command) if stored is None else _repeated(command, stored)
        if reply is not None:
            self._reply(command, reply)
        # A command that used another one's key decided nothing, so it claims nothing.
        if stored is not None and reply is not _KEY_REUSED:
            self._keep(command, stored)
            self._mark_command_seen(item, command, stored.reply)

    def _stored_here(self, item: IntakeItem, command: AnyCommand) -> KeptReply | None:
        """The reply that this record has left under the name of a command of its; None where it left none."""
        if not command.idempotency_key:
            return self._stored_by_request(item, command)
        stored = self.kept.by_key.get(key_hash(command))
        return stored if stored is not None and stored.offset == item.offset else None

    def _stored_by_request(self, item: IntakeItem, command: AnyCommand) -> KeptReply | None:
        """The reply that this record has left under the request's own name. It comes before that of another command
        with the same key: a request that was limited may have been sent again in the same record."""
        stored = self.kept.by_request.get(request_hash(command))
        return stored if stored is not None and stored.offset == item.offset else None

    def _keep(self, command: AnyCommand, stored: KeptReply, *, by_key: bool = True) -> None:
        """Keep a reply for a repeat of its command, or of its record. It is always written: a repeat of the record
        writes the same."""
        if by_key and command.idempotency_key and decides(stored.reply):
            name = key_hash(command)
            self.kept.by_key[name] = self.effects.kept.by_key[name] = stored
        else:
            name = request_hash(command)
            self.kept.by_request[name] = self.effects.kept.by_request[name] = stored
        self._fresh.add(name)

    def _remember(self, item: IntakeItem, command: AnyCommand, account: Account, reply: Reply) -> None:
        if is_reply_kept(command):
            self._keep(command, KeptReply(item.at_ms, item.offset, fingerprint(command), reply))
        self._mark_command_seen(item, command, reply)
        self._applied(account, item)
        if account.project == PRICES_ID:
            self._read_prices()

    def _read_prices(self) -> None:
        account = self.accounts.get(PRICES_ID)
        announced = account.books if account is not None else []
        self._prices = prices_from(announced)
        self._announced = max((place for each in announced for place in places_of(each)), default=(-1, 0))

    def _prices_at(self, offset: int, slot: int = 0) -> Prices:
        """The price list as this command of the record at `offset` knows it. After a crash the stored list may be ahead
        of the command."""
        if self._announced < (offset, slot):
            return self._prices
        announced = self.accounts[PRICES_ID].books
        return prices_from(announced, (offset, slot))

    def _made(self, item: IntakeItem, command: AnyCommand, name: bytes) -> Claim | None:
        """The claim that an earlier record made under this name, or an earlier command of this record; None where none
        did.

        A correction is not stopped by the refusal that it knows of (`refused_offset`), but by any claim made since, and
        by one that charged a part: that must be given back first.
        """
        claim = self.seen.get(name)
        if claim is None or not self._is_seen(name, item.offset):
            return None
        if isinstance(command, Correct) and claim.offset == command.refused_offset and not is_charged_in_part(claim):
            return None
        return claim

    def _mark_command_seen(self, item: IntakeItem, command: AnyCommand, reply: Reply) -> None:
        if command.idempotency_key and decides(reply):
            self._mark_seen(key_hash(command), item.offset)
        for name, mark in claimed(command, reply):
            self._mark_seen(name, item.offset, mark)
        for each in reply.claims:
            # The command does not name these claims, so they were not looked up. They are always written: a repeat
            # writes the same.
            name, mark = each[:HASH_BYTES], each[HASH_BYTES:]
            self._fresh.add(name)
            self.seen[name] = self.effects.seen[name] = Claim(item.offset, mark)

    def _is_seen(self, dedup: bytes, offset: int) -> bool:
        """Whether an earlier record decided this hash, or an earlier command of this record."""
        claim = self.seen.get(dedup)
        return claim is not None and (claim.offset < offset or dedup in self._fresh)

    def _mark_seen(self, dedup: bytes, offset: int, mark: bytes = b"") -> None:
        self._fresh.add(dedup)
        claim = self.seen.get(dedup)
        if claim is None or claim.offset >= offset:
            self.seen[dedup] = self.effects.seen[dedup] = Claim(offset, mark)

    def _applied(self, account: Account, item: IntakeItem) -> None:
        if account.last_offset < item.offset:
            account.last_offset = item.offset
        if account.last_at_ms < item.at_ms:
            account.last_at_ms = item.at_ms
        self.effects.accounts[account.project] = account

    def _reply(self, command: AnyCommand, reply: Reply) -> None:
        if command.reply_instance:
            self.effects.replies.append((command, reply))

    def _unknown_project(self, item: IntakeItem, slot: int, usage: Usage) -> None:
        rejection = Rejection("unknown_project", f"There is no project {usage.project!r}", "subject")
        self.dead_letter(item, slot, _told(usage), rejection)

    def _refuse(self, item: IntakeItem, slot: int, project: str, usage: Usage | None = None) -> bool:
        """Dead-letter an item that is to be left out; False where it is not."""
        why = self.refused.get((item.offset, slot)) if self.refused else None
        if why is None:
            return False
        text = _told(usage) if usage is not None else msgspec.json.encode({"project": project})
        self.dead_letter(item, slot, text, Rejection("unprocessable_record", why))
        return True

    def dead_letter(self, item: IntakeItem, slot: int, text: bytes, rejection: Rejection) -> None:
        self.effects.dead_letters.append(
            dead_letter(text, rejection, self.intake_topic, self.partition, item.offset, slot, item.at_ms)
        )


_KEY_REUSED = Reply(
    409, "idempotency_key_reused", "This Idempotency-Key was used for a request with other content", 0, 0, ""
)
_REPLY_EXPIRED = Reply(
    409, "idempotency_reply_expired", "This request was decided before, and its answer is no longer kept", 0, 0, ""
)


_UNPROCESSABLE = Reply(500, "internal_error", "Something went wrong on our side", 0, 0, "")


def _told(usage: Usage) -> bytes:
    """The JSON of an accepted event in its dead letter."""
    return msgspec.json.encode(
        {
            "id": usage.event_id,
            "source": usage.source,
            "subject": usage.project,
            "data": {"operation": usage.operation, "quantity": usage.quantity},
        }
    )


def _repeated(command: AnyCommand, stored: KeptReply) -> Reply:
    return stored.reply if stored.fingerprint == fingerprint(command) else _KEY_REUSED


def _no_project(command: AnyCommand) -> Reply:
    if command.project == PLATFORM_ID:
        # It is opened by its first endpoint.
        return refusal(no_endpoint(PLATFORM_ID, getattr(command, "endpoint_id", "")))
    return Reply(404, "unknown_project", f"There is no project {command.project!r}", 0, 0, "")
