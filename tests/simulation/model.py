"""The reference: what the records of one intake partition mean, told one after another, in plain Python.

It shares no code with the core. It knows nothing of batches, offsets applied, changelogs or redelivery: every record
comes to it once, in order. Prices and the shapes of records are the product's; the rules are written here again.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from typing import Any, NamedTuple

from schemas.commands import (
    Admit,
    AnyCommand,
    ChangePlan,
    CloseProject,
    CreateProject,
    Envelope,
    RefundTopUp,
    ReopenProject,
    TopUp,
)
from schemas.events import Usage
from schemas.prices import FIRST_PRICE_BOOK

CREDIT = 1_000_000
ALLOWANCES = {"free": 250 * CREDIT, "hobby": 5_000 * CREDIT, "build": 25_000 * CREDIT}
BUNDLES = {20: 4_000 * CREDIT, 100: 20_000 * CREDIT}
DAY_MS = 86_400_000


class Line(NamedTuple):
    """A fact, as far as the model tells it."""

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
    source: str
    event_id: str
    occurred_at_ms: int
    booked_at_ms: int


class Answer(NamedTuple):
    """A reply, as far as the model tells it."""

    status: int
    code: str
    amount: int
    available: int
    entry_id: str


class Grant:
    """Credits that are left of one gift."""

    def __init__(self, grant_id: str, kind: str, environment: str, left: int, granted_at_ms: int, expires: bool):
        self.given = left
        self.id = grant_id
        self.kind = kind
        self.environment = environment
        self.left = left
        self.granted_at_ms = granted_at_ms
        self.expires = expires


class Project:
    """One account. `answers` are the newest ones kept: (key or correlation, what was asked, answer)."""

    def __init__(self, name: str, plan: str, signed_up_at_ms: int) -> None:
        self.name = name
        self.plan = plan
        self.plan_after_renewal = ""
        self.closed_ms: int | None = None
        self.signed_up_at_ms = signed_up_at_ms
        self.renewals = 0
        self.clock_ms = signed_up_at_ms
        self.grants: list[Grant] = []
        self.answers: list[tuple[str, Any, Answer]] = []

    def available(self, environment: str) -> int:
        return sum(grant.left for grant in self.grants if grant.environment == environment)


class Model:
    """One partition. `lines` are its facts, `answers` those of each request, `dead` its dead letters."""

    def __init__(self, partition: int, replies_kept: int, dedup_days: int) -> None:
        self.partition = partition
        self.replies_kept = replies_kept
        self.dedup_days = dedup_days
        self.projects: dict[str, Project] = {}
        self.lines: list[Line] = []
        self.answers: dict[str, Answer] = {}
        self.dead: set[tuple[int, int, str]] = set()
        self._first_day: dict[Any, int] = {}
        self._offset = 0
        self._index = 0
        self._at_ms = 0

    def apply(self, offset: int, at_ms: int, body: Envelope | AnyCommand | None) -> None:
        """The next record; None is one that can't be read."""
        self._offset, self._at_ms = offset, at_ms
        if body is None:
            self.dead.add((offset, 0, "unreadable_record"))
        elif isinstance(body, Envelope):
            touched = set()
            for slot, usage in enumerate(body.events):
                project = self.projects.get(usage.project)
                if project is None:
                    self.dead.add((offset, slot, "unknown_project"))
                    continue
                touched.add(project)
                self._index = slot * 1024
                self._renew(project)
                if self._is_seen(("event", usage.project, usage.source, usage.event_id)):
                    self._state(project, "duplicate", usage)
                else:
                    self._mark(("event", usage.project, usage.source, usage.event_id))
                    self._charge(project, usage)
            for project in touched:
                project.clock_ms = max(project.clock_ms, at_ms)
        else:
            self._index = 0
            self.answers[body.correlation] = self._command(body)

    def _command(self, command: AnyCommand) -> Answer:
        project = self.projects.get(command.project)
        if project is None and not isinstance(command, CreateProject):
            return Answer(404, "unknown_project", 0, 0, "")
        if project is None:
            project = self.projects[command.project] = Project(command.project, command.plan, self._at_ms)
            self._state(project, "project", reason=command.plan)
            self._grant(project, "allowance", "production", ALLOWANCES[command.plan], self._at_ms)
            left = project.available("production")
            return self._answered(project, command, Answer(201, "", left, left, self._entry_id(0)))
        name = command.idempotency_key or command.correlation
        for kept, asked, answer in project.answers:
            if kept == name:
                return answer if asked == _asked(command) else Answer(409, "idempotency_key_reused", 0, 0, "")
        if command.idempotency_key and self._is_seen(("key", project.name, name)):
            return Answer(409, "idempotency_reply_expired", 0, 0, "")
        self._renew(project)
        first_index = self._index
        if isinstance(command, CreateProject):
            answer = Answer(409, "project_exists", 0, 0, "")
        elif isinstance(command, CloseProject | TopUp | ChangePlan) and project.closed_ms is not None:
            answer = Answer(403, "project_closed", 0, 0, "")
        elif isinstance(command, CloseProject):
            project.closed_ms = self._now(project)
            self._state(project, "project", reason="closed")
            answer = Answer(200, "", 0, project.available("production"), self._entry_id(first_index))
        elif isinstance(command, ReopenProject):
            answer = self._reopen(project)
        elif isinstance(command, TopUp):
            amount = BUNDLES[command.bundle_usd]
            self._grant(project, "top_up", command.environment, amount, self._now(project))
            answer = Answer(200, "", amount, project.available(command.environment), self._entry_id(first_index))
        elif isinstance(command, RefundTopUp):
            answer = self._refund(project, command.grant_id)
        elif isinstance(command, ChangePlan):
            answer = self._change_plan(project, command.plan)
        else:
            assert isinstance(command, Admit)
            usage = command.usage
            event = ("event", usage.project, usage.source, usage.event_id)
            if self._is_seen(event):
                self._state(project, "duplicate", usage)
                code, amount = "", 0
            else:
                code, amount = self._charge(project, usage)
                if not code:
                    self._mark(event)
            left = project.available(usage.environment)
            status = {"": 200, "project_closed": 403}.get(code, 402)
            answer = Answer(status, code, amount, left, self._entry_id(first_index))
        return self._answered(project, command, answer)

    def _reopen(self, project: Project) -> Answer:
        if project.closed_ms is None:
            return Answer(409, "project_open", 0, 0, "")
        project.closed_ms = None
        index = self._index
        self._state(project, "project", reason="reopened")
        amount = 0
        if all(grant.kind != "allowance" for grant in project.grants):
            amount = ALLOWANCES[project.plan]
            self._grant(project, "allowance", "production", amount, self._now(project))
        return Answer(200, "", amount, project.available("production"), self._entry_id(index))

    def _refund(self, project: Project, grant_id: str) -> Answer:
        for grant in project.grants:
            if grant.id == grant_id and grant.kind == "top_up" and grant.left:
                old = self._now(project) > grant.granted_at_ms + 30 * DAY_MS
                if old or grant.left < grant.given - grant.given // 4:
                    return Answer(409, "not_refundable", 0, 0, "")
                project.grants.remove(grant)
                index = self._index
                self._state(
                    project,
                    "refund",
                    environment=grant.environment,
                    amount=-grant.left,
                    grant_id=grant.id,
                    reason="top_up",
                )
                left = project.available(grant.environment)
                return Answer(200, "", grant.left, left, self._entry_id(index))
        return Answer(404, "unknown_grant", 0, 0, "")

    def _change_plan(self, project: Project, plan: str) -> Answer:
        index = self._index
        more = ALLOWANCES[plan] - ALLOWANCES[project.plan]
        if more < 0:
            project.plan_after_renewal = plan
            due_ms = _months_after(project.signed_up_at_ms, project.renewals + 1)
            self._state(project, "plan", reason=plan, occurred_at_ms=due_ms)
            more = 0
        else:
            project.plan, project.plan_after_renewal = plan, ""
            self._state(project, "plan", reason=plan)
            if more:
                self._grant(project, "allowance", "production", more, self._now(project))
        return Answer(200, "", more, project.available("production"), self._entry_id(index))

    def _answered(self, project: Project, command: AnyCommand, answer: Answer) -> Answer:
        if command.idempotency_key:
            self._mark(("key", project.name, command.idempotency_key))
        project.answers.append((command.idempotency_key or command.correlation, _asked(command), answer))
        del project.answers[: -self.replies_kept]
        project.clock_ms = max(project.clock_ms, self._at_ms)
        return answer

    def _charge(self, project: Project, usage: Usage) -> tuple[str, int]:
        """Returns a refusal's code or "", and what was charged."""
        if project.closed_ms is not None and project.closed_ms <= usage.occurred_at_ms:
            self._state(project, "refusal", usage, reason="project_closed")
            return "project_closed", 0
        if usage.operation == "video.premium" and project.plan in ("free", "hobby"):
            self._state(project, "refusal", usage, reason="plan_required")
            return "plan_required", 0
        parts = [(usage.operation, FIRST_PRICE_BOOK.rates[usage.operation] * usage.quantity)]
        if usage.surcharge:
            parts.append((usage.surcharge, FIRST_PRICE_BOOK.rates[usage.surcharge] * usage.quantity))
        total = sum(amount for _, amount in parts)
        if total > project.available(usage.environment):
            self._state(project, "refusal", usage, reason="out_of_credits")
            return "out_of_credits", 0
        order = sorted(project.grants, key=lambda grant: (grant.kind != "allowance", grant.granted_at_ms))
        for operation, amount in parts:
            quantity = usage.quantity
            if amount == 0:
                self._state(project, "charge", usage, operation=operation, quantity=quantity)
            for grant in order:
                drawn = min(amount, grant.left) if grant.environment == usage.environment else 0
                if drawn:
                    grant.left -= drawn
                    amount -= drawn
                    self._state(
                        project,
                        "charge",
                        usage,
                        operation=operation,
                        quantity=quantity,
                        amount=-drawn,
                        grant_id=grant.id,
                    )
                    quantity = 0
            assert amount == 0
        return "", total

    def _renew(self, project: Project) -> None:
        while self._now(project) >= (due_ms := _months_after(project.signed_up_at_ms, project.renewals + 1)):
            project.renewals += 1
            for grant in [each for each in project.grants if each.expires]:
                project.grants.remove(grant)
                if grant.left:
                    self._state(
                        project,
                        "expiry",
                        environment=grant.environment,
                        amount=-grant.left,
                        grant_id=grant.id,
                        reason=grant.kind,
                        occurred_at_ms=due_ms,
                    )
            if project.plan_after_renewal:
                project.plan, project.plan_after_renewal = project.plan_after_renewal, ""
                self._state(project, "plan", reason=project.plan, occurred_at_ms=due_ms)
            if project.closed_ms is None:
                self._grant(project, "allowance", "production", ALLOWANCES[project.plan], due_ms)

    def _grant(self, project: Project, kind: str, environment: str, amount: int, granted_at_ms: int) -> None:
        grant_id = f"{kind}-{self._offset}-{self._index}"
        project.grants.append(Grant(grant_id, kind, environment, amount, granted_at_ms, kind == "allowance"))
        self._state(
            project,
            "grant",
            environment=environment,
            amount=amount,
            grant_id=grant_id,
            reason=kind,
            occurred_at_ms=granted_at_ms,
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
        occurred_at_ms: int | None = None,
    ) -> None:
        now_ms = self._now(project)
        if usage is not None:
            environment, occurred_at_ms = usage.environment, usage.occurred_at_ms
            if kind != "charge":
                operation, quantity = usage.operation, usage.quantity
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
                project.available(environment),
                grant_id,
                reason,
                usage.source if usage else "",
                usage.event_id if usage else "",
                now_ms if occurred_at_ms is None else occurred_at_ms,
                now_ms,
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


def _asked(command: AnyCommand) -> Any:
    """What a request asks for, without who asks and when."""
    if isinstance(command, CreateProject):
        return ("project", command.name, command.plan, command.contract_allowance)
    if isinstance(command, TopUp):
        return ("top_up", command.environment, command.bundle_usd, command.reference)
    if isinstance(command, RefundTopUp):
        return ("refund", command.grant_id, command.reason)
    if isinstance(command, CloseProject | ReopenProject):
        return (type(command).__name__,)
    if isinstance(command, ChangePlan):
        return ("plan", command.plan, command.contract_allowance)
    assert isinstance(command, Admit)
    usage = command.usage
    return ("admit", usage.source, usage.event_id, usage.operation, usage.quantity, usage.surcharge, usage.environment)


def _months_after(start_ms: int, months: int) -> int:
    start = datetime.fromtimestamp(start_ms / 1000, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, monthrange(year, month + 1)[1])
    moved = start.replace(year=year, month=month + 1, day=day)
    return start_ms + round((moved - start).total_seconds()) * 1000
