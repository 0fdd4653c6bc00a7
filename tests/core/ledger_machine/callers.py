"""Callers of the partition, and what they know: what they asked, what they were told, and what history tells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

from schemas.accounts import Grant
from schemas.commands import AnyCommand, Correct, CountRefused, CountRequest, GivenBack, RaiseLimits
from schemas.events import Usage
from schemas.times import DAY_MS, HOUR_MS
from tests.core.builders import addressed, usage
from tests.core.ledger_machine.partition import FoldedPartition
from tests.simulation.model.accounts import Hold
from tests.simulation.model.lines import Line

T = TypeVar("T")


class Callers(FoldedPartition):
    """Callers send commands and usage, and build the next ones on what they may know."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[AnyCommand] = []
        self.uses: list[Usage] = []
        self.charged: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
        self.corrections: Counter[tuple[str, str, str]] = Counter()
        self.refused: dict[tuple[str, str, str], int] = {}
        self.grants: dict[str, Grant] = {}
        self.recharges: list[tuple[str, str]] = []
        self.raises: list[tuple[str, str]] = []

    def send(self, kind: type[Any], /, project: str, **fields: Any) -> None:
        """Send a command, with a key mostly."""
        correlation, before = self.correlation(), len(self.model.lines)
        key = f"k{self.sent}" if self.sent % 4 and kind not in (CountRequest, CountRefused) else ""
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
        before = len(self.model.lines)
        super().append(body)
        for line in self.model.lines[before:]:
            if line.kind in ("charge", "correction") and line.event_id and line.amount:
                self.charged[line.project, line.source, line.event_id].append(line)
            if line.kind == "refusal" and line.event_id:
                self.refused[line.project, line.source, line.event_id] = line.offset
            if line.reason == "requested":
                self.recharges.append((line.project, f"recharge-0-{line.offset}-{line.index}"))
            if line.kind in ("grant", "correction"):
                self.note_grants(line.project)

    def note_grants(self, project: str) -> None:
        for each in self.model.projects[project].grants:
            if each.id not in self.grants:
                times = (each.granted_at_ms, each.expires_at_ms or 0)
                self.grants[each.id] = Grant(each.id, each.kind, each.environment, each.given, 0, *times)
                self.grants[each.id].contract_cents = each.contract_cents

    def use(self, project: str, operation: str, number: int, environment: str, is_new: bool = False) -> Usage:
        """A new event, or now and then one that was sent before. `number` decides what is left open."""
        before = [each for each in self.uses[-20:] if each.project == project]
        if before and number % 7 == 6 and not is_new:
            return pick(before, number)
        surcharge = {"website": "social_post.image", "chat.message": "social_post.video"}.get(operation, "")
        age_ms = pick((0, 0, 0, 1_000, HOUR_MS, DAY_MS, 25 * DAY_MS, -10 * 60_000), number)
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
        """The purchases under way: (project, id)."""
        return [
            (name, known.recharge.pending[0])
            for name, known in self.model.projects.items()
            if known.recharge is not None and known.recharge.pending
        ]

    def open_hold(self, number: int) -> tuple[str, str, str, Hold]:
        """An open hold: (project, id, environment, hold); the id is another's now and then."""
        open_ones = [(name, hold) for name, known in self.model.projects.items() for hold in known.holds]
        project, hold = pick(open_ones, number)
        hold_id = "0-999999-0" if number % 6 == 5 else hold.id
        return project, hold_id, pick(("", "", hold.usage.environment, "production"), number), hold

    def to_give_back(self, event: tuple[str, str, str]) -> list[GivenBack]:
        """The charges of an event on each grant, as history has them, that are not given back yet."""
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
