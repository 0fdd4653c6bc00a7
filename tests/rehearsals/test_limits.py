"""Rehearsals of limits on the real history agree with plain lists of times, and with what was really refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import msgspec
import pytest

from schemas.accounts import Limits
from schemas.commands import ADMISSION_SOURCE, Admit, Commands, CountRefused, CountRequest, Envelope, SetLimits
from schemas.events import Usage
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.acceptance import dedup_hash
from streams.core.booking import FACTS_PER_SLOT
from streams.core.fold import IntakeItem, fold
from streams.core.windows import TOKEN, WINDOW_MS
from streams.rehearsals import limits as module
from streams.rehearsals.limits import LimitOutcome, LimitRehearsal, rehearse_limits
from tests.core.builders import CREDIT, START_MS, addressed, top_up, usage
from tests.history.lives import BOOK, DAY_MS, Life, insert_facts

# Requests come this far apart, or at once, so that a plain model can go step by step.
STEP_MS = 100
LATER_MS = START_MS + 1_000 * DAY_MS
IN_FORCE = Limits(6, 9, 100 * CREDIT)
PROPOSALS = [IN_FORCE, Limits(3, 3, 50 * CREDIT), Limits(40, 60, 200 * CREDIT), Limits(2, 7, CREDIT)]


@dataclass(frozen=True)
class Asked:
    """A request as its sender knows it: when it came, where its record stands, and what it costs if it runs."""

    came_ms: int
    offset: int
    slot: int
    is_sure: bool
    code: str
    cost: int


class Traffic:
    """The traffic of one project, decided by the real core under IN_FORCE. `asked` has the requests that a rehearsal
    must find."""

    def __init__(self, seed: int, project: str = "p1", step_ms: int = STEP_MS) -> None:
        self.random = Random(seed)
        self.step_ms = step_ms
        self.life = Life(seed, project, plain=True)
        self.project = project
        self.asked: list[Asked] = []
        for number in range(2):
            self.life.apply(top_up(500, project, correlation=f"money{number}"))
        self.life.apply(SetLimits(project=project, limits=IN_FORCE, is_shadow=False, reason="", **addressed("limits")))
        self.number = 0

    def live(self, records: int, *, admissions_only: bool = False) -> None:
        for _ in range(records):
            gap = self.random.choice([0, 0, 0, 1, 3, 20, 20, 70, 300, 700, 9_000])
            self.life.at_ms += gap * STEP_MS if self.step_ms == STEP_MS else gap * self.random.randrange(1, 200)
            if admissions_only or self.random.random() < 0.6:
                self.ask([self._command(admissions_only) for _ in range(self.random.choice([1, 1, 2, 5]))])
            elif self.random.random() < 0.2:
                self.refuse_at_edge(self.random.choice([1, 2, 7, 30]))
            elif self.random.random() < 0.6:
                self.send([self._usage("/test") for _ in range(self.random.choice([1, 1, 2, 6]))])
            else:
                choice = self.random.choice([self.life._resolve_hold, self.life._correct, self.life._other])
                self.life.at_ms = self.at_a_step(self.life.at_ms)
                choice()
                self.life.at_ms = self.at_a_step(self.life.at_ms)

    def at_a_step(self, at_ms: int) -> int:
        return -(-at_ms // self.step_ms) * self.step_ms

    def ask(self, commands: list[Admit | CountRequest]) -> None:
        """Decide commands that share a record, and note the requests among them."""
        life = self.life
        item = IntakeItem(life.offset, life.at_ms, Commands(list(commands)))
        effects = fold(0, [item], life.accounts, life.seen, life.kept, "intake")
        life.facts += effects.facts
        for grant in life.account.grants:
            life.grants[grant.id] = msgspec.structs.replace(grant)
        for slot, (command, reply) in enumerate(effects.replies):
            code, at_ms, cost = reply.code, life.at_ms, 0
            if isinstance(command, CountRequest):
                self.asked.append(Asked(at_ms, life.offset, slot, True, code, 0))
            elif reply.already_decided or code in ("event_id_reused", "job_id_reused"):
                continue  # an event or a job that was there before
            else:
                used = command.usage
                limited = code in ("rate_limited", "over_cost_ceiling")
                if not code or limited:
                    cost = price(used)
                if not code:
                    assert reply.amount == cost
                sure = bool(limited or used.source == ADMISSION_SOURCE or (command.hold_seconds and not code))
                came_ms = at_ms if sure else used.occurred_at_ms
                self.asked.append(Asked(came_ms, life.offset, slot, sure, code, cost))
        life.offset += 1

    def refuse_at_edge(self, many: int) -> None:
        """Have requests counted that an API process refused by itself, and note each of them."""
        at_ms, offset = self.life.at_ms, self.life.offset
        self.number += 1
        called = {"operation": "GET *", "environment": "production", "first_at_ms": at_ms, "last_at_ms": at_ms}
        named = addressed(f"r{self.number}") | {"actor": "k"}
        self.life.apply(CountRefused(project=self.project, count=many, **called, **named))
        self.asked += [Asked(at_ms, offset, 0, True, "rate_limited", 0)] * many

    def send(self, usages: list[Usage]) -> None:
        """Decide usage events that share a record, and note the requests among them."""
        offset, before = self.life.offset, len(self.life.facts)
        self.life.apply(Envelope(usages))
        facts = self.life.facts[before:]
        # Those of an open hold capture it; the request is the hold's.
        duplicates = {
            fact.index // FACTS_PER_SLOT for fact in facts if fact.kind == "duplicate" or fact.reason == "captured"
        }
        # From before the project was opened, or from while it was closed.
        too_early = {
            fact.index // FACTS_PER_SLOT for fact in facts if fact.reason in ("time_out_of_range", "project_closed")
        }
        for slot, used in enumerate(usages):
            if slot not in duplicates:
                # The other environment has no credits.
                is_charged = used.environment == "production" and slot not in too_early
                cost = price(used) if is_charged else 0
                self.asked.append(Asked(used.occurred_at_ms, offset, slot, False, "", cost))

    def _command(self, admissions_only: bool) -> Admit | CountRequest:
        choice = self.random.random()
        self.number += 1
        common = {"project": self.project, **addressed(f"r{self.number}")}
        if choice < 0.3:
            return CountRequest(operation="GET /v1/balance", environment="production", **common)
        source = ADMISSION_SOURCE if admissions_only else self.random.choice([ADMISSION_SOURCE, "/test"])
        seconds = self.random.choice([0, 0, 3_600])
        # A repeated admission counts in the window when it comes, and leaves nothing that tells it from a usage event.
        used = self._usage(source, repeats=0 if admissions_only else 0.1)
        return Admit(usage=used, hold_seconds=seconds, **common)

    def _usage(self, source: str, repeats: float = 0.1) -> Usage:
        operation, surcharge = self.random.choice(
            [
                ("chat.message", ""),
                ("image", ""),
                ("read", ""),
                ("website", ""),
                ("social_post.text", "social_post.image"),
            ]
        )
        self.number += 1
        name = f"u{self.random.randrange(self.number) if self.random.random() < repeats else self.number}"
        late = self.random.choice([0, 0, 1, 40, 2_000]) if source == "/test" else 0
        return usage(
            name,
            self.project,
            operation,
            source=source,
            dedup_hash=dedup_hash(self.project, source, name),
            surcharge=surcharge,
            environment=self.random.choice(["production"] * 5 + ["preview"]),
            occurred_at_ms=self.life.at_ms - late * STEP_MS,
        )


def price(used: Usage) -> int:
    rates = BOOK.rates
    return (rates[used.operation] + (rates[used.surcharge] if used.surcharge else 0)) * used.quantity


class PlainLimits:
    """A plain model of both limits, word by word, a tenth of a second at a time: nothing happens in between. Burst
    tokens that are spent are counted in 60,000ths."""

    def __init__(self, limits: Limits, now_ms: int) -> None:
        self.limits, self.now_ms, self.owed = limits, now_ms, 0
        self.times: list[int] = []
        self.spent: list[tuple[int, int]] = []

    def stops(self, now_ms: int, cost: int) -> str:
        limit, burst, ceiling = self.limits.requests_per_minute, self.limits.burst, self.limits.cost_ceiling
        while self.now_ms < now_ms and self.owed:
            if self._recent() < limit:
                self.owed = max(0, self.owed - STEP_MS * limit)
            self.now_ms += STEP_MS
        self.now_ms = now_ms
        if self._recent() >= limit:
            if self.owed + TOKEN > (burst - limit) * TOKEN:
                return "window"
            self.owed += TOKEN
        self.times.append(now_ms)
        if cost > ceiling:
            return "above"
        if sum(each for at_ms, each in self.spent if at_ms + WINDOW_MS > now_ms) + cost > ceiling:
            return "ceiling"
        self.spent.append((now_ms, cost))
        return ""

    def _recent(self) -> int:
        self.times = [at_ms for at_ms in self.times if at_ms + WINDOW_MS > self.now_ms]
        return len(self.times)


def check(found: LimitOutcome, asked: list[Asked], limits: Limits) -> None:
    """Check that a project's outcome is what plain lists of times say."""
    asked = sorted(asked, key=lambda one: (one.came_ms, one.offset, one.slot))
    model = PlainLimits(limits, asked[0].came_ms)
    stopped = [(model.stops(one.came_ms, one.cost), one) for one in asked]
    said = [stop for stop, _ in stopped]
    counts = found.counts
    assert counts.requests == len(asked)
    assert counts.maybe_events == sum(not one.is_sure for one in asked)
    assert counts.was_limited == sum(one.code == "rate_limited" for one in asked)
    assert counts.was_above_ceiling == sum(one.code == "over_cost_ceiling" for one in asked)
    assert (counts.by_window, counts.by_ceiling, counts.above_ceiling) == tuple(
        map(said.count, ("window", "ceiling", "above"))
    )
    assert counts.amount_refused == sum(one.cost for stop, one in stopped if stop in ("ceiling", "above"))
    limited_at = [one.came_ms for stop, one in stopped if stop]
    assert (counts.first_at_ms, counts.last_at_ms) == (min(limited_at, default=None), max(limited_at, default=None))
    minutes = [
        [each for each in asked[: place + 1] if each.came_ms + WINDOW_MS > one.came_ms]
        for place, one in enumerate(asked)
    ]
    assert found.busiest_requests.amount == max(len(minute) for minute in minutes)
    costs = [sum(one.cost for one in minute) for minute in minutes]
    assert found.busiest_cost.amount == max(costs)
    if max(costs):
        assert found.busiest_cost.at_ms == asked[costs.index(max(costs))].came_ms


def everyone(limits: Limits) -> Callable[[str], tuple[str, Limits]]:
    return lambda _: ("free", limits)


def _tell(told: list[tuple[int, int]], done: int, of: int) -> None:
    told.append((done, of))


def rehearsed(embedded: ClickHouse, lives: list[Traffic], limits: Limits, **options: object) -> LimitRehearsal:
    prices = lives[0].life.prices
    return rehearse_limits(embedded, prices, everyone(limits), 0, LATER_MS, **options)


@pytest.mark.parametrize("seed", range(6))
def test_it_says_what_plain_lists_of_times_say(
    embedded: ClickHouse, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A page is large enough for two of the projects together, and too small for the third.
    monkeypatch.setattr(module, "FACTS_A_PAGE", 60)
    lives = [Traffic(seed * 10 + number, f"p{number}") for number in range(3)]
    for traffic, records in zip(lives, (8, 8, 150), strict=True):
        traffic.live(records)
    migrate(embedded)
    for partition, traffic in enumerate(lives):
        insert_facts(embedded, traffic.life.facts, partition)
    for limits in PROPOSALS:
        for with_events in (True, False):
            told: list[tuple[int, int]] = []
            tell = partial(_tell, told)
            found = rehearsed(embedded, lives, limits, with_events=with_events, on_progress=tell)
            assert len(told) > 4 and told[0][0] == 0 and told[-1][0] == told[-1][1] == told[0][1]
            assert told == sorted(told)
            outcomes = {one.project: one for one in found.worst}
            for traffic in lives:
                asked = [one for one in traffic.asked if with_events or one.is_sure]
                check(outcomes[traffic.project], asked, limits)
            assert found.total.requests == sum(one.counts.requests for one in found.worst)
            assert [one.harm for one in found.worst] == sorted((one.harm for one in found.worst), reverse=True)
            assert found.projects_hurt == sum(one.counts.harm > 0 for one in found.worst)


@pytest.mark.parametrize("seed", range(6))
def test_under_the_limits_that_held_what_was_refused_is_refused_and_nothing_else(
    embedded: ClickHouse, seed: int
) -> None:
    traffic = Traffic(seed, step_ms=1)
    traffic.live(120, admissions_only=True)
    migrate(embedded)
    insert_facts(embedded, traffic.life.facts)
    (found,) = rehearsed(embedded, [traffic], IN_FORCE).worst
    limited = [one for one in traffic.asked if one.code in ("rate_limited", "over_cost_ceiling")]
    counts = found.counts
    assert counts.maybe_events == 0
    assert counts.by_window + counts.by_ceiling == counts.was_limited
    assert counts.by_window > 0 and counts.by_ceiling > 0
    assert counts.above_ceiling == counts.was_above_ceiling > 0
    assert (counts.first_at_ms, counts.last_at_ms) == (limited[0].came_ms, limited[-1].came_ms)
    assert counts.harm == 0
    (loose,) = rehearsed(embedded, [traffic], Limits(10_000, 10_000, 10_000 * CREDIT)).worst
    assert loose.counts.by_window == loose.counts.amount_refused == 0
    assert loose.counts.harm == -len(limited)


@pytest.mark.parametrize("seed", range(3))
def test_however_it_is_cut_into_pages_it_comes_out_the_same(
    embedded: ClickHouse, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = [Traffic(seed * 10 + number, f"p{number}", step_ms=1) for number in range(2)]
    for traffic in lives:
        traffic.live(100)
    migrate(embedded)
    for partition, traffic in enumerate(lives):
        insert_facts(embedded, traffic.life.facts, partition)
    times = sorted(one.came_ms for traffic in lives for one in traffic.asked)
    since_ms, until_ms = times[len(times) // 5], times[len(times) * 4 // 5]

    def run() -> LimitRehearsal:
        prices, limits = lives[0].life.prices, everyone(PROPOSALS[1])
        return rehearse_limits(embedded, prices, limits, since_ms, until_ms)

    whole = run()
    assert whole.total.requests == sum(since_ms <= at_ms < until_ms for at_ms in times)
    for facts in (1, 7, 50):
        monkeypatch.setattr(module, "FACTS_A_PAGE", facts)
        assert run() == whole


def test_who_would_be_hurt_comes_first_and_who_asked_for_nothing_not_at_all(embedded: ClickHouse) -> None:
    lives = [Traffic(1, name) for name in ("idle", "calm", "dear", "eager")]
    idle, calm, dear, eager = lives

    def ask(traffic: Traffic, operation: str, times: int) -> None:
        for number in range(times):
            traffic.life.at_ms += 1_000
            name, project = f"u{number}", traffic.project
            hashed = dedup_hash(project, ADMISSION_SOURCE, name)
            used = usage(name, project, operation, source=ADMISSION_SOURCE, dedup_hash=hashed)
            traffic.ask([Admit(project=project, usage=used, **addressed(name))])

    ask(calm, "chat.message", 2)
    ask(dear, "image", 4)  # 128 credits, of which 32 are refused
    ask(eager, "chat.message", 9)
    migrate(embedded)
    for partition, traffic in enumerate(lives):
        insert_facts(embedded, traffic.life.facts, partition)
    found = rehearsed(embedded, lives, Limits(4, 5, 90 * CREDIT), worst_max=2)
    assert [(one.project, one.counts.by_window, one.counts.by_ceiling) for one in found.worst] == [
        ("eager", 4, 0),
        ("dear", 0, 2),
    ]
    assert found.worst[1].counts.amount_refused == 64 * CREDIT
    assert (found.projects, found.projects_hurt) == (3, 2)
    total = found.total
    assert (total.requests, total.by_window, total.by_ceiling, total.was_limited) == (15, 4, 2, 1)
    assert (total.first_at_ms, total.last_at_ms) == (START_MS + 3_000, START_MS + 9_000)

    # Rehearsals of one project, of the projects that the limits are for, and of none.
    (alone,) = rehearsed(embedded, lives, Limits(4, 5, 90 * CREDIT), project="calm").worst
    assert (alone.project, alone.counts.requests, alone.busiest_requests.amount) == ("calm", 2, 2)
    prices = calm.life.prices
    some = rehearse_limits(
        embedded, prices, lambda name: None if name == "eager" else ("free", PROPOSALS[3]), 0, LATER_MS
    )
    assert {one.project for one in some.worst} == {"calm", "dear"}
    for nothing in ({"project": "idle"}, {"project": "nobody"}):
        with pytest.raises(Rejection) as caught:
            rehearsed(embedded, lives, IN_FORCE, **nothing)
        assert caught.value.code == "no_traffic"
    with pytest.raises(Rejection):
        rehearse_limits(embedded, prices, everyone(IN_FORCE), LATER_MS, LATER_MS + DAY_MS)
