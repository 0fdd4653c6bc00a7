"""Every command, in any order and over months, against the plain model of tests/simulation; nothing ever differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from schemas.accounts import Account, Grant, Limits
from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Commands,
    Correct,
    CountRequest,
    CreateKey,
    CreateProject,
    EndRaise,
    Envelope,
    ExtendHold,
    GivenBack,
    OpenBillingAccount,
    PublishPrices,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    RevokeKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetStanding,
    SettleRecharge,
    Tick,
    TopUp,
)
from schemas.events import Usage
from schemas.facts import Fact
from schemas.prices import PriceBook
from streams.core.booking import available, balance, held
from streams.core.fold import Effects, IntakeItem, fold
from streams.core.items import unpaid
from streams.core.price_list import PRICES_ID
from streams.core.projects import BILLING_PREFIX, NEVER_MS
from streams.core.replies import REPLIES_KEPT
from streams.kafka.codecs import decode_account, encode_account
from tests.core.builders import CREDIT, START_MS, addressed, usage
from tests.seeds import BASE, LEDGER_STEPS, LEDGER_STEPS_DEEP
from tests.simulation.checks import stored_use, used
from tests.simulation.model import Hold, Line, Model, answer_of

STEPS_MIN = LEDGER_STEPS
STEPS_AN_EXAMPLE = 100
# Some examples end early.
EXAMPLES = STEPS_MIN // STEPS_AN_EXAMPLE * 5 // 4 + 1

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
ENVIRONMENTS = ("production", "preview")
PROJECTS = ("a", "b")
OPERATIONS = ("chat.message", "image", "website", "blog_post", "video.premium", "read", "webhook.delivery", "no.price")
ITEMS = ("domain", "account", "storage", "no.price")

# By what a tally calls it: each is done, and refused, many times.
COMMANDS = sorted({kind.__name__ for kind in AnyCommand.__args__} | {"Envelope", "Tick", "Hold"})
NEVER_REFUSED = ()
# What is to come about many times, beside what commands do by themselves.
STATED = (
    "charge captured",
    "charge recurring",
    "correction charged",
    "correction given_back",
    "expiry allowance",
    "expiry promotional",
    "limits raise_begun",
    "limits raise_ended",
    "limits raise_planned",
    "limits set",
    "limits shadow",
    "recharge cap_reached",
    "recharge failed",
    "recharge requested",
    "refund top_up",
    "refusal over_cost_ceiling",
    "refusal rate_limited",
    "release captured",
    "release expired",
    "release released",
    "request ",
    "shadow over_cost_ceiling",
    "shadow rate_limited",
)

T = TypeVar("T")

# What happened, over all examples of the run.
tally: Counter[str] = Counter()

numbers = st.integers(0, 1_000)
projects = st.sampled_from((*PROJECTS * 5, "nobody"))
environments = st.sampled_from(("production", "production", "production", "production", "preview"))
often = st.sampled_from((True, True, True, False))
seldom = st.sampled_from((False, False, False, True))


class LedgerMachine(RuleBasedStateMachine):
    """One partition. Records wait until the batch that they are in is full; then core and model are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(0, replies_kept=32, dedup_days=100_000)
        self.accounts: dict[str, bytes] = {}
        self.seen: dict[bytes, int] = {}
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
        # What a caller may know: what it asked, and what history tells.
        self.asked: list[AnyCommand] = []
        self.uses: list[Usage] = []
        self.charged: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
        self.corrections: Counter[tuple[str, str, str]] = Counter()
        self.refused: dict[tuple[str, str, str], int] = {}
        self.grants: dict[str, Grant] = {}
        self.recharges: list[tuple[str, str]] = []
        self.raises: list[tuple[str, str]] = []

    @initialize(
        plans=st.tuples(*[st.sampled_from(("free", "hobby", "build", "enterprise"))] * len(PROJECTS)),
        sizes=st.lists(st.sampled_from((1, 1, 1, 3, 6)), min_size=1, max_size=4),
        record_size=st.sampled_from((1, 1, 2, 6, 40)),
        has_prices=often,
    )
    def open(self, plans: tuple[str, ...], sizes: list[int], record_size: int, has_prices: bool) -> None:
        self.record_size = record_size
        for project, plan in zip(PROJECTS, plans, strict=True):
            self.send(CreateProject, project, name="", plan=plan, contract_allowance=900 * CREDIT, contract_cents=90_00)
        if has_prices:
            self.publish(0, 0, "same")
        self.batch_sizes = sizes

    # Time.

    @rule(ms=st.sampled_from((1, 20_000, 60_000, HOUR_MS, HOUR_MS, 7 * HOUR_MS, DAY_MS, DAY_MS, 9 * DAY_MS, -5_000)))
    def time_passes(self, ms: int) -> None:
        self.step()
        self.end_record()
        self.at_ms += ms

    @rule(days=st.sampled_from((20, 31, 70)))
    def months_pass(self, days: int) -> None:
        self.step()
        self.end_record()
        self.at_ms += days * DAY_MS

    @rule(project=st.sampled_from(PROJECTS), ms=st.sampled_from((-1, 0, 0, 1)))
    def something_is_almost_due(self, project: str, ms: int) -> None:
        self.step()
        self.end_record()
        self.at_ms = max(self.at_ms, self.model.projects[project].due_at_ms() + ms)

    @rule(one=often, other=often)
    def tick(self, one: bool, other: bool) -> None:
        self.step()
        due = [name for name in PROJECTS if self.model.projects[name].due_at_ms() <= self.at_ms]
        self.note("Tick", "" if due else "nothing due")
        self.append(Tick([name for name, ticks in zip(PROJECTS, (one, other), strict=True) if ticks]))

    # Uses.

    @rule(
        which=st.lists(st.tuples(projects, st.sampled_from(OPERATIONS), numbers), min_size=1, max_size=3),
        environment=environments,
    )
    def usage_comes(self, which: list[tuple[str, str, int]], environment: str) -> None:
        self.step()
        before = len(self.model.lines)
        self.append(Envelope([self.use(*each, environment) for each in which]))
        for line in self.model.lines[before:]:
            if line.kind in ("charge", "refusal") and line.event_id:
                self.note("Envelope", "" if line.kind == "charge" else line.reason)

    @rule(
        project=projects,
        operation=st.sampled_from(OPERATIONS),
        number=numbers,
        environment=environments,
        hours=st.sampled_from((0, 0, 24, 168, 168, 168, 169, -1)),
        is_once=often,
    )
    def admit(self, project: str, operation: str, number: int, environment: str, hours: int, is_once: bool) -> None:
        """Charge it at once, or hold it for some hours; and perhaps it is asked for by two."""
        self.step()
        event = self.use(project, operation, number, environment)
        for _ in range(1 if is_once else 2):
            self.send(Admit, project, usage=event, hold_seconds=hours * 3_600)

    @rule(project=projects, environment=environments)
    def count_request(self, project: str, environment: str) -> None:
        self.step()
        self.send(CountRequest, project, operation="GET /v1/balance", environment=environment)

    @rule(number=numbers, more=st.integers(0, 3), is_counted=st.booleans(), is_together=often)
    def a_script_runs_away(self, number: int, more: int, is_counted: bool, is_together: bool) -> None:
        """As many requests at once as a rested project may send, or some more: 60 on the free plan."""
        self.step()
        project = min(PROJECTS, key=lambda name: self.model.projects[name].limits().burst)
        burst = self.model.projects[project].limits().burst
        if burst > 60:
            return
        self.end_record()
        self.record_size = 64 if is_together else 1
        for each in range(max(1, burst - 2) + more):
            if is_counted:
                self.send(CountRequest, project, operation="GET /v1/balance", environment="production")
            else:
                event = self.use(project, "read", each, "production", is_new=True)
                self.send(Admit, project, usage=event, hold_seconds=0)
        self.end_record()

    @rule(project=st.sampled_from(PROJECTS), operations=st.lists(st.sampled_from(OPERATIONS[:-1]), max_size=3))
    def jobs_are_queued(self, project: str, operations: list[str]) -> None:
        self.step()
        for operation in ["image", *operations]:
            event = self.use(project, operation, 3, "production", is_new=True)
            self.send(Admit, project, usage=event, hold_seconds=7 * 86_400)

    @precondition(lambda self: self.has_holds())
    @rule(number=numbers, how=st.sampled_from((-1, -1, 0, 1, 2, 3, 4, 9, 9, *["released"] * 6)))
    def job_ends(self, number: int, how: int | str) -> None:
        """All of its hold is charged, or so many quarters, or none; and perhaps it is queued again."""
        self.step()
        project, hold_id, environment, hold = self.open_hold(number)
        total = hold.total()
        if how == "released":
            self.send(ReleaseHold, project, hold_id=hold_id, environment=environment, reason="failed")
        else:
            amount = -1 if how < 0 else how * (total or 1) // 4
            self.send(CaptureHold, project, hold_id=hold_id, environment=environment, amount=amount)
        if number % 4 == 0:
            self.send(Admit, project, usage=hold.usage, hold_seconds=3_600)

    @precondition(lambda self: self.has_holds())
    @rule(number=numbers, seconds=st.sampled_from((0, 1, 3_600, 7 * 86_400)))
    def job_takes_longer(self, number: int, seconds: int) -> None:
        self.step()
        project, hold_id, environment, _ = self.open_hold(number)
        self.send(ExtendHold, project, hold_id=hold_id, environment=environment, seconds=seconds)

    # Limits.

    @rule(
        project=projects,
        requests=st.sampled_from((0, 0, 0, 1, 3, 3, 5, 1_000_001)),
        burst=st.sampled_from((0, 0, 0, 1, 4, 8, 61, -1)),
        credits=st.sampled_from((0, 0, 5, 50, 250, 5_000)),
        is_shadow=st.booleans(),
    )
    def set_limits(self, project: str, requests: int, burst: int, credits: int, is_shadow: bool) -> None:
        """Another contract, or a trial."""
        self.step()
        limits = Limits(requests, burst, credits * CREDIT)
        self.send(SetLimits, project, limits=limits, is_shadow=is_shadow, reason="")

    @rule(
        project=projects,
        limits=st.sampled_from(((0, 0, 0), (6, 0, 0), (0, 9, 0), (6, 7, 0), (0, 0, 400), (80, 90, 500), (0, -1, 0))),
        starts_in_ms=st.sampled_from((None, None, 0, 1, 60_000, HOUR_MS, DAY_MS)),
        lasts_ms=st.sampled_from((1, 60_000, HOUR_MS, HOUR_MS, DAY_MS, 300 * DAY_MS, 366 * DAY_MS, 0)),
    )
    def raise_limits(self, project: str, limits: tuple[int, int, int], starts_in_ms: int | None, lasts_ms: int) -> None:
        self.step()
        starts_at_ms = 0 if starts_in_ms is None else self.at_ms + starts_in_ms
        requests, burst, credits = limits
        self.send(
            RaiseLimits,
            project,
            limits=Limits(requests, burst, credits * CREDIT),
            starts_at_ms=starts_at_ms,
            ends_at_ms=max(self.at_ms, starts_at_ms) + lasts_ms,
            reason="launch",
        )

    @precondition(lambda self: self.raises)
    @rule(number=numbers)
    def end_raise(self, number: int) -> None:
        self.step()
        project, raise_id = pick(self.raises[-3:], number)
        self.send(EndRaise, project, raise_id=raise_id)

    # Credits.

    @rule(project=projects, environment=environments, usd=st.sampled_from((20, 20, 20, 20, 100, 7)))
    def top_up(self, project: str, environment: str, usd: int) -> None:
        self.step()
        self.send(TopUp, project, environment=environment, bundle_usd=usd, reference="r")

    @precondition(lambda self: any(grant.kind == "top_up" for grant in self.model.all_grants()))
    @rule(number=numbers)
    def refund(self, number: int) -> None:
        self.step()
        bundles = [
            (name, grant.id)
            for name, known in self.model.projects.items()
            for grant in known.grants
            if grant.kind == "top_up"
        ]
        project, grant_id = pick([*bundles[-4:], ("a", "top_up-999999-0")], number)
        self.send(RefundTopUp, project, grant_id=grant_id, reason="")

    @rule(
        project=projects,
        what=st.sampled_from(("on", "on", *["paid"] * 6, "failed", "failed", "paid again", "off")),
        threshold=st.sampled_from((100_000, 100_000, 5_000, 200, 100_001)),
        usd=st.sampled_from((20, 20, 20, 20, 20, 100, 100, 7)),
        bundles=st.sampled_from((*[1] * 8, 2, 100, 0)),
    )
    def recharge(self, project: str, what: str, threshold: int, usd: int, bundles: int) -> None:
        """Its terms, or what became of a purchase: one that is under way, where there is one, or one that has ended."""
        self.step()
        pending = self.pending()
        if what == "paid again" or (pending and what in ("paid", "failed")):
            ended = [each for each in self.recharges if each not in pending]
            project, recharge_id = [("a", "recharge-0-0-0"), *ended, *pending][
                -1 if what != "paid again" else len(ended)
            ]
            outcome = {"is_paid": what != "failed", "reference": "r", "detail": "no"}
            self.send(SettleRecharge, project, recharge_id=recharge_id, **outcome)
        else:
            terms = {"threshold": threshold * CREDIT, "bundle_usd": usd, "cap_cents": usd * 100 * bundles}
            self.send(SetAutoRecharge, project, is_on=what != "off", **terms, payment_method="card")

    @precondition(lambda self: self.charged)
    @rule(
        number=numbers,
        kind=st.sampled_from(
            ("back", "back", "back", "anew", "anew", "same", "same", "late", "late", "refused", "held", "nothing")
        ),
        operation=st.sampled_from(OPERATIONS),
        environment=environments,
        is_fresh=often,
    )
    def correct(self, number: int, kind: str, operation: str, environment: str, is_fresh: bool) -> None:
        """Give an event's charges back; charge it anew, or the same again; or take one that came too late, that was
        refused, or that is held."""
        self.step()
        event = pick(list(self.charged)[-12:], number)
        project, source, event_id = event
        new = self.use(project, operation, number, environment, is_new=True)
        refused_offset = -1
        if kind == "late":
            source, event_id = new.source, new.event_id
        held_now = [hold.usage for name, known in self.model.projects.items() for hold in known.holds]
        if kind == "held" and held_now:
            held_use = pick(held_now, number)
            event = project, source, event_id = held_use.project, held_use.source, held_use.event_id
        if kind == "refused" and self.refused:
            event = project, source, event_id = pick(list(self.refused)[-12:], number)
            refused_offset = self.refused[event] if is_fresh else -1
        if kind == "same":
            new = next((each for each in self.uses if (each.project, each.event_id) == (project, event_id)), new)
        self.send(
            Correct,
            project,
            source=source,
            event_id=event_id,
            sequence=self.corrections[event] if is_fresh else max(0, self.corrections[event] - 1),
            given_back=self.to_give_back(event) if kind in ("back", "anew", "same") else [],
            usage=replace(new, project=project, source=source, event_id=event_id)
            if kind in ("anew", "same", "late", "refused", "held")
            else None,
            metadata="",
            refused_offset=refused_offset,
        )

    # What a project is.

    @rule(project=projects, plan=st.sampled_from(("free", "hobby", "build", "scale", "enterprise", "gold")), n=numbers)
    def change_plan(self, project: str, plan: str, n: int) -> None:
        self.step()
        self.send(ChangePlan, project, plan=plan, contract_allowance=n * 100 * CREDIT, contract_cents=n * 100)

    @rule(project=projects, is_likely=often)
    def close_or_reopen(self, project: str, is_likely: bool) -> None:
        self.step()
        known = self.model.projects.get(project)
        is_closed = known is not None and known.closed_ms is not None
        if is_closed == is_likely:
            self.send(ReopenProject, project)
        else:
            self.send(CloseProject, project, reason="")

    @rule(
        project=st.sampled_from((*PROJECTS * 3, "nobody")),
        what=st.sampled_from(
            ("create", "badge", "badge", *["standing"] * 4, *["join"] * 4, "billing account", "billing account")
        ),
        number=numbers,
        is_so=often,
    )
    def set_something(self, project: str, what: str, number: int, is_so: bool) -> None:
        self.step()
        account = f"{BILLING_PREFIX}{number % 3}"
        if what == "create":
            plan = pick(("free", "scale", "gold"), number)
            name = project if is_so else f"late{number}"
            terms = {"plan": plan, "contract_allowance": 0, "billing_account": account}
            self.send(CreateProject, name, name="n", **terms)
        elif what == "badge":
            self.send(SetBadge, project, is_off=is_so)
        elif what == "standing":
            self.send(SetStanding, project, is_good=is_so, reason="")
        elif what == "join":
            self.send(SetBillingAccount, project, billing_account=account)
        else:
            self.send(OpenBillingAccount, account, name="n", email="e", is_change=is_so)

    @rule(project=projects, key=st.sampled_from("xyz"), is_new=st.booleans(), environment=environments)
    def set_key(self, project: str, key: str, is_new: bool, environment: str) -> None:
        self.step()
        if is_new:
            self.send(CreateKey, project, key_id=key, key_hash=b"", environment=environment, scopes=[])
        else:
            self.send(RevokeKey, project, key_id=key)

    @rule(project=projects, operation=st.sampled_from(ITEMS), quantity=st.sampled_from((0, 1, 3, 50, 2_000, -1)))
    def set_item(self, project: str, operation: str, quantity: int) -> None:
        self.step()
        self.send(SetItem, project, operation=operation, quantity=quantity)

    @rule(
        days=st.sampled_from((0, 0, 1, 29, 30, 31, 45)),
        announced_days_ago=st.sampled_from((0, 0, 0, 0, 3, -1)),
        change=st.sampled_from(
            ("dearer", "cheaper", "same", "gone", "back", "gated", "free", "again", "renamed", "empty")
        ),
    )
    def publish(self, days: int, announced_days_ago: int, change: str) -> None:
        self.step()
        last = self.model.books[-1]
        rates, hourly, gates = dict(last.rates), dict(last.hourly), dict(last.plan_required)
        if len(self.model.books) == 1:
            hourly = {"domain": 1_000, "account": 33_333, "storage": 7}
        announced_at_ms = self.at_ms - announced_days_ago * DAY_MS
        book = PriceBook(f"v{self.offset}", self.at_ms + days * DAY_MS, rates, gates, hourly, announced_at_ms, "")
        if change == "again":
            book = last
        elif change == "renamed":
            book = PriceBook(last.version, book.effective_at_ms, rates, gates, hourly, announced_at_ms, "")
        elif change == "gone":
            rates.pop("blog_post", None)
            hourly.pop("storage", None)
        elif change == "back":
            rates["blog_post"] = rates.get("blog_post", (61 - days) * CREDIT)
            hourly["storage"] = hourly.get("storage", days)
        elif change == "gated":
            gates["image"] = gates["social_post.video"] = "hobby"
        elif change == "free":
            rates["image"] = 0
            hourly["domain"] = 0
        elif change == "empty":
            rates.clear()
            gates.clear()
        elif change != "same":
            factor = 3 if change == "dearer" else 1
            rates |= {name: rate * factor // 2 for name, rate in rates.items()}
            hourly |= {name: rate * factor // 2 for name, rate in hourly.items()}
        self.send(PublishPrices, PRICES_ID, book=book)

    # What goes wrong.

    @precondition(lambda self: self.asked)
    @rule(number=numbers, is_the_same=often)
    def ask_again(self, number: int, is_the_same: bool) -> None:
        """An answer that never came is asked for again; or a key is used for something else."""
        self.step()
        command = pick(self.asked[-40:], number)
        self.note(type(command).__name__, "asked again" if is_the_same else "key reused")
        if is_the_same:
            self.append(replace(command, correlation=self.correlation()))
        else:
            other = addressed(self.correlation(), command.idempotency_key)
            self.append(SetStanding(project=command.project, is_good=True, reason=f"{self.sent}", **other))

    @rule(size=st.sampled_from((1, 2, 3, 6, 40)))
    def commands_share_records(self, size: int) -> None:
        """So many of those that are sent at the same time do from now on."""
        self.step()
        self.end_record()
        self.record_size = size

    @rule(crash=st.sampled_from(("all lost", "index kept", "first kept", "last kept", "all kept")))
    def crash_at_the_next_batch(self, crash: str) -> None:
        """How much of what it wrote is there when it is delivered again."""
        self.step()
        self.crash = crash

    def teardown(self) -> None:
        self.end_record()
        self.flush()
        tally["examples"] += 1

    # How it is done.

    def step(self) -> None:
        tally["steps"] += 1

    def note(self, kind: str, code: str) -> None:
        tally[f"{kind}: {code or 'done'}"] += 1

    def send(self, kind: type[Any], project: str, **fields: Any) -> None:
        """A command, with a key mostly."""
        correlation, before = self.correlation(), len(self.model.lines)
        key = f"k{self.sent}" if self.sent % 4 and kind is not CountRequest else ""
        actor = "k2" if self.sent % 3 else ""
        command = kind(project=project, **fields, **addressed(correlation, key), actor=actor)
        self.append(command)
        answer = self.model.answers[correlation]
        is_duplicate = any(line.kind == "duplicate" for line in self.model.lines[before:])
        is_hold = fields.get("hold_seconds")
        self.note("Hold" if is_hold else kind.__name__, "duplicate" if is_duplicate else answer.code)
        if kind is RaiseLimits:
            self.raises.append((project, answer.entry_id))
        if key:
            self.asked.append(command)
        if isinstance(command, Correct) and not answer.code:
            self.corrections[project, command.source, command.event_id] += 1

    def correlation(self) -> str:
        self.sent += 1
        return f"c{self.sent}"

    def append(self, body: Any) -> None:
        """The next record, or the next command of one. The model is told at once, so that the next one can build on
        it."""
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
            if line.kind in ("charge", "correction") and line.event_id and line.amount:
                self.charged[line.project, line.source, line.event_id].append(line)
            if line.kind == "refusal" and line.event_id:
                self.refused[line.project, line.source, line.event_id] = line.offset
            if line.reason == "requested":
                self.recharges.append((line.project, f"recharge-0-{line.offset}-{line.index}"))
            if line.kind in ("grant", "correction"):
                self.note_grants(line.project)
        self.check_that_nothing_is_lost()

    def note_grants(self, project: str) -> None:
        for each in self.model.projects[project].grants:
            if each.id not in self.grants:
                times = (each.granted_at_ms, each.expires_at_ms or 0)
                self.grants[each.id] = Grant(each.id, each.kind, each.environment, each.given, 0, *times)

    def end_record(self, body: Envelope | Tick | Commands | AnyCommand | None = None) -> None:
        """The record is full: it waits with those of its batch."""
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
        """After each step, of what the model states; `compare` holds the core to that, once a batch."""
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
            names = sorted(effects.accounts)
            kept = {"first kept": names[:1], "last kept": names[-1:], "all kept": names}.get(crash, [])
            self.accounts |= {name: encode_account(effects.accounts[name]) for name in kept}
            repeat = self.fold(batch)
            assert repeat.facts == [fact for fact in facts if fact.project not in kept]
            assert repeat.dead_letters == effects.dead_letters
            assert encoded(repeat) == encoded(effects)
            # What a kept account has no room for any more was in the index before that account was written.
            if kept and len(effects.replies) > REPLIES_KEPT:
                assert repeat.seen.items() <= effects.seen.items()
            else:
                assert repeat.seen == effects.seen
            told = {command.correlation: (command, reply) for command, reply in effects.replies}
            again = {command.correlation: (command, reply) for command, reply in repeat.replies}
            assert all(told[correlation] == answered for correlation, answered in again.items())
            # What is no longer kept can't be told again.
            assert {told[correlation][0].project for correlation in told.keys() - again.keys()} <= set(kept)
        self.seen |= effects.seen
        self.accounts |= encoded(effects)
        self.compare(effects)

    def fold(self, batch: list[IntakeItem]) -> Effects:
        accounts = {name: decode_account(value) for name, value in self.accounts.items()}
        return fold(0, batch, accounts, dict(self.seen), "intake")

    def compare(self, effects: Effects) -> None:
        """The facts, the replies and the accounts are the model's; the sums of the facts are what the accounts hold."""
        lines = [line_of(fact) for fact in effects.facts]
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
        assert (account.is_in_good_standing, account.badge_off) == (known.is_in_good_standing, known.badge_off)
        assert account.billing_account == known.billing_account
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

    # What callers know.

    def use(self, project: str, operation: str, number: int, environment: str, is_new: bool = False) -> Usage:
        """A new event, or now and then one that was sent before. `number` decides what is left open."""
        before = [each for each in self.uses[-20:] if each.project == project]
        if before and number % 7 == 6 and not is_new:
            return pick(before, number)
        surcharge = {"website": "social_post.image", "chat.message": "social_post.video"}.get(operation, "")
        age_ms = pick((0, 0, 0, 1_000, HOUR_MS, DAY_MS, 25 * DAY_MS), number)
        event = usage(
            f"e{self.offset}-{len(self.uses)}",
            project,
            operation,
            environment=environment,
            surcharge=surcharge if number % 3 == 0 else "",
            quantity=pick((1, 1, 2, 1, 3, 10, 100), number),
            occurred_at_ms=self.at_ms - age_ms,
            job_id=pick(("", f"j{number % 11}", f"j{self.offset}", f"j{self.offset}"), number),
            key_id=pick(("", "k1"), number),
        )
        self.uses.append(event)
        return event

    def has_holds(self) -> bool:
        return any(known.holds for known in self.model.projects.values())

    def pending(self) -> list[tuple[str, str]]:
        """(project, id) of the purchases under way."""
        return [
            (name, known.recharge.pending[0])
            for name, known in self.model.projects.items()
            if known.recharge is not None and known.recharge.pending
        ]

    def open_hold(self, number: int) -> tuple[str, str, str, Hold]:
        """(project, id, environment, hold) of one that is open; the id is another's now and then."""
        open_ones = [(name, hold) for name, known in self.model.projects.items() for hold in known.holds]
        project, hold = pick(open_ones, number)
        hold_id = "0-999999-0" if number % 6 == 5 else hold.id
        return project, hold_id, pick(("", "", hold.usage.environment, "production"), number), hold

    def to_give_back(self, event: tuple[str, str, str]) -> list[GivenBack]:
        """What history says that the event was charged on each grant, and not given back yet."""
        left: Counter[str] = Counter()
        told: dict[str, Line] = {}
        for line in self.charged[event]:
            left[line.grant_id] -= line.amount
            told[line.grant_id] = line
        return [
            GivenBack(self.grants[grant_id], told[grant_id].operation, 1, amount, told[grant_id].price_version)
            for grant_id, amount in left.items()
            if amount > 0
        ]


def pick(values: Sequence[T], number: int) -> T:
    return values[number % len(values)]


def encoded(effects: Effects) -> dict[str, bytes]:
    return {name: encode_account(account) for name, account in effects.accounts.items()}


def line_of(fact: Fact) -> Line:
    return Line(*(getattr(fact, name) for name in Line._fields))


def count(sums: Counter[str], line: Line) -> None:
    """Where the credits of an entry went, or came from."""
    sums["held"] += line.held
    if line.kind in ("grant", "correction") and line.amount > 0:
        sums["granted" if line.kind == "grant" else "given back"] += line.amount
    elif line.amount:
        what = {"charge": "spent", "correction": "spent", "refund": "refunded", "expiry": "expired"}[line.kind]
        sums[what] -= line.amount


@pytest.mark.seeded
@pytest.mark.timeout(900)
def test_any_commands_in_any_order_do_what_the_model_says(record_property: Callable[[str, object], None]) -> None:
    tally.clear()
    run_state_machine_as_test(
        seed(BASE)(LedgerMachine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS_AN_EXAMPLE,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    report = [f"{times:8} {what}" for what, times in sorted(tally.items())]
    print("\n".join(report))
    record_property("ledger_steps", tally["steps"])
    assert tally["steps"] >= STEPS_MIN
    # In fewer steps what is rare may not come about at all.
    each_min = STEPS_MIN // 2000 if STEPS_MIN >= LEDGER_STEPS_DEEP else 0
    done, refused = Counter[str](), Counter[str]()
    for what, times in tally.items():
        kind, _, outcome = what.partition(": ")
        if outcome == "done":
            done[kind] += times
        elif outcome not in ("asked again", "key reused"):
            refused[kind] += times
    for kind in COMMANDS:
        assert done[kind] >= each_min, f"{kind} was done {done[kind]} times only"
        assert refused[kind] >= each_min or kind in NEVER_REFUSED, f"{kind} was refused {refused[kind]} times only"
    assert tally["records of several commands"] >= 10 * each_min
    for what in STATED:
        assert tally[f"stated: {what}"] >= each_min, f"{what} came about {tally[f'stated: {what}']} times only"
