"""Records, told one after another: envelopes, ticks and commands."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.commands import (
    Admit,
    AnyCommand,
    BillDelivery,
    Commands,
    Correct,
    CountRefused,
    CountRequest,
    CreateProject,
    Envelope,
    OpenBillingAccount,
    PublishPrices,
    PutEndpoint,
    Tick,
    WithdrawPrices,
)
from schemas.events import Usage
from streams.core.endpoints import PLATFORM_ID
from tests.simulation.model.accounts import Grant, Project
from tests.simulation.model.answers import STATUS, Answer, Refused
from tests.simulation.model.decisions import decide
from tests.simulation.model.endpoints import put_endpoint
from tests.simulation.model.holds import capture_by_event, hold_of
from tests.simulation.model.identities import asked_for, claims_of, content_of
from tests.simulation.model.notices import look
from tests.simulation.model.partition import Partition
from tests.simulation.model.passing_time import settle
from tests.simulation.model.plans import PLANS, terms
from tests.simulation.model.prices import publish, why_not, why_not_withdrawn, withdraw
from tests.simulation.model.projects import begin_month
from tests.simulation.model.uses import charge_lines, count_repeat, priced


class Model(Partition):
    """A partition that is told of its records, each once and in order.

    Batches, offsets applied, changelogs and redelivery are unknown to it.
    """

    def apply(
        self, offset: int, at_ms: int, body: Envelope | Tick | Commands | AnyCommand | None, slot: int = 0
    ) -> None:
        """The next record, or the next command of this one, at its place in it; None is one that can't be read."""
        self.offset, self.at_ms, self.actor = offset, at_ms, ""
        if body is None:
            self.dead.add((offset, 0, "unreadable_record"))
        elif isinstance(body, Envelope):
            self._envelope(body)
        elif isinstance(body, Tick):
            for slot, name in enumerate(body.projects):
                project = self.projects.get(name)
                if project is not None and project.is_project and self.now(project) >= project.due_at_ms():
                    self.index = slot * 4096
                    settle(self, project)
                    self._touch(project)
        elif isinstance(body, Commands):
            for slot, command in enumerate(body.commands):
                self.apply(offset, at_ms, command, slot)
        else:
            self.index = slot * 4096
            self.answers[body.correlation] = self._command(body)

    def _envelope(self, envelope: Envelope) -> None:
        touched = set()
        for slot, usage in enumerate(envelope.events):
            project = self.projects.get(usage.project)
            if project is None:
                self.dead.add((self.offset, slot, "unknown_project"))
                continue
            touched.add(project)
            self.index = slot * 4096
            settle(self, project)
            event = ("event", usage.project, usage.source, usage.event_id)
            if self.is_seen(event):
                is_other = self.is_other(event, content_of(usage))
                self.state_use(project, "duplicate", usage, reason="event_id_reused" if is_other else "")
            elif hold := hold_of(project, usage):
                if more := capture_by_event(self, project, hold, usage):
                    self._use(project, replace(usage, quantity=more))
            else:
                code = self._use(project, usage)
                self.mark(event, content_of(usage), code)
            look(self, project)
        for project in touched:
            self._touch(project)

    def _use(self, project: Project, usage: Usage) -> str:
        code, book, lines = priced(self, project, usage)
        if not code:
            charge_lines(self, project, usage, book, lines)
        return code

    def _touch(self, project: Project) -> None:
        project.clock_ms = self.now(project)
        project.grants = [grant for grant in project.grants if grant.left or not _is_over(grant, project.clock_ms)]

    def _command(self, command: AnyCommand) -> Answer:
        project = self.projects.get(command.project)
        if project is None:
            return self._first(command)
        key = command.idempotency_key
        given = self._given(project, command)
        if given is not None and not (key and isinstance(command, Admit)):
            return given
        if project.is_project:
            settle(self, project)
        self.actor = command.actor
        if given is not None:
            # It is a request of its own, and its answer is kept for no other.
            answer = count_repeat(self, project, command, given)
            project.answers["request", command.correlation] = (self.at_ms, asked_for(command), answer)
            self._touch(project)
            return answer
        try:
            answer = decide(self, project, command)
        except Refused as refused:
            code = str(refused)
            answer = Answer(STATUS.get(code, 409), code, 0, 0, "")
        if not isinstance(command, BillDelivery):
            look(self, project)
        return self._answered(project, command, answer)

    def _given(self, project: Project, command: AnyCommand) -> Answer | None:
        """The answer to a command that was answered before under its name."""
        key = command.idempotency_key
        given = project.answers.get(("key", key) if key else ("request", command.correlation))
        if given is not None:
            given_ms, asked, answer = given
            if self.at_ms - given_ms < (self.kept_for.key_ms if key else self.kept_for.request_ms):
                return answer if asked == asked_for(command) else Answer(409, "idempotency_key_reused", 0, 0, "")
        if key and self.is_seen(("key", project.name, key)):
            return Answer(409, "idempotency_reply_expired", 0, 0, "")
        return None

    def _first(self, command: AnyCommand) -> Answer:
        """Decide a command to what is not there yet."""
        self.actor, index = command.actor, self.index
        if isinstance(command, CreateProject):
            if command.plan not in PLANS:
                return Answer(422, "invalid_request", 0, 0, "")
            allowance, cents = terms(command)
            project = Project(command.project, self.at_ms, command.plan, allowance, cents)
            project.billing_account = command.billing_account
            self.state(project, "project", reason=command.plan)
            begin_month(self, project, self.at_ms)
            look(self, project)
            answer = Answer(201, "", allowance, allowance, self.entry_id(index))
        elif isinstance(command, OpenBillingAccount):
            if command.is_change:
                return Answer(404, "unknown_billing_account", 0, 0, "")
            project = Project(command.project, self.at_ms)
            self.state(project, "billing_account", reason="opened")
            answer = Answer(201, "", 0, 0, self.entry_id(index))
        elif isinstance(command, PublishPrices):
            if code := why_not(self, command.book, command.after):
                return Answer(STATUS.get(code, 409), code, 0, 0, "")
            project = Project(command.project, self.at_ms)
            answer = publish(self, project, command)
        elif isinstance(command, WithdrawPrices):
            if code := why_not_withdrawn(self, command):
                return Answer(STATUS.get(code, 409), code, 0, 0, "")
            project = Project(command.project, self.at_ms)
            answer = withdraw(self, project, command)
        elif isinstance(command, PutEndpoint) and command.project == PLATFORM_ID:
            project = Project(command.project, self.at_ms)
            try:
                answer = put_endpoint(self, project, command)
            except Refused as refused:
                code = str(refused)
                return Answer(STATUS.get(code, 409), code, 0, 0, "")
        else:
            code = "unknown_endpoint" if command.project == PLATFORM_ID else "unknown_project"
            return Answer(404, code, 0, 0, "")
        self.projects[command.project] = project
        return self._answered(project, command, answer)

    def _answered(self, project: Project, command: AnyCommand, answer: Answer) -> Answer:
        # A request that was stopped may be sent again under its key.
        key = "" if answer.code == "rate_limited" else command.idempotency_key
        if key:
            self.mark(("key", project.name, key))
        if answer.status < 300 and isinstance(command, Correct):
            for claim in claims_of(command):
                self.mark(claim, content_of(command.usage) if command.usage is not None else None)
        # To ask again is another request, where one is counted.
        if not isinstance(command, CountRequest | CountRefused):
            name = ("key", key) if key else ("request", command.correlation)
            project.answers[name] = (self.at_ms, asked_for(command), answer)
        self._touch(project)
        return answer


def _is_over(grant: Grant, now_ms: int) -> bool:
    return grant.expires_at_ms is None or grant.expires_at_ms <= now_ms
