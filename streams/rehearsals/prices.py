"""A rehearsal of prices runs the last days of every project once more, through the core's own rules, by another book.

Uses, grants, holds and corrections are taken from the history, in order. The rehearsal decides anew what they cost,
which grants they draw on and whether they are refused: as of when they occurred, by the plan of that time, and whether
the project was open. Top-ups are those that were bought. A use that was refused is tried again, and its repeat is not
charged twice. The account at the beginning is the history's; a hold that was open by then keeps its price. Limits are
as they were: a request that they refused stays refused, and a dearer book does not reach a cost ceiling earlier
(`streams.rehearsals.limits` is for those). Under the book that was in force all along nothing differs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec

from schemas.accounts import Account, Accrual, Grant, Hold, RecurringItem
from schemas.commands import CaptureHold, Correct, GivenBack, ReleaseHold
from schemas.events import Usage
from schemas.facts import USAGE_KINDS, Fact
from schemas.prices import PriceBook
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import LONG
from streams.core import holds
from streams.core.booking import Booking, drop_spent
from streams.core.corrections import correct
from streams.core.grants import add_grant, grant_credits
from streams.core.items import bill_due
from streams.core.ledger import charge, hold, reschedule, settle
from streams.core.price_list import NOTICE_DAYS, Prices, check_book, increases
from streams.history.facts import AT, DECIDED, DecidedFacts, decisions_between, kind_in
from streams.history.past_balance import accounts_at, change, grants_at, grants_made, openings

DAYS_MAX = 90
# Holds of the rehearsal end when those of the history did.
_HOLD_SECONDS = 10 * 365 * 86_400
_ALWAYS_MS = -(1 << 62)
_ADDRESS: dict[str, Any] = {"idempotency_key": "", "correlation": "", "reply_instance": "", "reply_partition": 0}

# Projects that are asked about at once, and the grants and corrections that those may have had: they are in memory.
PROJECTS_AT_ONCE = 100
KEPT_AT_ONCE = 20_000

EventName = tuple[str, str]


@dataclass(slots=True)
class PriceOutcome:
    """The outcome for one project, or for all: microcredits charged, and uses refused, as it was and under the
    proposal.

    `first_out_at_ms` is when the project would first have run out of credits; None is never.
    """

    project: str = ""
    plan: str = ""
    charged: int = 0
    charged_proposed: int = 0
    refused: int = 0
    refused_proposed: int = 0
    first_out_at_ms: int | None = None

    @property
    def difference(self) -> int:
        """The microcredits charged under the proposal, less those charged as it was."""
        return self.charged_proposed - self.charged

    @property
    def harm(self) -> tuple[int, int, str]:
        """The key that sorts by who would be hurt most: uses that would not run any more, then credits."""
        return self.refused_proposed - self.refused, self.difference, self.project


@dataclass(slots=True)
class Rehearsal:
    """The result of a rehearsal of prices. `worst` has the projects with the most harm, the most first; `total` is over
    all. `needs_notice` names the operations for which announcing the book needs notice."""

    since_ms: int
    until_ms: int
    projects: int = 0
    projects_hurt: int = 0
    total: PriceOutcome = field(default_factory=PriceOutcome)
    worst: list[PriceOutcome] = field(default_factory=list)
    needs_notice: list[str] = field(default_factory=list)


Replayed = tuple[PriceOutcome, Account]


def rehearse(
    clickhouse: ClickHouse,
    prices: Prices,
    book: PriceBook,
    days: int,
    now_ms: int,
    worst_max: int = 100,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Rehearsal:
    """Rehearse the last `days` of all projects under `book`. `on_progress` is told (projects done, all projects).

    A page of facts is in memory at a time, and the grants of `PROJECTS_AT_ONCE` projects. Raises Rejection where `book`
    could not be announced.
    """
    check_proposal(book, prices)
    clickhouse = clickhouse.limited(LONG)
    since_ms = now_ms - days * DAY_MS
    rehearsal = Rehearsal(since_ms, now_ms, needs_notice=increases(prices.books, book))
    projects = _projects(clickhouse, since_ms)
    worst: list[tuple[tuple[int, int, str], PriceOutcome]] = []
    total = rehearsal.total
    every = chain.from_iterable(
        replay_projects(clickhouse, some, book, since_ms, now_ms) for some in _at_once(projects)
    )
    for number, (_, replayed) in enumerate(every, 1):
        on_progress(number, len(projects))
        if replayed is None:
            continue
        outcome, _ = replayed
        rehearsal.projects += 1
        rehearsal.projects_hurt += outcome.harm[:2] > (0, 0)
        total.charged += outcome.charged
        total.charged_proposed += outcome.charged_proposed
        total.refused += outcome.refused
        total.refused_proposed += outcome.refused_proposed
        if outcome.first_out_at_ms is not None:
            total.first_out_at_ms = min(outcome.first_out_at_ms, total.first_out_at_ms or outcome.first_out_at_ms)
        if len(worst) < worst_max:
            heapq.heappush(worst, (outcome.harm, outcome))
        else:
            heapq.heappushpop(worst, (outcome.harm, outcome))
    rehearsal.worst = [outcome for _, outcome in sorted(worst, key=lambda each: each[0], reverse=True)]
    return rehearsal


def replay_project(
    clickhouse: ClickHouse, project: str, book: PriceBook, since_ms: int, until_ms: int
) -> Replayed | None:
    """Rehearse (since, until] of a project under a book, as `replay_projects` does."""
    ((_, replayed),) = replay_projects(clickhouse, [project], book, since_ms, until_ms)
    return replayed


def replay_projects(
    clickhouse: ClickHouse, projects: Sequence[str], book: PriceBook, since_ms: int, until_ms: int
) -> Iterator[tuple[str, Replayed | None]]:
    """Rehearse (since, until] of projects under a book. Gives of each, by name, the outcome, and the account as it
    would be at the end; None where the project was opened later. A project that was opened in that time begins with its
    first allowance."""
    opened = openings(clickhouse, projects)
    begins = {
        project: max(since_ms, opened[project][0])
        for project in projects
        if project in opened and opened[project][0] <= until_ms
    }
    grants = grants_at(clickhouse, begins, opened)
    accounts = accounts_at(clickhouse, begins, opened, grants)
    made = grants_made(clickhouse, list(begins), since_ms, until_ms, opened)
    corrected = _corrected(clickhouse, list(begins), since_ms)
    with_decisions = decisions_between(clickhouse, begins, until_ms)
    following = next(with_decisions, None)
    for project in sorted(projects):
        if project not in begins:
            yield project, None
            continue
        replay = _PriceReplay(
            accounts.pop(project), book, [*grants.pop(project), *made.pop(project)], corrected[project]
        )
        if following is not None and following[0] == project:
            for decision in following[1]:
                replay.take(decision)
            following = next(with_decisions, None)
        replay.outcome.plan = replay.account.plan
        yield project, (replay.outcome, replay.account)


def check_proposal(book: PriceBook, prices: Prices) -> None:
    """Check that a book could be announced at all, given enough notice. Raises Rejection."""
    after_ms = max(prices.books[-1].effective_at_ms, 0) + 1
    version = book.version if prices.version(book.version) is None else "rehearsal-of-another"
    check_book(
        msgspec.structs.replace(
            book,
            version=version,
            announced_at_ms=after_ms,
            effective_at_ms=after_ms + (NOTICE_DAYS + 1) * DAY_MS,
        ),
        prices,
    )


class _PriceReplay:
    """The replay of one project: its account under the proposal, and the outcome so far."""

    def __init__(self, account: Account, book: PriceBook, grants: list[Grant], corrected: set[EventName]) -> None:
        account.allowance = 0
        account.last_at_ms = 0
        self.account = account
        self.outcome = PriceOutcome(account.project)
        self._prices = Prices([msgspec.structs.replace(book, effective_at_ms=_ALWAYS_MS)])
        self._book = book
        self._facts: list[Fact] = []
        # All grants there ever were; the account forgets those that are used up.
        self._grants: dict[str, Grant] = {}
        for grant in grants:
            self._grants.setdefault(grant.id, grant)
        self._corrected = corrected
        self._charged: dict[EventName, list[Fact]] = {}
        self._holds: dict[str, Hold] = {}
        self._hold_of: dict[EventName, str] = {}
        self._not_held: set[str] = set()
        self._passed: set[EventName] = set()
        self._items_fed: set[str] = set()
        self._renewals: dict[int, Fact] = {}

    def take(self, decision: DecidedFacts) -> None:
        """Replay one decision: decide again on its event or command, and on all that was due by then."""
        facts = decision.facts
        self._count_actual(facts)
        self._renewals = {
            fact.occurred_at_ms: fact for fact in facts if fact.kind == "grant" and fact.reason == "allowance"
        }
        for fact in facts:
            if fact.kind == "release" and fact.reason == "expired" and (found := self._holds.get(_hold_id(fact))):
                found.expires_at_ms = fact.occurred_at_ms
        of_event = [fact for fact in facts if fact.source]
        event_done = False
        for fact in facts:
            at_ms = fact.booked_at_ms if fact.source else min(fact.occurred_at_ms, fact.booked_at_ms)
            self._advance(fact, at_ms)
            if fact.source:
                if not event_done:
                    event_done = True
                    self._event(decision, of_event, at_ms)
            elif fact.kind == "release" and fact.reason == "captured":
                if not event_done:
                    event_done = True
                    self._capture(decision, at_ms)
            else:
                self._other(fact, at_ms)
        self._count_proposed()

    def _booking(self, fact: Fact, at_ms: int) -> Booking:
        """A booking at the place of a fact of the history, so that a grant made there has the same id."""
        booking = Booking(self.account, 0, fact.offset, 0, at_ms, self._facts, self._prices)
        booking.next_index = fact.index
        return booking

    def _advance(self, fact: Fact, at_ms: int) -> None:
        account = self.account
        reschedule(account)
        while (due_at_ms := account.due_at_ms) <= at_ms:
            renewal = self._renewals.get(due_at_ms)
            account.allowance = renewal.amount if renewal is not None and account.renews_at_ms == due_at_ms else 0
            settle(self._booking(fact, due_at_ms))
            for grant in account.grants:
                if renewal is not None and grant.kind == "allowance" and grant.granted_at_ms == due_at_ms:
                    grant.id = renewal.grant_id
            account.last_at_ms = due_at_ms
            reschedule(account)
        account.last_at_ms = at_ms

    def _event(self, decision: DecidedFacts, facts: list[Fact], at_ms: int) -> None:
        first = facts[0]
        name = (first.source, first.event_id)
        match first.kind:
            case "correction":
                self._correct(facts, at_ms)
            case "charge" if first.reason == "captured":
                self._capture(decision, at_ms)
            case "charge":
                if name not in self._passed:
                    self._use(facts, at_ms, name)
            case "refusal" if first.reason in ("too_many_holds", "rate_limited", "over_cost_ceiling"):
                self.outcome.refused_proposed += 1
            case "refusal":
                if name not in self._passed and self._use(facts, at_ms, name):
                    self._passed.add(name)
            case "hold" if first.reason == "":
                self._hold(decision, facts, at_ms, name)

    def _use(self, facts: list[Fact], at_ms: int, name: EventName) -> bool:
        before = len(self._facts)
        code, _ = charge(self._booking(facts[0], at_ms), self._usage(facts))
        self._note_refusal(code, at_ms)
        self._note_charges(name, before)
        return not code

    def _hold(self, decision: DecidedFacts, facts: list[Fact], at_ms: int, name: EventName) -> None:
        first = facts[0]
        hold_id = f"{decision.partition}-{first.offset}-{first.index}"
        self._hold_of[name] = hold_id
        if name in self._passed:
            self._not_held.add(hold_id)
            return
        before = len(self._facts)
        code, _, placed = hold(self._booking(first, at_ms), self._usage(facts), _HOLD_SECONDS)
        self._note_refusal(code, at_ms)
        if placed is None:
            self._not_held.add(hold_id)
            self._note_charges(name, before)
        else:
            placed.id = hold_id
            self._holds[hold_id] = placed

    def _capture(self, decision: DecidedFacts, at_ms: int) -> None:
        facts = [fact for fact in decision.facts if fact.reason == "captured"]
        charged = [fact for fact in facts if fact.kind == "charge"]
        name = (charged[0].source, charged[0].event_id) if charged else ("", "")
        released = next((_hold_id(fact) for fact in facts if fact.kind == "release"), "")
        hold_id = released or self._hold_of.get(name, "")
        if self._is_over(hold_id):
            return
        placed = self._holds.pop(hold_id, None)
        if placed is None:
            for fact in facts:
                self._apply_as_it_was(fact, at_ms)
            return
        self._hold_of.pop((placed.source, placed.event_id), None)
        total = -sum(fact.held for fact in facts)
        captured = -sum(fact.amount for fact in charged)
        amount = -1
        if captured != total:
            # Capture the same part of the credits that the rehearsal holds.
            amount = sum(part.amount for part in placed.parts) * captured // total
        before = len(self._facts)
        command = CaptureHold(project=self.account.project, hold_id=hold_id, environment="", amount=amount, **_ADDRESS)
        holds.capture(self._booking(facts[0], at_ms), command)
        self._note_charges((placed.source, placed.event_id), before)

    def _correct(self, facts: list[Fact], at_ms: int) -> None:
        first = facts[0]
        name = (first.source, first.event_id)
        if name in self._charged:
            given_back = [
                GivenBack(
                    self._grants.get(fact.grant_id) or Grant("", "top_up", fact.environment, 0, 0, 0, 0),
                    fact.operation,
                    fact.quantity,
                    -fact.amount,
                    fact.price_version,
                )
                for fact in self._charged[name]
            ]
        else:
            given_back = []
            for fact in facts:
                if fact.reason == "given_back":
                    # The event was charged before these days, or never under the proposal.
                    self._apply_as_it_was(fact, at_ms)
        charged = [fact for fact in facts if fact.reason == "charged"]
        usage = self._usage(charged) if charged else None
        if not given_back and usage is None:
            return
        before = len(self._facts)
        command = Correct(
            project=self.account.project,
            source=first.source,
            event_id=first.event_id,
            sequence=0,
            given_back=given_back,
            usage=usage,
            metadata="",
            **_ADDRESS,
        )
        try:
            correct(self._booking(first, at_ms), command)
        except Rejection:
            return  # the event's charge stands, as it does where a correction can't be paid
        self._remember_grants()
        self._note_charges(name, before)

    def _other(self, fact: Fact, at_ms: int) -> None:
        """Replay a fact that no event brought."""
        account = self.account
        match fact.kind:
            case "grant" if fact.grant_id not in {grant.id for grant in account.grants}:
                # What is granted in these days ends as history says; an allowance, with its month.
                known = self._grants.get(fact.grant_id)
                expires_at_ms = known.expires_at_ms if known is not None else account.renews_at_ms
                grant_credits(
                    self._booking(fact, at_ms), fact.reason, fact.environment, fact.amount, at_ms, expires_at_ms
                )
            case "release":
                self._release(fact, at_ms)
            case "refund":
                for grant in account.grants:
                    if grant.id == fact.grant_id:
                        grant.remaining = grant.held
                drop_spent(account, at_ms)
            case "charge":
                self._bill(fact, at_ms)
            case "plan" | "project" if fact.occurred_at_ms <= fact.booked_at_ms:
                change(account, fact.reason, at_ms)

    def _release(self, fact: Fact, at_ms: int) -> None:
        hold_id = _hold_id(fact)
        if self._is_over(hold_id):
            return
        placed = self._holds.pop(hold_id, None)
        if placed is None:
            self._apply_as_it_was(fact, at_ms)
            return
        self._hold_of.pop((placed.source, placed.event_id), None)
        # A hold that expired is gone by now; the other facts of its release are about the same hold.
        self._not_held.add(hold_id)
        if placed in self.account.holds:
            command = ReleaseHold(project=self.account.project, hold_id=hold_id, environment="", reason="", **_ADDRESS)
            holds.release(self._booking(fact, at_ms), command)

    def _is_over(self, hold_id: str) -> bool:
        """Whether the proposal never placed a hold, or the hold is resolved."""
        return hold_id in self._not_held

    def _bill(self, fact: Fact, at_ms: int) -> None:
        """Replay a month's bill of a recurring item. Its first entry bears all unit-hours; later ones pay off the
        rest."""
        if fact.quantity:
            self._items_fed.add(fact.operation)
            amount = fact.quantity * self._book.hourly.get(fact.operation, 0)
        elif fact.operation in self._items_fed:
            return
        else:
            amount = -fact.amount  # billed before these days, paid now
        accrual = Accrual(self._book.version, fact.quantity, amount, at_ms)
        self.account.items.append(RecurringItem(fact.operation, 0, at_ms, [accrual]))
        bill_due(self._booking(fact, at_ms), at_ms)

    def _apply_as_it_was(self, fact: Fact, at_ms: int) -> None:
        """Apply a fact as it was, on the same grant and at the same price: its price was settled before these days."""
        account = self.account
        grant = next((grant for grant in account.grants if grant.id == fact.grant_id), None)
        if grant is None and fact.grant_id:
            grant = msgspec.structs.replace(self._grants[fact.grant_id], remaining=0, held=0)
            add_grant(account, grant)
        if grant is not None:
            grant.remaining += fact.amount
            grant.held += fact.held
            if fact.kind == "release" and grant.expires_at_ms and grant.expires_at_ms <= at_ms:
                grant.remaining += fact.held
        self.outcome.charged_proposed -= fact.amount
        drop_spent(account, at_ms)

    def _usage(self, facts: list[Fact]) -> Usage:
        """The use that was asked for, from the entries it led to: one line, or two with a surcharge."""
        first = facts[0]
        surcharge = next((fact.operation for fact in facts if fact.operation != first.operation), first.surcharge)
        return Usage(
            project=first.project,
            dedup_hash=b"",
            source=first.source,
            event_id=first.event_id,
            operation=first.operation,
            quantity=first.quantity,
            surcharge=surcharge,
            environment=first.environment,
            occurred_at_ms=first.occurred_at_ms,
            job_id=first.job_id,
            key_id=first.key_id,
            metadata="",
        )

    def _note_refusal(self, code: str, at_ms: int) -> None:
        if not code:
            return
        self.outcome.refused_proposed += 1
        if code == "out_of_credits" and self.outcome.first_out_at_ms is None:
            self.outcome.first_out_at_ms = at_ms

    def _note_charges(self, name: EventName, before: int) -> None:
        """Keep the charges of an event, if the history has a correction of it."""
        if name in self._corrected:
            self._charged[name] = [
                fact for fact in self._facts[before:] if fact.kind in USAGE_KINDS and fact.reason != "given_back"
            ]
            self._remember_grants()

    def _remember_grants(self) -> None:
        for grant in self.account.grants:
            self._grants.setdefault(grant.id, grant)

    def _count_actual(self, facts: list[Fact]) -> None:
        for fact in facts:
            if fact.kind in USAGE_KINDS:
                self.outcome.charged -= fact.amount
            elif fact.kind == "refusal" and fact.source:
                self.outcome.refused += 1

    def _count_proposed(self) -> None:
        for fact in self._facts:
            if fact.kind in USAGE_KINDS:
                self.outcome.charged_proposed -= fact.amount
        self._facts.clear()


def _projects(clickhouse: ClickHouse, since_ms: int) -> dict[str, int]:
    """The projects that used anything since then, by name, and how many grants and corrections each ever had."""
    used = f"booked_at > {AT} AND {DECIDED}"
    kept = kind_in("grant", "correction")
    rows = clickhouse.query(
        f"SELECT project, countIf({kept}) FROM facts WHERE ({used}) OR {kept} "
        f"GROUP BY project HAVING countIf({used}) > 0 ORDER BY project",
        {"at": since_ms},
    )
    return {row[0]: row[1] for row in rows}


def _at_once(projects: Mapping[str, int]) -> Iterator[list[str]]:
    """Split projects, in order, into those that are asked about at once."""
    some, kept = list[str](), 0
    for project, count in projects.items():
        if some and (len(some) == PROJECTS_AT_ONCE or kept + count > KEPT_AT_ONCE):
            yield some
            some, kept = [], 0
        some.append(project)
        kept += count
    if some:
        yield some


def _corrected(clickhouse: ClickHouse, projects: Sequence[str], since_ms: int) -> dict[str, set[EventName]]:
    rows = clickhouse.query(
        "SELECT DISTINCT project, source, event_id FROM facts WHERE project IN {projects:Array(String)} "
        f"AND {kind_in('correction')} AND booked_at > {AT}",
        {"projects": projects, "at": since_ms},
    )
    corrected: dict[str, set[EventName]] = {project: set() for project in projects}
    for project, source, event_id in rows:
        corrected[project].add((source, event_id))
    return corrected


def _hold_id(fact: Fact) -> str:
    found: str = msgspec.json.decode(fact.metadata)["hold"]
    return found
