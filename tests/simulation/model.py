"""The reference: what the records of one intake partition mean, told one after another, in plain Python.

It shares no code with the core. It knows nothing of batches, offsets applied, changelogs or redelivery: every record
comes to it once, in order. The first price book and the shapes of records are the product's; the rules are written
here again.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec

from schemas.accounts import Limits
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
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.replies import Reply

CREDIT = 1_000_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
BUNDLES = {20: 4_000 * CREDIT, 100: 20_000 * CREDIT, 500: 100_000 * CREDIT}
# From the lowest to the highest: what each grants, in credits a month, and costs, in dollars a month.
PLANS = {"free": (250, 0), "hobby": (5_000, 25), "build": (25_000, 119), "scale": (100_000, 399), "enterprise": (0, 0)}
RANK = {plan: rank for rank, plan in enumerate(PLANS)}
BURN_DOWN = ("allowance", "promotional", "top_up")
WEEK_SECONDS = 7 * 86_400

MINUTE_MS = 60_000
RAISES_MAX = 20
RAISE_DAYS_MAX = 366
LIMITS_MAX = (1_000_000, 2_000_000, 1_000_000_000 * CREDIT)
STATUS = {
    "": 200,
    "out_of_credits": 402,
    "plan_required": 402,
    "project_closed": 403,
    "unknown_project": 404,
    "unknown_grant": 404,
    "unknown_hold": 404,
    "unknown_key": 404,
    "unknown_raise": 404,
    "over_cost_ceiling": 403,
    "unknown_operation": 422,
    "rate_limited": 429,
    "invalid_request": 422,
}


class Line(NamedTuple):
    """A fact, as far as the model tells it: all but its metadata."""

    offset: int
    index: int
    kind: str
    project: str
    environment: str
    operation: str
    quantity: int
    amount: int
    balance: int
    grant_id: str
    reason: str
    price_version: str
    source: str
    event_id: str
    job_id: str
    key_id: str
    occurred_at_ms: int
    booked_at_ms: int
    held: int
    cents: int
    billing_account: str


class Answer(NamedTuple):
    """A reply, as far as the model tells it."""

    status: int
    code: str
    amount: int
    available: int
    entry_id: str
    hold_id: str = ""
    # Of the request window: its limit, what remains of it, when it is full again, when to try again.
    rate: tuple[int, int, int, int] | None = None
    shadow: str = ""


def answer_of(reply: Reply) -> Answer:
    """A reply in the model's words."""
    rate = reply.rate
    return Answer(
        reply.status,
        reply.code,
        reply.amount,
        reply.available,
        reply.entry_id,
        reply.hold_id,
        rate and (rate.limit, rate.remaining, rate.reset_at_ms, rate.retry_at_ms),
        reply.shadow,
    )


class Refused(Exception):
    """A command that changes nothing; its code."""


class Grant:
    """Credits of one gift: what is left of it, and how much of that is held. `expires_at_ms` may be None."""

    def __init__(
        self, grant_id: str, kind: str, environment: str, given: int, granted_at_ms: int, expires_at_ms: int | None
    ) -> None:
        self.id = grant_id
        self.kind = kind
        self.environment = environment
        self.given = given
        self.left = given
        self.held = 0
        self.granted_at_ms = granted_at_ms
        self.expires_at_ms = expires_at_ms

    def has_expired(self, at_ms: int) -> bool:
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms


class Hold:
    """Credits kept for a job. `kept` has (grant, microcredits), `lines` (operation, rate)."""

    def __init__(
        self, hold_id: str, usage: Usage, lines: list[tuple[str, int]], version: str, expires_at_ms: int
    ) -> None:
        self.id = hold_id
        self.usage = usage
        self.lines = lines
        self.version = version
        self.kept: list[tuple[Grant, int]] = []
        self.expires_at_ms = expires_at_ms

    def total(self) -> int:
        return sum(amount for _, amount in self.kept)


class Ceilings(NamedTuple):
    """Requests a minute, how many at once after a rest, and microcredits a minute."""

    requests: int
    burst: int
    cost: int

    def under(self, limits: Limits) -> Ceilings:
        """These, but for what other limits say."""
        requests = limits.requests_per_minute or self.requests
        burst = max(limits.burst or self.burst, requests)
        return Ceilings(requests, burst, limits.cost_ceiling or self.cost)


LIMITS = {
    "free": Ceilings(30, 60, 300 * CREDIT),
    "hobby": Ceilings(60, 120, 300 * CREDIT),
    "build": Ceilings(240, 480, 400 * CREDIT),
    "scale": Ceilings(1000, 2000, 1600 * CREDIT),
    "enterprise": Ceilings(1000, 2000, 1600 * CREDIT),
}


class Window:
    """The last minute: when each request came, what each cost and when, and how many burst tokens are spent."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.requests: list[int] = []
        self.costs: list[tuple[int, int]] = []
        self.spent = Fraction(0)

    def move_to(self, now_ms: int, limits: Ceilings) -> None:
        """Time passes under these limits. Tokens come back from when there are fewer requests than the limit."""
        self.spent = min(self.spent, Fraction(limits.burst - limits.requests))
        is_full = len(self.requests) >= limits.requests
        below_ms = self.requests[-limits.requests] + MINUTE_MS if is_full else self.at_ms
        rested_ms = now_ms - max(below_ms, self.at_ms)
        if rested_ms > 0 and self.spent:
            self.spent = max(Fraction(0), self.spent - Fraction(rested_ms * limits.requests, MINUTE_MS))
        self.at_ms = now_ms
        self.requests = [at for at in self.requests if at + MINUTE_MS > now_ms]
        self.costs = [(at, cost) for at, cost in self.costs if at + MINUTE_MS > now_ms]

    def wait_for_request(self, limits: Ceilings) -> int:
        """When a request would pass; 0 is now."""
        if len(self.requests) < limits.requests or self.spent + 1 <= limits.burst - limits.requests:
            return 0
        return self.requests[-limits.requests] + MINUTE_MS

    def wait_for_cost(self, limits: Ceilings, cost: int) -> int:
        """When that much could be spent; 0 is now, or never: what costs nothing is not stopped."""
        if not cost or cost > limits.cost:
            return 0
        for gone, at in enumerate([0, *(at + MINUTE_MS for at, _ in self.costs)]):
            if sum(each for _, each in self.costs[gone:]) + cost <= limits.cost:
                return at
        raise AssertionError("an empty window has room for all that is under its ceiling")

    def take(self, limits: Ceilings) -> bool:
        """Count a request, if it passes."""
        if self.wait_for_request(limits):
            return False
        if len(self.requests) >= limits.requests:
            self.spent += 1
        self.requests = [self._as_of_now(at) for at in self.requests] + [self.at_ms]
        return True

    def add_cost(self, cost: int) -> None:
        """Of a request that passed."""
        if cost:
            self.costs = [(self._as_of_now(at), each) for at, each in self.costs] + [(self.at_ms, cost)]

    def _as_of_now(self, at_ms: int) -> int:
        """A tenth of a second is as old as the last that came in it."""
        return self.at_ms if at_ms // 100 == self.at_ms // 100 else at_ms

    def told(self, limits: Ceilings, wait_until_ms: int) -> tuple[int, int, int, int]:
        """What a caller is told of it."""
        remaining = max(0, limits.requests - len(self.requests))
        full_at_ms = max((at + MINUTE_MS for at in self.requests), default=self.at_ms)
        return limits.requests, remaining, full_at_ms, wait_until_ms


class Raise:
    """Higher limits for a while."""

    def __init__(self, raise_id: str, limits: Limits, starts_ms: int, ends_ms: int) -> None:
        self.id = raise_id
        self.limits = limits
        self.starts_ms = starts_ms
        self.ends_ms = ends_ms
        self.is_on = False


class Bill:
    """Hours of a recurring item at one price, in one month: `month_end_ms` is None while it runs."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.hours = 0
        self.owed = 0
        self.month_end_ms: int | None = None


class Item:
    """A recurring item."""

    def __init__(self, from_ms: int) -> None:
        self.quantity = 0
        self.counted_to_ms = from_ms
        self.bills: list[Bill] = []


class Recharge:
    """Auto-recharge. `spent` counts cents by month, `pending` is (id, cents, month)."""

    def __init__(self) -> None:
        self.is_on = False
        self.threshold = self.bundle_usd = self.cap_cents = 0
        self.spent: dict[str, int] = {}
        self.pending: tuple[str, int, str] | None = None
        self.failures = 0
        self.paused_until_ms = 0
        self.capped: set[str] = set()


class Project:
    """One account. `answers` are the newest ones kept: (key or correlation, what was asked, answer)."""

    def __init__(self, name: str, at_ms: int, plan: str = "free", credits: int = 0, cents: int = 0) -> None:
        self.name = name
        self.plan = plan
        self.allowance = credits
        self.cents = cents
        self.next_plan: tuple[str, int, int] | None = None
        self.closed_ms: int | None = None
        self.signed_up_at_ms = at_ms
        self.renewals = 0
        self.clock_ms = at_ms
        self.months_begun: set[int] = set()
        self.window: Window | None = None
        self.contract: Limits | None = None
        self.raises: list[Raise] = []
        self.trial: tuple[Limits, Window] | None = None
        self.grants: list[Grant] = []
        self.holds: list[Hold] = []
        self.items: dict[str, Item] = {}
        self.month_end_ms: int | None = None
        self.recharge: Recharge | None = None
        self.is_in_good_standing = True
        self.badge_off = False
        self.billing_account = ""
        self.keys: dict[str, str] = {}
        self.answers: list[tuple[str, Any, Answer]] = []

    @property
    def is_project(self) -> bool:
        """Not a billing account, nor the price list."""
        return ":" not in self.name

    def balance(self, environment: str) -> int:
        return sum(grant.left for grant in self.grants if grant.environment == environment)

    def available(self, environment: str) -> int:
        return sum(grant.left - grant.held for grant in self.grants if grant.environment == environment)

    def renews_at_ms(self) -> int:
        return _months_after(self.signed_up_at_ms, self.renewals + 1)

    def limits(self) -> Ceilings:
        """Those that hold now: of raises the highest."""
        plan = LIMITS[self.plan]
        held = plan.under(self.contract) if self.contract is not None else plan
        raised = [each.limits for each in self.raises if each.is_on]
        requests = max([held.requests, *(each.requests_per_minute for each in raised)])
        burst = max([held.burst, requests, *(each.burst for each in raised)])
        return Ceilings(requests, burst, max([held.cost, *(each.cost_ceiling for each in raised)]))

    def next_due(self) -> tuple[int, int, int]:
        """What time brings next: (when, which of the four kinds, which hold or raise)."""
        due = [(hold.expires_at_ms, 0, number) for number, hold in enumerate(self.holds)]
        if self.month_end_ms is not None:
            due.append((self.month_end_ms, 1, 0))
        due += [(each.ends_ms if each.is_on else each.starts_ms, 2, number) for number, each in enumerate(self.raises)]
        return min([*due, (self.renews_at_ms(), 3, 0)])

    def due_at_ms(self) -> int:
        """When something happens by itself next."""
        return self.next_due()[0]


class Model:
    """One partition. `lines` are its facts, `answers` those of each request, `dead` its dead letters."""

    def __init__(self, partition: int, replies_kept: int, dedup_days: int) -> None:
        self.partition = partition
        self.replies_kept = replies_kept
        self.dedup_days = dedup_days
        self.projects: dict[str, Project] = {}
        self.books: list[PriceBook] = [FIRST_PRICE_BOOK]
        self.lines: list[Line] = []
        self.answers: dict[str, Answer] = {}
        self.dead: set[tuple[int, int, str]] = set()
        self._first_day: dict[Any, int] = {}
        # By event that came as usage: the record that refused it, or None.
        self._refused_at: dict[Any, int | None] = {}
        self._offset = 0
        self._index = 0
        self._at_ms = 0
        self._actor = ""

    def all_grants(self) -> list[Grant]:
        """Of all its projects, as far as anything is left of them."""
        return [grant for project in self.projects.values() for grant in project.grants]

    def apply(
        self, offset: int, at_ms: int, body: Envelope | Tick | Commands | AnyCommand | None, slot: int = 0
    ) -> None:
        """The next record, or the next command of this one, at its place in it; None is one that can't be read."""
        self._offset, self._at_ms, self._actor = offset, at_ms, ""
        if body is None:
            self.dead.add((offset, 0, "unreadable_record"))
        elif isinstance(body, Envelope):
            self._envelope(body)
        elif isinstance(body, Tick):
            for slot, name in enumerate(body.projects):
                project = self.projects.get(name)
                if project is not None and project.is_project and self._now(project) >= project.due_at_ms():
                    self._index = slot * 4096
                    self._settle(project)
                    self._touch(project)
        elif isinstance(body, Commands):
            for slot, command in enumerate(body.commands):
                self.apply(offset, at_ms, command, slot)
        else:
            self._index = slot * 4096
            self.answers[body.correlation] = self._command(body)

    def _envelope(self, envelope: Envelope) -> None:
        touched = set()
        for slot, usage in enumerate(envelope.events):
            project = self.projects.get(usage.project)
            if project is None:
                self.dead.add((self._offset, slot, "unknown_project"))
                continue
            touched.add(project)
            self._index = slot * 4096
            self._settle(project)
            event = ("event", usage.project, usage.source, usage.event_id)
            if not self._is_seen(event) and _is_held(project, usage):
                self._mark(event)
            if self._is_seen(event):
                self._state_use(project, "duplicate", usage)
            else:
                self._mark(event)
                code, book, lines = self._priced(project, usage)
                if not code:
                    self._charge_lines(project, usage, book, lines)
                self._refused_at[event] = self._offset if code else None
        for project in touched:
            self._touch(project)

    def _touch(self, project: Project) -> None:
        project.clock_ms = self._now(project)
        project.grants = [grant for grant in project.grants if grant.left or not _is_over(grant, project.clock_ms)]

    # Commands.

    def _command(self, command: AnyCommand) -> Answer:
        project = self.projects.get(command.project)
        if project is None:
            return self._first(command)
        name = command.idempotency_key or command.correlation
        for kept, asked, answer in project.answers:
            if kept == name:
                return answer if asked == _asked(command) else Answer(409, "idempotency_key_reused", 0, 0, "")
        if command.idempotency_key and self._is_seen(("key", project.name, name)):
            return Answer(409, "idempotency_reply_expired", 0, 0, "")
        if project.is_project:
            self._settle(project)
        self._actor = command.actor
        try:
            answer = self._decide(project, command)
        except Refused as refused:
            code = str(refused)
            answer = Answer(STATUS.get(code, 409), code, 0, 0, "")
        return self._answered(project, command, answer)

    def _first(self, command: AnyCommand) -> Answer:
        """To what is not there yet."""
        self._actor, index = command.actor, self._index
        if isinstance(command, CreateProject):
            if command.plan not in PLANS:
                return Answer(422, "invalid_request", 0, 0, "")
            allowance, cents = _terms(command)
            project = Project(command.project, self._at_ms, command.plan, allowance, cents)
            project.billing_account = command.billing_account
            self._state(project, "project", reason=command.plan)
            self._begin_month(project, self._at_ms)
            answer = Answer(201, "", allowance, allowance, self._entry_id(index))
        elif isinstance(command, OpenBillingAccount):
            if command.is_change:
                return Answer(404, "unknown_billing_account", 0, 0, "")
            project = Project(command.project, self._at_ms)
            self._state(project, "billing_account", reason="opened")
            answer = Answer(201, "", 0, 0, self._entry_id(index))
        elif isinstance(command, PublishPrices):
            if code := self._why_not(command.book, command.after):
                return Answer(STATUS.get(code, 409), code, 0, 0, "")
            project = Project(command.project, self._at_ms)
            answer = self._publish(project, command)
        else:
            return Answer(404, "unknown_project", 0, 0, "")
        self.projects[command.project] = project
        return self._answered(project, command, answer)

    def _answered(self, project: Project, command: AnyCommand, answer: Answer) -> Answer:
        # A request that was stopped may be sent again under its key.
        key = "" if answer.code == "rate_limited" else command.idempotency_key
        if key:
            self._mark(("key", project.name, key))
        # A hold decides nothing before it is captured.
        if answer.status < 300 and not (isinstance(command, Admit) and command.hold_seconds):
            for claim in _claims(command):
                self._mark(claim)
        # To ask again is another request, where one is counted.
        if not isinstance(command, CountRequest):
            project.answers.append((key or command.correlation, _asked(command), answer))
        del project.answers[: -self.replies_kept]
        self._touch(project)
        return answer

    def _decide(self, project: Project, command: AnyCommand) -> Answer:
        match command:
            case CreateProject():
                raise Refused("project_exists")
            case CloseProject():
                return self._close(project)
            case ReopenProject():
                return self._reopen(project)
            case TopUp():
                return self._top_up(project, command)
            case RefundTopUp():
                return self._refund(project, command.grant_id)
            case ChangePlan():
                return self._change_plan(project, command)
            case SetStanding():
                project.is_in_good_standing = command.is_good
                return self._done(project, "standing", reason="good" if command.is_good else "bad")
            case SetBadge():
                if command.is_off and project.plan == "free":
                    raise Refused("plan_required")
                project.badge_off = command.is_off
                return self._done(project, "project", reason="badge_off" if command.is_off else "badge_on")
            case SetBillingAccount():
                project.billing_account = command.billing_account
                return self._done(project, "billing_account", reason="joined")
            case OpenBillingAccount():
                if not command.is_change:
                    raise Refused("billing_account_exists")
                return self._done(project, "billing_account", reason="changed")
            case CreateKey() | RevokeKey():
                return self._key(project, command)
            case Admit():
                return self._admit(project, command)
            case CountRequest():
                return self._count_request(project, command)
            case SetLimits():
                return self._set_limits(project, command)
            case RaiseLimits():
                return self._raise_limits(project, command)
            case EndRaise():
                for each in project.raises:
                    if each.id == command.raise_id:
                        index = self._index
                        self._end_raise(project, each, self._now(project))
                        return self._answer(project, "production", 0, index)
                raise Refused("unknown_raise")
            case CaptureHold():
                return self._capture(project, command)
            case ReleaseHold():
                hold = self._open_hold(project, command)
                total, index = hold.total(), self._index
                self._let_go(project, hold, "released", self._now(project))
                return self._answer(project, hold.usage.environment, total, index)
            case ExtendHold():
                hold = self._open_hold(project, command)
                if not 1 <= command.seconds <= WEEK_SECONDS:
                    raise Refused("invalid_request")
                hold.expires_at_ms = self._now(project) + command.seconds * 1000
                index = self._index
                self._state_hold(project, hold, reason="extended")
                return self._answer(project, hold.usage.environment, 0, index)
            case SetItem():
                return self._set_item(project, command)
            case SetAutoRecharge():
                return self._set_recharge(project, command)
            case SettleRecharge():
                return self._settle_recharge(project, command)
            case Correct():
                return self._correct(project, command)
            case PublishPrices():
                if command.book in self.books[1:]:
                    return Answer(200, "", 0, 0, "")
                if code := self._why_not(command.book, command.after):
                    raise Refused(code)
                return self._publish(project, command)
        raise AssertionError(f"the model does not know {command}")

    def _done(self, project: Project, kind: str, environment: str = "", **fields: Any) -> Answer:
        """One fact, and that is all."""
        index = self._index
        self._state(project, kind, environment=environment, **fields)
        return self._answer(project, environment or "production", 0, index)

    def _answer(self, project: Project, environment: str, amount: int, index: int) -> Answer:
        return Answer(200, "", amount, project.available(environment), self._entry_id(index))

    # Projects.

    def _close(self, project: Project) -> Answer:
        if project.closed_ms is not None:
            raise Refused("project_closed")
        project.closed_ms = self._now(project)
        for operation, item in project.items.items():
            self._count_hours(operation, item, project.closed_ms)
            item.quantity = 0
        _drop_items(project)
        return self._done(project, "project", reason="closed")

    def _reopen(self, project: Project) -> Answer:
        if project.closed_ms is None:
            raise Refused("project_open")
        project.closed_ms = None
        index, amount, now_ms = self._index, 0, self._now(project)
        self._state(project, "project", reason="reopened")
        if project.renewals not in project.months_begun:
            amount = project.allowance
            self._begin_month(project, now_ms)
        return self._answer(project, "production", amount, index)

    def _change_plan(self, project: Project, command: ChangePlan) -> Answer:
        if project.closed_ms is not None:
            raise Refused("project_closed")
        if command.plan not in PLANS:
            raise Refused("invalid_request")
        index, now_ms = self._index, self._now(project)
        allowance, cents = _terms(command)
        more, dearer = allowance - project.allowance, cents - project.cents
        if more < 0 or RANK[command.plan] < RANK[project.plan]:
            project.next_plan = (command.plan, allowance, cents)
            self._state(project, "plan", reason=command.plan, occurred_at_ms=project.renews_at_ms())
            return self._answer(project, "production", 0, index)
        self._limits_change(project, now_ms)
        project.plan, project.allowance, project.cents, project.next_plan = command.plan, allowance, cents, None
        self._state(project, "plan", reason=command.plan)
        if dearer > 0:
            self._state(project, "subscription", reason=command.plan, cents=dearer)
        if more:
            self._grant(project, "allowance", "production", more, now_ms, project.renews_at_ms())
        return self._answer(project, "production", more, index)

    def _key(self, project: Project, command: CreateKey | RevokeKey) -> Answer:
        key_id = command.key_id
        if isinstance(command, CreateKey):
            if key_id in project.keys:
                raise Refused("key_exists")
            if len(project.keys) == 100:
                raise Refused("invalid_request")
            project.keys[key_id] = command.environment
            return self._done(project, "key", command.environment, reason="created", key_id=key_id)
        if key_id not in project.keys:
            raise Refused("unknown_key")
        return self._done(project, "key", project.keys[key_id], reason="revoked", key_id=key_id)

    # What time brings.

    def _settle(self, project: Project) -> None:
        is_anything_due = project.due_at_ms() <= self._now(project)
        while project.due_at_ms() <= self._now(project):
            due_ms, what, which = project.next_due()
            if what == 0:
                self._let_go(project, project.holds[which], "expired", due_ms)
            elif what == 1:
                for operation, item in project.items.items():
                    self._count_hours(operation, item, due_ms)
                    for bill in item.bills:
                        bill.month_end_ms = bill.month_end_ms or due_ms
                project.month_end_ms = _month_end_after(due_ms)
                self._pay_bills(project, due_ms)
            elif what == 2 and project.raises[which].is_on:
                self._end_raise(project, project.raises[which], due_ms)
            elif what == 2:
                self._begin_raise(project, project.raises[which])
            else:
                self._renew(project, due_ms)
        if is_anything_due:
            self._recharge_if_low(project)

    def _renew(self, project: Project, due_ms: int) -> None:
        project.renewals += 1
        for grant in _in_burn_down_order(project.grants):
            free = grant.left - grant.held
            if free and grant.has_expired(due_ms):
                grant.left -= free
                self._state_expiry(project, grant, free, due_ms)
        if project.next_plan:
            self._limits_change(project, due_ms)
            (project.plan, project.allowance, project.cents), project.next_plan = project.next_plan, None
            self._state(project, "plan", reason=project.plan, occurred_at_ms=due_ms)
        if project.closed_ms is None:
            self._begin_month(project, due_ms)

    def _begin_month(self, project: Project, at_ms: int) -> None:
        project.months_begun.add(project.renewals)
        if project.cents:
            self._state(project, "subscription", reason=project.plan, occurred_at_ms=at_ms, cents=project.cents)
        if project.allowance:
            self._grant(project, "allowance", "production", project.allowance, at_ms, project.renews_at_ms())

    # Credits that come and go back.

    def _grant(
        self,
        project: Project,
        kind: str,
        environment: str,
        amount: int,
        at_ms: int,
        expires_at_ms: int | None,
        cents: int = 0,
    ) -> None:
        grant_id = f"{kind}-{self._offset}-{self._index}"
        project.grants.append(Grant(grant_id, kind, environment, amount, at_ms, expires_at_ms))
        self._state(
            project,
            "grant",
            environment=environment,
            amount=amount,
            grant_id=grant_id,
            reason=kind,
            occurred_at_ms=at_ms,
            cents=cents,
        )
        self._pay_bills(project, at_ms)

    def _top_up(self, project: Project, command: TopUp) -> Answer:
        if project.closed_ms is not None:
            raise Refused("project_closed")
        if command.bundle_usd not in BUNDLES:
            raise Refused("invalid_request")
        return self._buy(project, command.environment, command.bundle_usd)

    def _buy(self, project: Project, environment: str, usd: int) -> Answer:
        index = self._index
        self._grant(project, "top_up", environment, BUNDLES[usd], self._now(project), None, usd * 100)
        return self._answer(project, environment, BUNDLES[usd], index)

    def _refund(self, project: Project, grant_id: str) -> Answer:
        for grant in project.grants:
            if grant.id == grant_id and grant.kind == "top_up" and grant.left:
                is_old = self._now(project) > grant.granted_at_ms + 30 * DAY_MS
                is_used = grant.left < grant.given - grant.given // 4
                if is_old or is_used or grant.held or not project.is_in_good_standing:
                    raise Refused("not_refundable")
                project.grants.remove(grant)
                index = self._index
                self._state(
                    project,
                    "refund",
                    environment=grant.environment,
                    amount=-grant.left,
                    grant_id=grant.id,
                    reason="top_up",
                    cents=-(grant.left // (2 * CREDIT)),
                )
                return self._answer(project, grant.environment, grant.left, index)
        raise Refused("unknown_grant")

    # Uses.

    def _admit(self, project: Project, command: Admit) -> Answer:
        usage, index = command.usage, self._index
        if not 0 <= command.hold_seconds <= WEEK_SECONDS:
            raise Refused("invalid_request")
        limits, window = self._open_window(project)
        if not window.take(limits):
            return self._stopped(project, usage, limits, window)
        found = ""
        for hold in project.holds:
            of_job = command.hold_seconds and usage.job_id and _job(hold.usage) == _job(usage)
            if of_job or (hold.usage.source, hold.usage.event_id) == (usage.source, usage.event_id):
                found = hold.id
                break
        code, amount, wait_ms = "", 0, 0
        if found or any(self._is_seen(claim) for claim in _claims(command)):
            self._state_use(project, "duplicate", usage)
        else:
            open_holds_max = 1_000 if command.hold_seconds else None
            code, book, lines = self._priced(project, usage, open_holds_max, (limits, window))
            cost = sum(rate for _, rate in lines) * usage.quantity
            if code == "rate_limited":
                wait_ms = max(window.wait_for_cost(limits, cost), window.wait_for_request(limits))
            elif not code:
                amount = cost
                window.add_cost(cost)
                if command.hold_seconds:
                    found = self._place(project, usage, book, lines, command.hold_seconds)
                else:
                    self._charge_lines(project, usage, book, lines)
        left = project.available(usage.environment)
        told = window.told(limits, wait_ms)
        shadow = self._try(project, usage, amount)
        return Answer(STATUS.get(code, 409), code, amount, left, self._entry_id(index), found, told, shadow)

    def _count_request(self, project: Project, command: CountRequest) -> Answer:
        index, now_ms = self._index, self._now(project)
        named = (command.operation, 1, "", command.environment, now_ms, "", command.actor, "")
        usage = Usage(project.name, b"", "", "", *named)
        limits, window = self._open_window(project)
        if not window.take(limits):
            return self._stopped(project, usage, limits, window)
        self._state_use(project, "request", usage)
        left, told = project.available(usage.environment), window.told(limits, 0)
        return Answer(200, "", 0, left, self._entry_id(index), "", told, self._try(project, usage, 0))

    def _open_window(self, project: Project) -> tuple[Ceilings, Window]:
        """As of now."""
        now_ms, limits = self._now(project), project.limits()
        window = project.window = project.window or Window(now_ms)
        window.move_to(now_ms, limits)
        return limits, window

    def _stopped(self, project: Project, usage: Usage, limits: Ceilings, window: Window) -> Answer:
        index = self._index
        self._state_use(project, "refusal", usage, reason="rate_limited")
        left, told = project.available(usage.environment), window.told(limits, window.wait_for_request(limits))
        shadow = self._try(project, usage, 0)
        return Answer(429, "rate_limited", 0, left, self._entry_id(index), "", told, shadow)

    # Limits.

    def _try(self, project: Project, usage: Usage, cost: int) -> str:
        """What the limits on trial would have said."""
        if project.trial is None:
            return ""
        limits, window = project.limits().under(project.trial[0]), project.trial[1]
        window.move_to(self._now(project), limits)
        code = ""
        if not window.take(limits):
            code = "rate_limited"
        elif cost > limits.cost:
            code = "over_cost_ceiling"
        elif window.wait_for_cost(limits, cost):
            code = "rate_limited"
        else:
            window.add_cost(cost)
        if code:
            self._state_use(project, "shadow", usage, reason=code)
        return code

    def _limits_change(self, project: Project, at_ms: int) -> None:
        """From then on; until then the old ones held."""
        if project.window is not None:
            project.window.move_to(at_ms, project.limits())
        if project.trial is not None:
            project.trial[1].move_to(at_ms, project.limits().under(project.trial[0]))

    def _set_limits(self, project: Project, command: SetLimits) -> Answer:
        said = _said(command.limits)
        self._limits_change(project, self._now(project))
        if command.is_shadow:
            project.trial = (command.limits, Window(self._now(project))) if any(said) else None
        else:
            project.contract = command.limits if any(said) else None
        return self._done(project, "limits", reason="shadow" if command.is_shadow else "set")

    def _raise_limits(self, project: Project, command: RaiseLimits) -> Answer:
        now_ms = self._now(project)
        starts_ms, ends_ms = max(now_ms, command.starts_at_ms), command.ends_at_ms
        if not any(_said(command.limits)) or not starts_ms < ends_ms <= now_ms + RAISE_DAYS_MAX * DAY_MS:
            raise Refused("invalid_request")
        if len(project.raises) == RAISES_MAX:
            raise Refused("too_many_raises")
        planned = Raise(self._entry_id(self._index), command.limits, starts_ms, ends_ms)
        answer = self._done(project, "limits", reason="raise_planned")
        project.raises.append(planned)
        if starts_ms == now_ms:
            self._begin_raise(project, planned)
        return answer

    def _begin_raise(self, project: Project, each: Raise) -> None:
        self._limits_change(project, each.starts_ms)
        each.is_on = True
        self._state(project, "limits", reason="raise_begun", occurred_at_ms=each.starts_ms)

    def _end_raise(self, project: Project, each: Raise, at_ms: int) -> None:
        self._limits_change(project, at_ms)
        project.raises.remove(each)
        self._state(project, "limits", reason="raise_ended", occurred_at_ms=at_ms)

    # What a use costs.

    def _priced(
        self,
        project: Project,
        usage: Usage,
        open_holds_max: int | None = None,
        within: tuple[Ceilings, Window] | None = None,
    ) -> tuple[str, PriceBook, list[tuple[str, int]]]:
        """Why a use may not be, or "", and its lines of (operation, rate) in the price book of its time."""
        book = self._book_at(usage.occurred_at_ms)
        lines = [(name, book.rates.get(name, -1)) for name in (usage.operation, usage.surcharge) if name]
        rank = max(RANK[book.plan_required.get(name, "free")] for name, _ in lines)
        cost = sum(rate for _, rate in lines) * usage.quantity
        code = ""
        if project.closed_ms is not None and project.closed_ms <= usage.occurred_at_ms:
            code = "project_closed"
        elif RANK[project.plan] < rank:
            code = "plan_required"
        elif any(rate < 0 for _, rate in lines):
            code = "unknown_operation"
        elif cost > project.available(usage.environment):
            code = "out_of_credits"
        elif open_holds_max is not None and len(project.holds) >= open_holds_max:
            code = "too_many_holds"
        elif within is not None and cost > within[0].cost:
            code = "over_cost_ceiling"
        elif within is not None and within[1].wait_for_cost(within[0], cost):
            code = "rate_limited"
        if code:
            self._state_use(project, "refusal", usage, reason=code, price_version=book.version)
        if code == "out_of_credits":
            self._recharge_if_low(project)
        return code, book, lines

    def _charge_lines(self, project: Project, usage: Usage, book: PriceBook, lines: list[tuple[str, int]]) -> None:
        for operation, rate in lines:
            fields = {"operation": operation, "price_version": book.version}
            self._spend(project, "charge", usage, usage.quantity, rate * usage.quantity, **fields)
        self._recharge_if_low(project)

    def _spend(self, project: Project, kind: str, usage: Usage, quantity: int, amount: int, **fields: Any) -> int:
        """One line: an entry on each grant that pays for it, or one without a grant where it costs nothing."""
        if not amount:
            self._state(project, kind, usage, quantity=quantity, **fields)
        for grant, drawn in self._draw(project, usage.environment, amount):
            grant.left -= drawn
            self._state(project, kind, usage, quantity=quantity, amount=-drawn, grant_id=grant.id, **fields)
            quantity = 0
        return amount

    def _draw(self, project: Project, environment: str, amount: int) -> Iterator[tuple[Grant, int]]:
        for grant in _in_burn_down_order(project.grants):
            drawn = min(amount, grant.left - grant.held) if grant.environment == environment else 0
            if drawn:
                amount -= drawn
                yield grant, drawn

    # Holds.

    def _place(
        self, project: Project, usage: Usage, book: PriceBook, lines: list[tuple[str, int]], seconds: int
    ) -> str:
        """Returns the hold's id."""
        expires_at_ms = self._now(project) + seconds * 1000
        hold = Hold(self._entry_id(self._index), usage, lines, book.version, expires_at_ms)
        total = sum(rate for _, rate in lines) * usage.quantity
        quantity = usage.quantity
        for grant, kept in self._draw(project, usage.environment, total):
            grant.held += kept
            hold.kept.append((grant, kept))
            self._state_hold(project, hold, quantity=quantity, grant_id=grant.id, held=kept)
            quantity = 0
        if not total:
            self._state_hold(project, hold, quantity=quantity)
        project.holds.append(hold)
        self._recharge_if_low(project)
        return hold.id

    def _open_hold(self, project: Project, command: CaptureHold | ReleaseHold | ExtendHold) -> Hold:
        for hold in project.holds:
            if hold.id == command.hold_id and command.environment in ("", hold.usage.environment):
                return hold
        raise Refused("unknown_hold")

    def _capture(self, project: Project, command: CaptureHold) -> Answer:
        hold = self._open_hold(project, command)
        amount = hold.total() if command.amount < 0 else command.amount
        if amount > hold.total():
            raise Refused("invalid_request")
        index, left = self._index, amount
        for operation, rate in hold.lines:
            cost = min(left, rate * hold.usage.quantity)
            left -= cost
            fields = {"operation": operation, "price_version": hold.version, "reason": "captured"}
            if not rate:
                self._state(project, "charge", hold.usage, quantity=hold.usage.quantity, **fields)
            quantity = cost // rate if rate else 0
            still_kept = []
            for grant, kept in hold.kept:
                drawn = min(cost, kept)
                if drawn:
                    cost -= drawn
                    grant.left -= drawn
                    grant.held -= drawn
                    fields |= {"quantity": quantity, "amount": -drawn, "held": -drawn, "grant_id": grant.id}
                    self._state(project, "charge", hold.usage, **fields)
                    quantity = 0
                still_kept.append((grant, kept - drawn))
            hold.kept = still_kept
        self._let_go(project, hold, "captured", self._now(project))
        usage = hold.usage
        today = self._at_ms // DAY_MS
        self._first_day["event", usage.project, usage.source, usage.event_id] = today
        if usage.job_id:
            self._first_day["job", *_job(usage)] = today
        return self._answer(project, hold.usage.environment, amount, index)

    def _let_go(self, project: Project, hold: Hold, reason: str, at_ms: int) -> None:
        """What is still held goes back to its grants, and on from those that have expired."""
        project.holds.remove(hold)
        usage = hold.usage
        parts = [(grant, kept) for grant, kept in hold.kept if kept]
        if not parts and reason != "captured":
            parts = [(None, 0)]
        for grant, kept in parts:
            if grant is not None:
                grant.held -= kept
            self._state(
                project,
                "release",
                environment=usage.environment,
                operation=hold.lines[0][0],
                grant_id=grant.id if grant is not None else "",
                reason=reason,
                price_version=hold.version,
                job_id=usage.job_id,
                key_id=usage.key_id,
                occurred_at_ms=at_ms,
                held=-kept,
            )
            if grant is not None and grant.has_expired(at_ms):
                grant.left -= kept
                self._state_expiry(project, grant, kept, at_ms)
        self._pay_bills(project, at_ms)
        if reason == "captured":
            self._recharge_if_low(project)

    # Recurring items.

    def _set_item(self, project: Project, command: SetItem) -> Answer:
        operation, now_ms = command.operation, self._now(project)
        item = project.items.get(operation)
        ends = item is not None and command.quantity == 0
        if operation not in self._book_at(now_ms).hourly and not ends:
            raise Refused("unknown_operation")
        if not 0 <= command.quantity <= 1_000_000 or (item is None and len(project.items) == 10):
            raise Refused("invalid_request")
        if item is None:
            item = project.items[operation] = Item(now_ms)
        self._count_hours(operation, item, now_ms)
        item.quantity = command.quantity
        if project.month_end_ms is None:
            project.month_end_ms = _month_end_after(now_ms)
        fields = {"operation": operation, "quantity": command.quantity, "reason": "set"}
        answer = self._done(project, "item", "production", **fields)
        _drop_items(project)
        return answer

    def _count_hours(self, operation: str, item: Item, until_ms: int) -> None:
        """Each full hour in [counted_to, until) counts, at the price that holds at it."""
        hour_ms = -(-item.counted_to_ms // HOUR_MS) * HOUR_MS
        while item.quantity and hour_ms < until_ms:
            book = self._book_at(hour_ms)
            running = [bill for bill in item.bills if bill.version == book.version and bill.month_end_ms is None]
            if not running:
                running = [Bill(book.version)]
                item.bills += running
            running[0].hours += item.quantity
            running[0].owed += item.quantity * book.hourly.get(operation, 0)
            hour_ms += HOUR_MS
        item.counted_to_ms = max(item.counted_to_ms, until_ms)

    def _pay_bills(self, project: Project, at_ms: int) -> None:
        """Bills of past months, as far as there are credits."""
        is_any_due = False
        for operation, item in project.items.items():
            due = [bill for bill in item.bills if bill.month_end_ms is not None]
            for bill in due:
                is_any_due = True
                fields: dict[str, Any] = {
                    "environment": "production",
                    "operation": operation,
                    "price_version": bill.version,
                    "occurred_at_ms": at_ms,
                }
                if bill.hours and not bill.owed:
                    self._state(project, "charge", quantity=bill.hours, reason="recurring", **fields)
                for grant, drawn in self._draw(project, "production", bill.owed):
                    grant.left -= drawn
                    bill.owed -= drawn
                    fields |= {"quantity": bill.hours, "amount": -drawn, "grant_id": grant.id}
                    self._state(project, "charge", reason="recurring", **fields)
                    bill.hours = 0
                if bill.owed and bill.month_end_ms == at_ms:
                    fields |= {"quantity": 0, "amount": 0, "grant_id": ""}
                    self._state(project, "refusal", reason="out_of_credits", **fields)
                if not bill.owed:
                    item.bills.remove(bill)
        _drop_items(project)
        if is_any_due:
            self._recharge_if_low(project)

    # Auto-recharge.

    def _recharge_if_low(self, project: Project) -> None:
        recharge, now_ms = project.recharge, self._now(project)
        if recharge is None or not recharge.is_on or recharge.pending or project.closed_ms is not None:
            return
        if now_ms < recharge.paused_until_ms or project.available("production") >= recharge.threshold:
            return
        month, cents = _month(now_ms), recharge.bundle_usd * 100
        if recharge.spent.get(month, 0) + cents > recharge.cap_cents:
            if month not in recharge.capped:
                recharge.capped.add(month)
                self._state(project, "recharge", environment="production", reason="cap_reached")
            return
        recharge.spent[month] = recharge.spent.get(month, 0) + cents
        recharge.pending = (f"recharge-{self._entry_id(self._index)}", cents, month)
        self._state(project, "recharge", environment="production", reason="requested")

    def _set_recharge(self, project: Project, command: SetAutoRecharge) -> Answer:
        cents = command.bundle_usd * 100
        is_right = (
            command.bundle_usd in BUNDLES
            and 0 < command.threshold <= 100_000 * CREDIT
            and cents <= command.cap_cents <= 10_000_000
            and command.payment_method
        )
        if command.is_on and not is_right:
            raise Refused("invalid_request")
        recharge = project.recharge = project.recharge or Recharge()
        recharge.is_on = command.is_on
        if command.is_on:
            recharge.threshold, recharge.bundle_usd = command.threshold, command.bundle_usd
            recharge.cap_cents = command.cap_cents
            recharge.failures, recharge.paused_until_ms = 0, 0
            recharge.capped.clear()
        answer = self._done(project, "recharge", "production", reason="on" if command.is_on else "off")
        self._recharge_if_low(project)
        return answer

    def _settle_recharge(self, project: Project, command: SettleRecharge) -> Answer:
        recharge = project.recharge
        if recharge is None or recharge.pending is None or recharge.pending[0] != command.recharge_id:
            raise Refused("recharge_settled")
        _, cents, month = recharge.pending
        recharge.pending = None
        if command.is_paid:
            recharge.failures, recharge.paused_until_ms = 0, 0
            return self._buy(project, "production", cents // 100)
        recharge.spent[month] -= cents
        recharge.failures += 1
        hours = min(24, 2 ** (recharge.failures - 1))
        recharge.paused_until_ms = self._now(project) + hours * HOUR_MS
        answer = self._done(project, "recharge", "production", reason="failed")
        if recharge.failures >= 5:
            recharge.is_on = False
            self._state(project, "recharge", environment="production", reason="off")
        return answer

    # Corrections.

    def _correct(self, project: Project, command: Correct) -> Answer:
        usage, index = command.usage, self._index
        event = ("event", command.project, command.source, command.event_id)
        is_known = self._refused_at.get(event) == command.refused_offset
        if any(self._is_seen(claim) and not (claim == event and is_known) for claim in _claims(command)):
            raise Refused("already_corrected")
        if usage is None and not command.given_back:
            raise Refused("invalid_request")
        costs: list[tuple[str, int]] = []
        version = ""
        if usage is not None:
            if not command.given_back and _is_held(project, usage):
                raise Refused("event_held")
            book = self._book_at(usage.occurred_at_ms)
            version = book.version
            names = [name for name in (usage.operation, usage.surcharge) if name]
            if any(name not in book.rates for name in names):
                raise Refused("unknown_operation")
            costs = [(name, book.rates[name] * usage.quantity) for name in names]
            back = sum(each.amount for each in command.given_back if each.grant.environment == usage.environment)
            if sum(cost for _, cost in costs) > project.available(usage.environment) + back:
                raise Refused("out_of_credits")
        told: dict[str, Any] = {"source": command.source, "event_id": command.event_id}
        change = 0
        for each in command.given_back:
            grant = self._to_give_back_to(project, each)
            grant.left += each.amount
            change += each.amount
            fields = {"operation": each.operation, "quantity": -each.quantity, "amount": each.amount} | told
            fields |= {"grant_id": grant.id, "environment": grant.environment, "reason": "given_back"}
            fields["price_version"] = each.price_version
            self._state(project, "correction", usage, **fields)
        if usage is not None:
            for name, cost in costs:
                fields = {"operation": name, "price_version": version} | told
                fields["reason"] = "charged"
                change -= self._spend(project, "correction", usage, usage.quantity, cost, **fields)
        self._pay_bills(project, self._now(project))
        self._recharge_if_low(project)
        environment = usage.environment if usage is not None else command.given_back[0].grant.environment
        return self._answer(project, environment, change, index)

    def _to_give_back_to(self, project: Project, each: GivenBack) -> Grant:
        past, now_ms = each.grant, self._now(project)
        for grant in project.grants:
            if grant.id == past.id and not grant.has_expired(now_ms):
                return grant
        if past.expires_at_ms and past.expires_at_ms <= now_ms:
            grant_id = f"promotional-{self._offset}-{self._index}"
            ends_ms = project.renews_at_ms()
            grant = Grant(grant_id, "promotional", past.environment, each.amount, now_ms, ends_ms)
        else:
            ends = past.expires_at_ms or None
            grant = Grant(past.id, past.kind, past.environment, past.granted, past.granted_at_ms, ends)
        grant.left = 0
        project.grants.append(grant)
        return grant

    # Prices.

    def _book_at(self, at_ms: int) -> PriceBook:
        for book in reversed(self.books):
            if book.effective_at_ms <= at_ms:
                return book
        return self.books[0]

    def _why_not(self, book: PriceBook, after: str) -> str:
        """Why a book can't be announced, or ""."""
        last = self.books[-1]
        if after and last.version != after:
            return "price_list_changed"
        if any(book.version == each.version for each in self.books):
            return "price_version_exists"
        if book.effective_at_ms <= last.effective_at_ms or book.effective_at_ms < book.announced_at_ms:
            return "invalid_request"
        if not book.rates or min([*book.rates.values(), *book.hourly.values()]) < 0:
            return "invalid_request"
        after = book.rates | book.hourly
        is_worse = any(name not in after for name in last.rates | last.hourly)
        for name, rate in after.items():
            before = [each for each in self.books if name in each.rates or name in each.hourly][-1:]
            for each in before:
                is_worse |= rate > each.rates.get(name, each.hourly.get(name, 0))
                is_worse |= RANK[book.plan_required.get(name, "free")] > RANK[each.plan_required.get(name, "free")]
        if is_worse and book.effective_at_ms < book.announced_at_ms + 30 * DAY_MS:
            return "price_notice_too_short"
        return ""

    def _publish(self, project: Project, command: PublishPrices) -> Answer:
        self.books.append(command.book)
        version = command.book.version
        return self._done(project, "price_book", reason=version, price_version=version)

    # What is stated.

    def _state_use(self, project: Project, kind: str, usage: Usage, **fields: Any) -> None:
        self._state(project, kind, usage, operation=usage.operation, quantity=usage.quantity, **fields)

    def _state_hold(self, project: Project, hold: Hold, **fields: Any) -> None:
        fields |= {"operation": hold.lines[0][0], "price_version": hold.version}
        self._state(project, "hold", hold.usage, **fields)

    def _state_expiry(self, project: Project, grant: Grant, amount: int, at_ms: int) -> None:
        self._state(
            project,
            "expiry",
            environment=grant.environment,
            amount=-amount,
            grant_id=grant.id,
            reason=grant.kind,
            occurred_at_ms=at_ms,
        )

    def _state(
        self,
        project: Project,
        kind: str,
        usage: Usage | None = None,
        *,
        environment: str = "",
        operation: str = "",
        quantity: int = 0,
        amount: int = 0,
        grant_id: str = "",
        reason: str = "",
        price_version: str = "",
        source: str = "",
        event_id: str = "",
        job_id: str = "",
        key_id: str = "",
        occurred_at_ms: int | None = None,
        held: int = 0,
        cents: int = 0,
    ) -> None:
        now_ms = self._now(project)
        if usage is not None:
            environment = environment or usage.environment
            source, event_id = source or usage.source, event_id or usage.event_id
            job_id, key_id, occurred_at_ms = usage.job_id, usage.key_id, usage.occurred_at_ms
        self.lines.append(
            Line(
                self._offset,
                self._index,
                kind,
                project.name,
                environment,
                operation,
                quantity,
                amount,
                project.balance(environment),
                grant_id,
                reason,
                price_version,
                source,
                event_id,
                job_id,
                key_id or self._actor,
                now_ms if occurred_at_ms is None else occurred_at_ms,
                now_ms,
                held,
                cents,
                project.billing_account,
            )
        )
        self._index += 1

    def _now(self, project: Project) -> int:
        """A project's clock never steps back, even if the broker's does."""
        return max(self._at_ms, project.clock_ms)

    def _entry_id(self, index: int) -> str:
        return f"{self.partition}-{self._offset}-{index}"

    def _is_seen(self, identity: Any) -> bool:
        day = self._first_day.get(identity)
        return day is not None and day >= self._at_ms // DAY_MS - self.dedup_days

    def _mark(self, identity: Any) -> None:
        if not self._is_seen(identity):
            self._first_day[identity] = self._at_ms // DAY_MS


def identity_names(identity: Any) -> tuple[str, str, str]:
    """What the dedup index knows an identity of the model's under: project, source and id."""
    kind, project, *rest = identity
    if kind == "key":
        return project, "meterline:idempotency-key", rest[0]
    if kind == "job":
        return project, f"meterline:job:{rest[0]}", rest[1]
    if kind == "correction":
        source, event_id, sequence = rest
        return project, f"meterline:correction:{sequence}", f"{len(source)}:{source}{event_id}"
    return project, rest[0], rest[1]


def _claims(command: AnyCommand) -> list[Any]:
    """What may be done once only."""
    if isinstance(command, Admit):
        usage = command.usage
        event = ("event", usage.project, usage.source, usage.event_id)
        return [event, ("job", *_job(usage))] if command.hold_seconds and usage.job_id else [event]
    if isinstance(command, Correct):
        source, event_id = command.source, command.event_id
        claims: list[Any] = [("correction", command.project, source, event_id, command.sequence)]
        if command.usage is not None and not command.given_back and command.sequence == 0:
            claims.append(("event", command.project, source, event_id))
        return claims
    return []


def _is_held(project: Project, usage: Usage) -> bool:
    return any((hold.usage.source, hold.usage.event_id) == (usage.source, usage.event_id) for hold in project.holds)


def _job(usage: Usage) -> tuple[str, str, str]:
    return usage.project, usage.environment, usage.job_id


def _asked(command: AnyCommand) -> Any:
    """What a request asks for, without who asks and when."""
    asked = msgspec.structs.asdict(command)
    for name in ("actor", "correlation", "reply_instance", "reply_partition"):
        del asked[name]
    if isinstance(command, Admit):
        asked["usage"] = msgspec.structs.asdict(command.usage) | {"occurred_at_ms": None}
    return type(command), asked


def _said(limits: Limits) -> tuple[int, int, int]:
    """Which limits they are, where they may be."""
    said = (limits.requests_per_minute, limits.burst, limits.cost_ceiling)
    if any(not 0 <= limit <= most for limit, most in zip(said, LIMITS_MAX, strict=True)):
        raise Refused("invalid_request")
    return said


def _terms(command: CreateProject | ChangePlan) -> tuple[int, int]:
    """(microcredits, cents) a month."""
    if command.plan == "enterprise":
        return command.contract_allowance, command.contract_cents
    credits, dollars = PLANS[command.plan]
    return credits * CREDIT, dollars * 100


def _is_over(grant: Grant, now_ms: int) -> bool:
    return grant.expires_at_ms is None or grant.expires_at_ms <= now_ms


def _drop_items(project: Project) -> None:
    project.items = {name: item for name, item in project.items.items() if item.quantity or item.bills}
    if not project.items:
        project.month_end_ms = None


def _in_burn_down_order(grants: list[Grant]) -> list[Grant]:
    return sorted(grants, key=lambda grant: (BURN_DOWN.index(grant.kind), grant.granted_at_ms))


def _month(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m}"


def _month_end_after(at_ms: int) -> int:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0)
    return _months_after(round(first.timestamp()) * 1000, 1)


def _months_after(start_ms: int, months: int) -> int:
    start = datetime.fromtimestamp(start_ms / 1000, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, monthrange(year, month + 1)[1])
    moved = start.replace(year=year, month=month + 1, day=day)
    return start_ms + round((moved - start).total_seconds()) * 1000
