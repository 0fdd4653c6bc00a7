"""Lives of projects for tests: random records, one after the other, through the real core, and their facts in the real
history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import msgspec

from schemas.accounts import Account, Grant, Limits
from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    Envelope,
    ExtendHold,
    GivenBack,
    GrantPromotional,
    PublishPrices,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    SetAutoRecharge,
    SetItem,
    SetLimits,
    SettleRecharge,
    Tick,
)
from schemas.events import Usage
from schemas.facts import Fact
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.times import DAY_MS
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import journal_sink
from streams.core.booking import FACTS_PER_SLOT
from streams.core.fold import IntakeItem, fold
from streams.core.price_list import PRICES_ID, Prices
from streams.core.replies import Kept
from streams.history.receipts import Ask
from streams.kafka.codecs import decode_account, encode_account
from streams.settings import Settings
from tests.core.builders import CREDIT, START_MS, addressed, create_project, top_up, usage


def asker(clickhouse: ClickHouse) -> Ask:
    """A function that has a thread answer a question to this history."""
    return lambda question: asyncio.to_thread(question, clickhouse)


HOURLY = {"item.domain": 40_000, "item.storage_gb": 1_500}
BOOK = PriceBook("with-items", 40 * DAY_MS, FIRST_PRICE_BOOK.rates, FIRST_PRICE_BOOK.plan_required, HOURLY)

_USES = [
    ("chat.message", ""),
    ("image", ""),
    ("blog_post", ""),
    ("website", ""),
    ("read", ""),
    ("video.premium", ""),
    ("social_post.text", "social_post.image"),
    ("webhook.delivery", ""),
]
_STEPS_MS = [0, 1, 900, 900, 60_000, 60_000, 3_600_000, 5 * 3_600_000, DAY_MS, 6 * DAY_MS]


class Life:
    """A life is what happens to a project by one seed. `states` are (time, the stored account) after each record.

    A plain life has no recurring items, no auto-recharge, no refunds, and no event that comes again.
    """

    def __init__(
        self,
        seed: int,
        project: str = "p1",
        recurring: bool = True,
        plain: bool = False,
        book: PriceBook = BOOK,
        start_ms: int = START_MS,
    ) -> None:
        self.random = Random(seed)
        self.project = project
        self.plain = plain
        self.book = book
        # The records that were applied: offset, time, the record, and whether it was refused.
        self.records: list[tuple[int, int, AnyCommand | Envelope | Tick, bool]] = []
        self.at_ms = start_ms
        self.offset = 0
        self.facts: list[Fact] = []
        self.accounts: dict[str, Account] = {}
        self.seen: dict[bytes, int] = {}
        self.kept = Kept()
        self.states: list[tuple[int, bytes]] = []
        self.grants: dict[str, Grant] = {}
        self.corrected: dict[str, int] = {}
        self.apply(PublishPrices(project=PRICES_ID, book=book, **self._addressed()))
        self.apply(create_project(project, self.random.choice(["free", "free", "hobby", "build"])))
        if plain:
            # A rehearsal of prices is about credits alone, so the ceiling is lifted.
            limits = Limits(0, 0, 1_000_000 * CREDIT)
            self.apply(SetLimits(project=project, limits=limits, is_shadow=False, reason="", **self._addressed()))
        if recurring and not plain:
            self._set_item()

    @property
    def account(self) -> Account:
        return self.accounts[self.project]

    @property
    def prices(self) -> Prices:
        return Prices([self.book])

    def live(self, records: int) -> None:
        """Go on for so many more records."""
        for _ in range(records):
            self.at_ms += self.random.choice(_STEPS_MS)
            choice = self.random.random()
            if choice < 0.45:
                self.apply(Envelope([self._usage() for _ in range(self.random.randint(1, 4))]))
            elif choice < 0.6:
                self.apply(Admit(project=self.project, usage=self._usage(), **self._addressed()))
            elif choice < 0.7:
                seconds = self.random.choice([60, 3_600, 7 * 86_400, 7 * 86_400])
                self.apply(Admit(project=self.project, usage=self._usage(), hold_seconds=seconds, **self._addressed()))
            elif choice < 0.82:
                self._resolve_hold()
            else:
                self.random.choice(
                    [self._top_up, self._change_plan, self._correct, self._correct, self._other, self._other]
                )()

    def apply(self, body: AnyCommand | Envelope | Tick) -> None:
        """Apply a record, the next of this life."""
        offset = self.offset
        effects = fold(0, [IntakeItem(self.offset, self.at_ms, body)], self.accounts, self.seen, self.kept, "intake")
        self.offset += self.random.choice([1, 1, 2])
        self.facts += effects.facts
        self.records.append((offset, self.at_ms, body, any(reply.code for _, reply in effects.replies)))
        if self.project in self.accounts:
            self.states.append((self.at_ms, encode_account(self.account)))
            for grant in self.account.grants:
                self.grants[grant.id] = msgspec.structs.replace(grant)

    def state_at(self, at_ms: int) -> Account:
        """The account as it was stored at a time."""
        return decode_account([value for stored_at_ms, value in self.states if stored_at_ms <= at_ms][-1])

    def charged_for(self, event_id: str) -> list[GivenBack]:
        """The charges of an event's last decision, as a correction gives them back."""
        of_event = [fact for fact in self.facts if fact.event_id == event_id and fact.kind in ("charge", "correction")]
        return [
            GivenBack(
                self.grants.get(fact.grant_id, Grant("", "top_up", fact.environment, 0, 0, 0, 0)),
                fact.operation,
                fact.quantity,
                -fact.amount,
                fact.price_version,
            )
            for fact in of_event
            if _place(fact) == _place(of_event[-1]) and fact.reason != "given_back"
        ]

    def under(self, book: PriceBook) -> Life:
        """The life as it goes under another price book, with the same uses, top-ups and plans. Holds that are placed
        there too are resolved in the same part. Corrections are the same, but give back what was charged there."""
        other = Life(0, self.project, plain=True, book=book)
        other.records.clear()
        other.facts.clear()
        other.accounts.clear()
        other.seen.clear()
        for offset, at_ms, body, was_refused in self.records:
            other.offset, other.at_ms = offset, at_ms
            other._apply_again(body, was_refused, self)
        return other

    def _apply_again(self, body: AnyCommand | Envelope | Tick, was_refused: bool, first: Life) -> None:
        replace = msgspec.structs.replace
        if isinstance(body, PublishPrices):
            body = replace(body, book=self.book)
        elif isinstance(body, Admit):
            # The fact of a refusal does not say whether a hold was asked for.
            body = replace(body, hold_seconds=0) if was_refused else body
        elif isinstance(body, Envelope | Tick):
            pass
        elif was_refused:
            return
        elif isinstance(body, CaptureHold | ReleaseHold | ExtendHold):
            placed_at = body.hold_id.split("-")[1]
            hold = next((each for each in self.account.holds if each.id.split("-")[1] == placed_at), None)
            if hold is None:
                return
            body = replace(body, hold_id=hold.id)
            if isinstance(body, CaptureHold) and body.amount >= 0:
                before = sum(fact.held for fact in first.facts if fact.kind == "hold" and str(fact.offset) == placed_at)
                total = sum(part.amount for part in hold.parts)
                body = replace(body, amount=-1 if body.amount == before else total * body.amount // before)
        elif isinstance(body, Correct):
            # Counted far from the first life's corrections, so that one of an event that was refused here is made too.
            given_back = self.charged_for(body.event_id)
            body = replace(body, given_back=given_back, sequence=body.sequence + 1_000)
        self.apply(body)

    def _usage(self) -> Usage:
        operation, surcharge = self.random.choice(_USES)
        repeats = self.random.random() < 0.1 and not self.plain
        number = self.random.randrange(len(self.facts) + 1) if repeats else len(self.facts)
        return usage(
            f"e{number}-{self.random.randrange(3)}",
            self.project,
            operation,
            surcharge=surcharge,
            quantity=self.random.choice([1, 2, 7, 15]),
            environment=self.random.choice(["production"] * 4 + ["preview"]),
            occurred_at_ms=self.at_ms - self.random.choice([0, 0, 5_000, DAY_MS]),
            job_id=f"job-{self.random.randrange(1_000_000)}",
        )

    def _resolve_hold(self) -> None:
        holds = self.account.holds
        if not holds:
            return
        hold = self.random.choice(holds)
        total = sum(part.amount for part in hold.parts)
        common = {"project": self.project, "hold_id": hold.id, "environment": "", **self._addressed()}
        choice = self.random.random()
        if choice < 0.6:
            self.apply(CaptureHold(amount=self.random.choice([-1, -1, total // 2, total // 3, 0]), **common))
        elif choice < 0.85:
            self.apply(ReleaseHold(reason="upstream timeout", **common))
        else:
            self.apply(ExtendHold(seconds=self.random.choice([5, 600_000]), **common))

    def _top_up(self) -> None:
        environment = self.random.choice(["production", "preview"])
        if self.random.random() < 0.5:
            lasts_ms = self.random.choice([1, 900, 3_600_000, 3 * DAY_MS, 50 * DAY_MS])
            terms = {"amount": self.random.choice([3, 60, 900]) * CREDIT, "expires_at_ms": self.at_ms + lasts_ms}
            project, reason = self.project, "sorry"
            self.apply(
                GrantPromotional(project=project, environment=environment, reason=reason, **terms, **self._addressed())
            )
            return
        self.apply(top_up(20, self.project, environment, correlation=f"t{self.offset}"))

    def _change_plan(self) -> None:
        plan = self.random.choice(["free", "free", "hobby", "build", "enterprise"])
        contract = self.random.choice([0, 100, 9_000]) * CREDIT
        self.apply(ChangePlan(project=self.project, plan=plan, contract_allowance=contract, **self._addressed()))

    def _correct(self) -> None:
        charges = [fact for fact in self.facts if fact.kind == "charge" and fact.source]
        if not charges:
            return
        event_id = self.random.choice(charges).event_id
        # A correction gives back all that the event's last decision charged.
        given_back = self.charged_for(event_id)
        used = self._usage() if not given_back or self.random.random() < 0.5 else None
        if used is not None:
            used = msgspec.structs.replace(used, event_id=event_id)
        sequence = self.corrected.get(event_id, 0)
        before = len(self.facts)
        self.apply(
            Correct(
                project=self.project,
                source="/test",
                event_id=event_id,
                sequence=sequence,
                given_back=given_back,
                usage=used,
                metadata="",
                **self._addressed(),
            )
        )
        if any(fact.kind == "correction" for fact in self.facts[before:]):
            self.corrected[event_id] = sequence + 1

    def _set_item(self) -> None:
        operation = self.random.choice(list(HOURLY))
        quantity = self.random.choice([0, 1, 20])
        self.apply(SetItem(project=self.project, operation=operation, quantity=quantity, **self._addressed()))

    def _other(self) -> None:
        choice = self.random.randrange(6)
        bundles = [grant.id for grant in self.account.grants if grant.kind == "top_up"]
        recharge = self.account.auto_recharge
        if self.plain and choice != 1:
            self.apply(Tick([self.project]))
        elif choice == 0 and bundles:
            grant_id = self.random.choice(bundles)
            self.apply(RefundTopUp(project=self.project, grant_id=grant_id, reason="", **self._addressed()))
        elif choice == 1:
            self.apply(CloseProject(project=self.project, reason="", **self._addressed()))
            self.at_ms += self.random.choice(_STEPS_MS)
            self.apply(ReopenProject(project=self.project, **self._addressed()))
        elif choice == 2 and recharge is not None and recharge.pending_id:
            self.apply(
                SettleRecharge(
                    project=self.project,
                    recharge_id=recharge.pending_id,
                    is_paid=self.random.random() < 0.7,
                    reference="",
                    detail="",
                    **self._addressed(),
                )
            )
        elif choice == 3:
            self.apply(
                SetAutoRecharge(
                    project=self.project,
                    is_on=True,
                    threshold=100 * CREDIT,
                    bundle_usd=20,
                    cap_cents=10_000,
                    payment_method="card",
                    **self._addressed(),
                )
            )
        elif choice == 4 and self.account.items:
            self._set_item()
        else:
            self.apply(Tick([self.project]))

    def _addressed(self) -> dict[str, object]:
        return addressed(f"c{self.offset}-{self.random.randrange(1 << 30)}")


def _place(fact: Fact) -> tuple[int, int]:
    return fact.offset, fact.index // FACTS_PER_SLOT


def insert_facts(clickhouse: ClickHouse, facts: Sequence[Fact], partition: int = 0) -> None:
    """Insert facts into the history as the historian does."""
    sink = journal_sink(Settings())
    packs = [Pack((partition, fact.offset), msgspec.msgpack.encode([fact]), 1) for fact in facts]
    clickhouse.insert_packs(sink.table, sink.shared, sink.columns, packs, partitions_max=100)
