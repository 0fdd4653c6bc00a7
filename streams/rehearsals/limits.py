"""A rehearsal of limits runs the recorded requests of the last days once more, through the core's own windows.

A request is one decision: an admission, whatever became of it, or a call of the API that was counted. The history does
not say whether a charge came by an admission that named its event or by the event itself. So usage events are requests
too, unless the caller leaves them out, and with them each admission that may have been one. An admission came when it
was booked, an event when it occurred.

Requests that the API refused by itself are recorded by the second: they come at once, and cost nothing, since nobody
looked at what they asked for.

Repeats of an event or a job (`duplicate`), captures, corrections and recurring items are not replayed. A request that
was limited costs what the price book says; one that was refused for another reason costs nothing, as it did. A caller
that was limited may have tried again, and so might one that the proposal limits: requests are taken as they came. Each
project begins rested.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.accounts import Limits
from schemas.commands import ADMISSION_SOURCE
from schemas.events import EVENT_AHEAD_MINUTES_MAX
from schemas.facts import LIMITED_AT_EDGE
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse, sql_literal
from streams.clickhouse.limits import LONG
from streams.core.booking import FACTS_PER_SLOT
from streams.core.price_list import Prices
from streams.core.windows import ABOVE_CEILING, CEILING, WINDOW, WINDOW_MS, count_requests, rested, try_request
from streams.history.facts import REFUSED, USED, kind_in

DAYS_MAX = 31
FACTS_A_PAGE = 50_000
PROJECTS_A_PAGE = 200
_MINUTE_MS = 60_000
_AHEAD_MS = EVENT_AHEAD_MINUTES_MAX * _MINUTE_MS


@dataclass(slots=True)
class Counts:
    """Counts of requests, and of those that were or would have been refused. Amounts in microcredits, times in Unix
    milliseconds; None is never.

    `maybe_events` of the requests may have come as usage events. `was_limited` and `was_above_ceiling` count recorded
    refusals, `rate_limited` and `over_cost_ceiling`. All other fields are under the proposal. `amount_refused` is the
    cost of requests that the ceiling would have refused, for now (`by_ceiling`) or for good (`above_ceiling`).
    """

    requests: int = 0
    maybe_events: int = 0
    was_limited: int = 0
    was_above_ceiling: int = 0
    by_window: int = 0
    by_ceiling: int = 0
    above_ceiling: int = 0
    amount_refused: int = 0
    first_at_ms: int | None = None
    last_at_ms: int | None = None

    @property
    def harm(self) -> int:
        """The number of requests that would have been refused, less the number that were."""
        return self.by_window + self.by_ceiling + self.above_ceiling - self.was_limited - self.was_above_ceiling

    def add(self, other: Counts) -> None:
        """Add the counts of another project."""
        for name in ("requests", "maybe_events", "was_limited", "was_above_ceiling", "by_window", "by_ceiling"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.above_ceiling += other.above_ceiling
        self.amount_refused += other.amount_refused
        if other.first_at_ms is not None and other.last_at_ms is not None:
            self.first_at_ms = min(other.first_at_ms, self.first_at_ms or other.first_at_ms)
            self.last_at_ms = max(other.last_at_ms, self.last_at_ms or other.last_at_ms)


@dataclass(slots=True)
class Busiest:
    """The most requests, or cost, that came in any 60 seconds, limited or not, and when the last of them came."""

    amount: int = 0
    at_ms: int | None = None


@dataclass(slots=True)
class LimitOutcome:
    """The outcome for one project. `limits` are the limits that its requests were replayed under."""

    project: str
    plan: str
    limits: Limits
    counts: Counts = field(default_factory=Counts)
    busiest_requests: Busiest = field(default_factory=Busiest)
    busiest_cost: Busiest = field(default_factory=Busiest)

    @property
    def harm(self) -> tuple[int, int, str]:
        """The key that sorts by who would be hurt most: requests that would not run any more, then credits."""
        return self.counts.harm, self.counts.amount_refused, self.project


@dataclass(slots=True)
class LimitRehearsal:
    """The result of a rehearsal of limits. `worst` has the projects with the most harm, the most first; `total` is over
    all projects that asked for anything."""

    since_ms: int
    until_ms: int
    projects: int = 0
    projects_hurt: int = 0
    total: Counts = field(default_factory=Counts)
    worst: list[LimitOutcome] = field(default_factory=list)


def rehearse_limits(
    clickhouse: ClickHouse,
    prices: Prices,
    limits_for: Callable[[str], tuple[str, Limits] | None],
    since_ms: int,
    until_ms: int,
    *,
    project: str | None = None,
    with_events: bool = True,
    worst_max: int = 100,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> LimitRehearsal:
    """Replay the requests of [since, until), of one project or all.

    `limits_for` gives a project's plan and the limits to replay it under, or None to leave it out. `on_progress` is
    told (facts done, all facts). A page of requests is in memory at a time, at least a minute of a project. Raises
    Rejection `no_traffic` where nothing was recorded.
    """
    traffic = _Traffic(clickhouse.limited(LONG), since_ms, until_ms, project, with_events)
    rehearsal = LimitRehearsal(since_ms, until_ms)
    worst: list[tuple[tuple[int, int, str], LimitOutcome]] = []

    def done(replay: _LimitReplay) -> None:
        outcome = replay.outcome
        rehearsal.projects += 1
        rehearsal.projects_hurt += outcome.counts.harm > 0
        rehearsal.total.add(outcome.counts)
        push = heapq.heappush if len(worst) < worst_max else heapq.heappushpop
        push(worst, (outcome.harm, outcome))

    asked = {name: found for name in traffic.facts if (found := limits_for(name)) is not None}
    facts_all = sum(traffic.facts[name] for name in asked)
    facts_done = 0
    on_progress(0, facts_all)
    replay: _LimitReplay | None = None
    for page in traffic.pages(list(asked)):
        for request in traffic.requests(page):
            if replay is None or replay.outcome.project != request.project:
                if replay is not None:
                    done(replay)
                replay = _LimitReplay(LimitOutcome(request.project, *asked[request.project]), prices, request.at_ms)
            replay.take(request)
        facts_done += page.facts
        on_progress(facts_done, facts_all)
    if replay is None:
        raise Rejection("no_traffic", "No requests were recorded in that time")
    done(replay)
    rehearsal.worst = [outcome for _, outcome in sorted(worst, key=lambda each: each[0], reverse=True)]
    return rehearsal


@dataclass(slots=True)
class _PastRequest:
    """A request, decided once. `amount` is what it was charged, or held; the fields after it serve to price it.

    With the reason `LIMITED_AT_EDGE` it is `quantity` requests, none of which was decided."""

    project: str
    at_ms: int
    is_sure: bool
    reason: str
    amount: int
    operation: str
    surcharge: str
    quantity: int
    occurred_at_ms: int


class _LimitReplay:
    """The replay of one project: its window under the proposal, and its counts."""

    def __init__(self, outcome: LimitOutcome, prices: Prices, at_ms: int) -> None:
        self.outcome = outcome
        self._prices = prices
        self._window = rested(at_ms)
        # The requests of the last 60 seconds: (when, how many, microcredits).
        self._minute: deque[tuple[int, int, int]] = deque()
        self._minute_count = 0
        self._minute_cost = 0

    def take(self, request: _PastRequest) -> None:
        """Replay the next request."""
        if request.reason == LIMITED_AT_EDGE:
            self._take_many(request.at_ms, request.quantity)
            return
        counts, at_ms = self.outcome.counts, request.at_ms
        counts.requests += 1
        counts.maybe_events += not request.is_sure
        counts.was_limited += request.reason == "rate_limited"
        counts.was_above_ceiling += request.reason == "over_cost_ceiling"
        cost = self._cost(request)
        self._note_minute(at_ms, 1, cost)
        stopped = try_request(self._window, self.outcome.limits, at_ms, cost)
        if not stopped:
            return
        counts.by_window += stopped == WINDOW
        counts.by_ceiling += stopped == CEILING
        counts.above_ceiling += stopped == ABOVE_CEILING
        if stopped != WINDOW:
            counts.amount_refused += cost
        self._note_stopped(at_ms)

    def _take_many(self, at_ms: int, many: int) -> None:
        """Replay requests that the API refused by itself."""
        counts = self.outcome.counts
        counts.requests += many
        counts.was_limited += many
        self._note_minute(at_ms, many, 0)
        passed = count_requests(self._window, self.outcome.limits, at_ms, many)
        counts.by_window += many - passed
        if passed < many:
            self._note_stopped(at_ms)

    def _note_stopped(self, at_ms: int) -> None:
        counts = self.outcome.counts
        counts.last_at_ms = at_ms
        if counts.first_at_ms is None:
            counts.first_at_ms = at_ms

    def _cost(self, request: _PastRequest) -> int:
        if request.reason not in ("rate_limited", "over_cost_ceiling"):
            return request.amount
        # A counted call of the API has no price.
        rates = self._prices.at(request.occurred_at_ms).rates
        return (rates.get(request.operation, 0) + rates.get(request.surcharge, 0)) * request.quantity

    def _note_minute(self, at_ms: int, many: int, cost: int) -> None:
        minute = self._minute
        minute.append((at_ms, many, cost))
        self._minute_count += many
        self._minute_cost += cost
        while minute[0][0] + WINDOW_MS <= at_ms:
            _, gone, gone_cost = minute.popleft()
            self._minute_count -= gone
            self._minute_cost -= gone_cost
        for busiest, amount in (
            (self.outcome.busiest_requests, self._minute_count),
            (self.outcome.busiest_cost, self._minute_cost),
        ):
            if amount > busiest.amount:
                busiest.amount, busiest.at_ms = amount, at_ms


@dataclass(slots=True)
class _Page:
    """Projects whose requests of [since, until) are read at once, with the earliest and the latest time that those
    were booked at."""

    projects: list[str]
    facts: int
    since_ms: int
    until_ms: int
    booked_from_ms: int
    booked_to_ms: int


# The facts that only an admission or a counted call leaves, and those of an admission that names no event.
_SURE = (
    f"({kind_in('request', 'hold')} "
    f"OR reason IN ('rate_limited', 'over_cost_ceiling', 'too_many_holds', '{LIMITED_AT_EDGE}') "
    f"OR source = {sql_literal(ADMISSION_SOURCE)})"
)
# Neither captures nor what time brought.
_REQUESTS = f"({kind_in('request')} OR ({USED} AND source != '') OR {REFUSED})"
_CAME_AT_MS = f"toUnixTimestamp64Milli(if({_SURE}, booked_at, occurred_at))"
_BOOKED_AT_MS = "toUnixTimestamp64Milli(booked_at)"
# Later than any request; the engine's times end soon after it.
_LATEST_MS = 9_000_000_000_000
_WHERE = (
    f"{_REQUESTS} AND {_CAME_AT_MS} >= {{since:Int64}} AND {_CAME_AT_MS} < {{until:Int64}} "
    "AND booked_at >= fromUnixTimestamp64Milli({booked_from:Int64}, 'UTC') "
)


class _Traffic:
    """The recorded requests of [since, until). `facts` is the number of their facts, by project."""

    def __init__(
        self, clickhouse: ClickHouse, since_ms: int, until_ms: int, project: str | None, with_events: bool
    ) -> None:
        self._clickhouse = clickhouse
        self._where = _WHERE if with_events else f"{_WHERE} AND {_SURE}"
        self._whole = _Page([], 0, since_ms, until_ms, since_ms - _AHEAD_MS, _LATEST_MS)
        condition, parameters = "", {}
        if project is not None:
            condition, parameters = "AND project = {project:String}", {"project": project}
        rows = clickhouse.query(
            f"SELECT project, count() FROM facts WHERE {self._where} {condition} GROUP BY project ORDER BY project",
            _parameters(self._whole) | parameters,
        )
        self.facts: dict[str, int] = {row[0]: row[1] for row in rows}

    def pages(self, projects: Sequence[str]) -> Iterator[_Page]:
        """Split projects, in order, into pages: many small projects at once, a large one some minutes at a time."""
        some, facts = list[str](), 0
        for project in projects:
            count = self.facts[project]
            if some and (facts + count > FACTS_A_PAGE or len(some) == PROJECTS_A_PAGE):
                yield self._page(some, facts)
                some, facts = [], 0
            if count > FACTS_A_PAGE:
                yield from self._pages_of(project)
            else:
                some.append(project)
                facts += count
        if some:
            yield self._page(some, facts)

    def requests(self, page: _Page) -> Iterator[_PastRequest]:
        """Read the requests of a page, by project and time."""
        rows = self._clickhouse.query(
            "SELECT project, came, any(is_sure), any(why), sum(cost), any(what), any(beside), any(units), any(occurred)"
            f" FROM (SELECT project, partition, offset, intDiv(position, {FACTS_PER_SLOT}) AS slot, "
            f"{_CAME_AT_MS} AS came, {_SURE} AS is_sure, reason AS why, held - amount AS cost, operation AS what, "
            "surcharge AS beside, quantity AS units, toUnixTimestamp64Milli(occurred_at) AS occurred "
            f"FROM facts WHERE {self._where} AND project IN {{projects:Array(String)}} "
            "AND booked_at <= fromUnixTimestamp64Milli({booked_to:Int64}, 'UTC')) "
            "GROUP BY project, came, partition, offset, slot ORDER BY project, came, partition, offset, slot",
            _parameters(page) | {"projects": page.projects, "booked_to": page.booked_to_ms},
        )
        for row in rows:
            yield _PastRequest(*row)

    def _page(self, projects: list[str], facts: int) -> _Page:
        whole = self._whole
        return _Page(projects, facts, whole.since_ms, whole.until_ms, whole.booked_from_ms, whole.booked_to_ms)

    def _pages_of(self, project: str) -> Iterator[_Page]:
        rows = self._clickhouse.query(
            f"SELECT intDiv({_CAME_AT_MS}, {_MINUTE_MS}) * {_MINUTE_MS} AS minute, count(), min({_BOOKED_AT_MS}), "
            f"max({_BOOKED_AT_MS}) FROM facts WHERE {self._where} AND project = {{project:String}} "
            "GROUP BY minute ORDER BY minute",
            _parameters(self._whole) | {"project": project},
        )
        page: _Page | None = None
        for minute_ms, facts, booked_from_ms, booked_to_ms in rows:
            if page is not None and page.facts + facts <= FACTS_A_PAGE:
                page.facts += facts
                page.until_ms = minute_ms + _MINUTE_MS
                page.booked_from_ms = min(page.booked_from_ms, booked_from_ms)
                page.booked_to_ms = max(page.booked_to_ms, booked_to_ms)
                continue
            if page is not None:
                yield self._within(page)
            page = _Page([project], facts, minute_ms, minute_ms + _MINUTE_MS, booked_from_ms, booked_to_ms)
        if page is not None:
            yield self._within(page)

    def _within(self, page: _Page) -> _Page:
        """Cut the first and the last minute of a page where the time asked for begins and ends."""
        page.since_ms = max(page.since_ms, self._whole.since_ms)
        page.until_ms = min(page.until_ms, self._whole.until_ms)
        return page


def _parameters(page: _Page) -> dict[str, Any]:
    return {"since": page.since_ms, "until": page.until_ms, "booked_from": page.booked_from_ms}
