"""One partition, told to the core and to the model: folded a batch at a time, crashed now and then, compared."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from schemas.accounts import Account
from schemas.commands import AnyCommand, Commands, Envelope, Tick
from schemas.facts import Fact
from schemas.replies import KEPT_FOR
from streams.core.acceptance import dedup_hash
from streams.core.billed import billed_in_month
from streams.core.booking import available, balance, held
from streams.core.fold import Effects, IntakeItem, fold
from streams.core.items import unpaid
from streams.core.marks import Seen
from streams.core.projects import NEVER_MS
from streams.core.replies import Kept, is_reply_kept
from streams.kafka.codecs import decode_account, encode_account
from tests.core.builders import START_MS
from tests.core.stated import check_stated
from tests.simulation.checks import stored_use, used
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import answer_of
from tests.simulation.model.identities import identity_names
from tests.simulation.model.lines import Line
from tests.simulation.model.projects import billed
from tests.simulation.model.records import Model

ENVIRONMENTS = ("production", "preview")

# What happened, over all examples of the run.
tally: Counter[str] = Counter()


class FoldedPartition(RuleBasedStateMachine):
    """One partition. Records wait until the batch that they are in is full; then core and model are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(0, KEPT_FOR, dedup_days=100_000)
        self.accounts: dict[str, bytes] = {}
        self.seen: Seen = {}
        self.kept = Kept()
        self.at_ms = START_MS
        self.offset = 0
        self.sent = 0
        # The record that is being filled with commands, of those that share one.
        self.record: list[AnyCommand] = []
        self.record_size = 1
        self.waiting: list[IntakeItem] = []
        self.batch_sizes = [1]
        self.batches = 0
        self.crash = ""
        self.lines_checked = 0
        self.dead: set[tuple[int, int, str]] = set()
        self.sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.told: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def teardown(self) -> None:
        self.end_record()
        self.flush()
        tally["examples"] += 1

    def step(self) -> None:
        tally["steps"] += 1

    def note(self, kind: str, code: str) -> None:
        tally[f"{kind}: {code or 'done'}"] += 1

    def append(self, body: Any) -> None:
        """Send the next record, or the next command of one. The model is told at once: the next one can build on it."""
        before = len(self.model.lines)
        if isinstance(body, Envelope | Tick):
            self.end_record()
            self.model.apply(self.offset, self.at_ms, body)
            self.end_record(body)
        else:
            self.model.apply(self.offset, self.at_ms, body, len(self.record))
            self.record.append(body)
            if len(self.record) >= self.record_size:
                self.end_record()
        for line in self.model.lines[before:]:
            count(self.told[line.project, line.environment], line)
            tally[f"stated: {line.kind} {'' if line.kind in ('plan', 'price_book') else line.reason}"] += 1
        self.check_that_nothing_is_lost()

    def end_record(self, body: Envelope | Tick | Commands | AnyCommand | None = None) -> None:
        """End the record: it waits with those of its batch."""
        if self.record:
            body = Commands(self.record) if len(self.record) > 1 else self.record[0]
            tally["records of several commands"] += len(self.record) > 1
            self.record = []
        if body is not None:
            self.waiting.append(IntakeItem(self.offset, self.at_ms, body))
            self.offset += 1
            if len(self.waiting) >= self.batch_sizes[self.batches % len(self.batch_sizes)]:
                self.flush()

    def check_that_nothing_is_lost(self) -> None:
        """Check after each step what the model states; `compare` holds the core to that, once a batch."""
        for name, known in self.model.projects.items():
            for environment in ENVIRONMENTS:
                sums = self.told[name, environment]
                can_spend = known.available(environment)
                kept = known.balance(environment) - can_spend
                came = sums["granted"] + sums["given back"]
                assert came == sums["spent"] + sums["refunded"] + sums["expired"] + kept + can_spend
                assert can_spend >= 0 and kept == sums["held"]

    def flush(self) -> None:
        """Fold what waits, perhaps twice, and compare."""
        if not self.waiting:
            return
        batch, self.waiting, crash, self.crash = self.waiting, [], self.crash, ""
        self.batches += 1
        effects = self.fold(batch)
        facts = effects.facts
        if crash:
            tally[f"crash: {crash}"] += 1
            if crash != "all lost":
                self.seen |= effects.seen
                self.kept.update(effects.kept)
            names = sorted(effects.accounts)
            kept = {"first kept": names[:1], "last kept": names[-1:], "all kept": names}.get(crash, [])
            self.accounts |= {name: encode_account(effects.accounts[name]) for name in kept}
            repeat = self.fold(batch)
            assert repeat.facts == [fact for fact in facts if fact.project not in kept]
            assert repeat.dead_letters == effects.dead_letters
            assert encoded(repeat) == encoded(effects)
            # What an event's capture claimed beside the event is written with the index, before the accounts are.
            written = effects.seen.keys() - repeat.seen.keys()
            assert written <= self.claims_of_captures(kept)
            assert repeat.seen == {name: claim for name, claim in effects.seen.items() if name not in written}
            assert repeat.kept == effects.kept
            told = {command.correlation: (command, reply) for command, reply in effects.replies}
            again = {command.correlation: (command, reply) for command, reply in repeat.replies}
            assert all(told[correlation] == answered for correlation, answered in again.items())
            # What is not kept can't be told again.
            missing = [told[correlation][0] for correlation in told.keys() - again.keys()]
            assert all(command.project in kept and not is_reply_kept(command) for command in missing)
        self.seen |= effects.seen
        self.kept.update(effects.kept)
        self.accounts |= encoded(effects)
        self.compare(effects)

    def claims_of_captures(self, projects: Sequence[str]) -> set[bytes]:
        """The names in the dedup index of all holds of these projects, and of their jobs."""
        lines = [line for line in self.model.lines if line.kind == "hold" and line.project in projects]
        names = [("hold", line.project, line.environment, f"0-{line.offset}-{line.index}") for line in lines]
        names += [("job", line.project, line.environment, line.job_id) for line in lines if line.job_id]
        return {dedup_hash(*identity_names(each)) for each in names}

    def fold(self, batch: list[IntakeItem]) -> Effects:
        accounts = {name: decode_account(value) for name, value in self.accounts.items()}
        kept = Kept(dict(self.kept.by_key), dict(self.kept.by_request))
        return fold(0, batch, accounts, dict(self.seen), kept, "intake")

    def compare(self, effects: Effects) -> None:
        """The facts, the replies and the accounts are the model's; the sums of the facts are what the accounts hold."""
        lines = [line_of(fact) for fact in effects.facts]
        check_stated(effects.facts)
        expected, self.lines_checked = self.model.lines[self.lines_checked :], len(self.model.lines)
        assert lines == expected
        for command, reply in effects.replies:
            assert answer_of(reply) == self.model.answers[command.correlation]
        self.dead |= {(letter.offset, letter.index, letter.code) for letter in effects.dead_letters}
        assert self.dead == self.model.dead
        for line in lines:
            count(self.sums[line.project, line.environment], line)
        for name, account in effects.accounts.items():
            self.compare_account(name, account)

    def compare_account(self, name: str, account: Account) -> None:
        known = self.model.projects[name]
        if account.due_at_ms < NEVER_MS:
            assert account.due_at_ms == known.due_at_ms()
        assert (account.plan, account.allowance, account.price_cents) == (known.plan, known.allowance, known.cents)
        assert (account.next_plan or None) == (known.next_plan and known.next_plan[0])
        assert (account.closed_at_ms or None) == known.closed_ms
        ended = [(span.until_ms, span.plan, span.is_closed) for span in account.past]
        assert [*ended, (None, account.plan, account.closed_at_ms > 0)] == states_of(known)
        assert (account.is_in_good_standing, account.badge_off) == (known.is_in_good_standing, known.badge_off)
        assert account.billing_account == known.billing_account
        owed = {each.billing_account: each.cents for each in billed_in_month(account, known.clock_ms) if each.cents}
        assert owed == billed(known, known.clock_ms)
        assert {key.id: key.environment for key in account.keys} == known.keys
        assert [(each.id, each.expires_at_ms) for each in account.holds] == [
            (each.id, each.expires_at_ms) for each in known.holds
        ]
        assert unpaid(account.items) == sum(
            bill.owed for item in known.items.values() for bill in item.bills if bill.month_end_ms is not None
        )
        assert [(each.id, each.is_on) for each in account.raises] == [(each.id, each.is_on) for each in known.raises]
        assert stored_use(account.window) == used(known.window)
        if account.shadow is not None or known.trial is not None:
            assert stored_use(account.shadow.window) == used(known.trial[1])
        recharge = account.auto_recharge
        assert (recharge.pending_id if recharge else "") == (
            known.recharge.pending[0] if known.recharge and known.recharge.pending else ""
        )
        for environment in ENVIRONMENTS:
            sums = self.sums[name, environment]
            can_spend, kept = available(account, environment), held(account, environment)
            assert can_spend >= 0 and kept >= 0
            came = sums["granted"] + sums["given back"]
            assert came == sums["spent"] + sums["refunded"] + sums["expired"] + kept + can_spend
            assert kept == sums["held"]
            assert balance(account, environment) == known.balance(environment)
        assert {grant.id: (grant.remaining, grant.held) for grant in account.grants if grant.remaining} == {
            grant.id: (grant.left, grant.held) for grant in known.grants if grant.left
        }
        of_holds = Counter({grant.id: 0 for grant in account.grants})
        for hold in account.holds:
            for part in hold.parts:
                of_holds[part.grant_id] += part.amount
        assert all(
            0 <= grant.held == of_holds[grant.id] <= grant.remaining <= grant.granted for grant in account.grants
        )


def encoded(effects: Effects) -> dict[str, bytes]:
    return {name: encode_account(account) for name, account in effects.accounts.items()}


def states_of(known: Project) -> list[tuple[int | None, str, bool]]:
    """The states of a project, past ones and the present, each until the next of them began."""
    until = [from_ms for from_ms, _, _ in known.states[1:]]
    return [
        (ends_ms, plan, is_closed) for ends_ms, (_, plan, is_closed) in zip([*until, None], known.states, strict=True)
    ]


def line_of(fact: Fact) -> Line:
    return Line(*(getattr(fact, name) for name in Line._fields))


def count(sums: Counter[str], line: Line) -> None:
    """Add up where the credits of an entry went, or came from."""
    sums["held"] += line.held
    if line.kind in ("grant", "correction") and line.amount > 0:
        sums["granted" if line.kind == "grant" else "given back"] += line.amount
    elif line.amount:
        what = {"charge": "spent", "correction": "spent", "refund": "refunded", "expiry": "expired"}[line.kind]
        sums[what] -= line.amount
