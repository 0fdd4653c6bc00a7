"""The state of one partition, and how a fact is stated."""

from __future__ import annotations

from typing import Any

from schemas.events import Usage
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.replies import KeptFor
from tests.simulation.model.accounts import Grant, Hold, Project
from tests.simulation.model.answers import Answer
from tests.simulation.model.lines import Line
from tests.simulation.model.times import DAY_MS, HOUR_MS, month_of


class Partition:
    """One partition. `lines` are its facts, `answers` those of each request, `dead` its dead letters."""

    def __init__(self, number: int, kept_for: KeptFor, dedup_days: int) -> None:
        self.number = number
        self.kept_for = kept_for
        self.dedup_days = dedup_days
        self.projects: dict[str, Project] = {}
        self.books: list[PriceBook] = [FIRST_PRICE_BOOK]
        self.withdrawn: list[PriceBook] = []
        self.lines: list[Line] = []
        self.answers: dict[str, Answer] = {}
        self.dead: set[tuple[int, int, str]] = set()
        self.first_day: dict[Any, int] = {}
        # By identity: the content it was decided for, and the code it was refused with; of a hold what it was charged.
        self.decided: dict[Any, tuple[Any, str]] = {}
        # By event that came as usage: the record that refused it, or None.
        self.refused_at: dict[Any, int | None] = {}
        self.offset = 0
        self.index = 0
        self.at_ms = 0
        self.actor = ""

    def all_grants(self) -> list[Grant]:
        """The grants of all projects, as far as anything is left of them."""
        return [grant for project in self.projects.values() for grant in project.grants]

    def done(self, project: Project, kind: str, environment: str = "", **fields: Any) -> Answer:
        """State one fact, and that is all."""
        index = self.index
        self.state(project, kind, environment=environment, **fields)
        return self.answer(project, environment or "production", 0, index)

    def answer(self, project: Project, environment: str, amount: int, index: int) -> Answer:
        return Answer(200, "", amount, project.available(environment), self.entry_id(index))

    def state_use(self, project: Project, kind: str, usage: Usage, **fields: Any) -> None:
        self.state(project, kind, usage, operation=usage.operation, quantity=usage.quantity, **fields)

    def state_hold(self, project: Project, hold: Hold, **fields: Any) -> None:
        fields |= {"operation": hold.lines[0][0], "price_version": hold.version}
        self.state(project, "hold", hold.usage, **fields)

    def state_expiry(self, project: Project, grant: Grant, amount: int, at_ms: int) -> None:
        self.state(
            project,
            "expiry",
            environment=grant.environment,
            amount=-amount,
            grant_id=grant.id,
            reason=grant.kind,
            occurred_at_ms=at_ms,
        )

    def state(
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
        now_ms = self.now(project)
        if usage is not None:
            environment = environment or usage.environment
            source, event_id = source or usage.source, event_id or usage.event_id
            job_id, key_id, occurred_at_ms = usage.job_id, usage.key_id, usage.occurred_at_ms
        project.billed[month_of(now_ms), project.billing_account] += cents
        if kind == "charge" and amount and reason != "recurring" and source != "/webhooks":
            project.spent.append((environment, now_ms, -amount))
            project.looks.setdefault(environment, now_ms - now_ms % HOUR_MS + HOUR_MS)
        self.lines.append(
            Line(
                self.offset,
                self.index,
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
                key_id or self.actor,
                now_ms if occurred_at_ms is None else occurred_at_ms,
                now_ms,
                held,
                cents,
                project.billing_account,
            )
        )
        self.index += 1

    def now(self, project: Project) -> int:
        """A project's clock never steps back, even if the broker's does."""
        return max(self.at_ms, project.clock_ms)

    def entry_id(self, index: int) -> str:
        return f"{self.number}-{self.offset}-{index}"

    def is_seen(self, identity: Any) -> bool:
        day = self.first_day.get(identity)
        return day is not None and day >= self.at_ms // DAY_MS - self.dedup_days

    def is_other(self, identity: Any, content: Any) -> bool:
        """Whether an identity was decided, and for another content."""
        return self.is_seen(identity) and self.decided[identity][0] != content

    def mark(self, identity: Any, content: Any = None, code: str = "") -> None:
        if not self.is_seen(identity):
            self.first_day[identity] = self.at_ms // DAY_MS
            self.decided[identity] = content, code
            self.refused_at[identity] = self.offset if code else None
