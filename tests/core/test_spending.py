"""Spending: whoever runs dry before the renewal hears of it, once until it is over."""

from __future__ import annotations

from itertools import count

import msgspec

from schemas.commands import BillDelivery, CloseProject, Envelope, Tick
from schemas.times import DAY_MS, HOUR_MS
from streams.core.booking import available
from streams.core.spending import empty_at_ms, spent_in_24_hours
from tests.core.builders import CREDIT, START_MS, top_up, usage
from tests.core.test_past import Log

numbers = count()


class Spender(Log):
    """A log, whose project spends."""

    def spend(self, credits: int, at_ms: int | None = None, environment: str = "production") -> None:
        self.at_ms = self.at_ms if at_ms is None else at_ms
        used = usage(f"s{next(numbers)}", quantity=credits, occurred_at_ms=self.at_ms, environment=environment)
        self.apply(Envelope([used]))

    def tick(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.apply(Tick(["p1"]))

    def dry(self) -> list[tuple[int, dict[str, int]]]:
        """The times at which it was told that the credits do not last, and what was said then."""
        return [
            (each.occurred_at_ms, msgspec.json.decode(each.metadata))
            for each in self.facts
            if (each.kind, each.reason) == ("notice", "time_to_empty")
        ]


def test_whoever_runs_dry_before_the_renewal_hears_of_it_once_until_that_is_over() -> None:
    log = Spender()
    hour_ms = (START_MS // HOUR_MS + 1) * HOUR_MS
    log.spend(5)
    log.tick(hour_ms - 1)
    log.tick(hour_ms)
    assert log.dry() == [], "5 credits a day last until the renewal"
    log.spend(30, hour_ms + 1)
    log.tick(hour_ms + HOUR_MS + 7)
    ((at_ms, said),) = log.dry()
    assert at_ms == hour_ms + HOUR_MS
    left, spent = 215 * CREDIT, 35 * CREDIT
    assert said == {
        "available_microcredits": left,
        "spent_in_24_hours_microcredits": spent,
        "empty_at_ms": at_ms + left * DAY_MS // spent,
        "renews_at_ms": log.account.renews_at_ms,
    }
    for _ in range(3):  # it holds still
        log.spend(5, log.at_ms + HOUR_MS)
        log.tick(log.at_ms + HOUR_MS)
    assert len(log.dry()) == 1
    # Two days later hardly anything is spent, and after that much again.
    log.spend(1, log.at_ms + 2 * DAY_MS)
    log.spend(1, log.at_ms + HOUR_MS)
    log.spend(60, log.at_ms + 2 * DAY_MS)
    log.tick(log.at_ms + HOUR_MS)
    assert len(log.dry()) == 2
    for hour in range(60):
        log.spend(1, log.at_ms + HOUR_MS * (1 + hour % 2))
    (watch,) = log.account.watches
    assert len(watch.spent) <= 25 and sum(watch.spent) < 25 * CREDIT


def test_the_rate_is_of_24_hours_and_of_an_environment() -> None:
    log = Spender()
    log.apply(top_up(environment="preview", correlation="t"))
    begin_ms = (START_MS // HOUR_MS + 1) * HOUR_MS
    log.spend(4, begin_ms)
    log.spend(3_900, begin_ms, "preview")
    log.tick(begin_ms + HOUR_MS)
    assert [fact.environment for fact in log.facts if fact.reason == "time_to_empty"] == ["preview"]
    # What was spent 24 hours before the full hour does not count, and what came just after it does.
    log.spend(5, begin_ms + DAY_MS - 1)
    log.tick(begin_ms + DAY_MS)
    assert sum(each[0] == begin_ms + DAY_MS for each in log.dry()) == 1


def test_who_is_closed_or_empty_hears_nothing_of_it() -> None:
    closed, empty = Spender(), Spender()
    closed.spend(100)
    closed.do(CloseProject, reason="unpaid")
    empty.spend(250)
    for log in (closed, empty):
        log.tick(log.at_ms + 2 * HOUR_MS)
        assert log.dry() == []


def test_what_a_delivery_costs_is_no_spending_and_crosses_nothing_by_itself() -> None:
    log = Spender()
    log.spend(199)
    told = [fact for fact in log.facts if fact.kind == "notice"]
    spent = list(log.account.watches[0].spent)
    for number in range(60):
        log.do(BillDelivery, environment="production", attempt_id=f"a{number}", endpoint_id="whe_1")
    assert available(log.account, "production") == 51 * CREDIT - 60 * 20_000
    assert [fact for fact in log.facts if fact.kind == "notice"] == told
    assert log.account.watches[0].spent == spent
    log.spend(1)
    assert [fact.reason for fact in log.facts if fact.kind == "notice"] == ["credits_low"], "the next use tells it"


def test_what_is_spent_within_an_hour_is_summed_and_hours_before_a_day_are_forgotten() -> None:
    log = Spender()
    hour = START_MS // HOUR_MS + 1
    for credits, at_ms in ((3, hour * HOUR_MS), (4, hour * HOUR_MS + 1), (5, (hour + 1) * HOUR_MS - 1)):
        log.spend(credits, at_ms)
    (watch,) = log.account.watches
    assert (watch.first_hour, watch.spent, watch.look_at_ms) == (hour, [12 * CREDIT], (hour + 1) * HOUR_MS)
    log.spend(6, (hour + 10) * HOUR_MS)
    log.spend(7, (hour + 30) * HOUR_MS)
    (watch,) = log.account.watches
    spent = [0] * 25
    spent[4], spent[24] = 6 * CREDIT, 7 * CREDIT
    assert (watch.first_hour, watch.spent) == (hour + 6, spent)


def test_an_environment_that_spends_nothing_or_has_nothing_does_not_hide_another() -> None:
    for emptied in (0, 250):
        log = Spender()
        log.apply(top_up(environment="preview"))
        hour_ms = (START_MS // HOUR_MS + 1) * HOUR_MS
        if emptied:
            log.spend(emptied, hour_ms)
        log.spend(3_000, hour_ms, environment="preview")
        log.tick(hour_ms + HOUR_MS)
        told = [fact.environment for fact in log.facts if fact.reason == "time_to_empty"]
        assert told == ["preview"], emptied


def test_the_pace_of_24_hours_is_what_the_notice_says_at_a_full_hour_and_between_hours_between() -> None:
    log = Spender()
    hour_ms = (START_MS // HOUR_MS + 1) * HOUR_MS
    log.spend(8, hour_ms)
    log.spend(20, hour_ms + 3 * HOUR_MS)
    log.spend(7, hour_ms, environment="preview")

    def spent(at_ms: int) -> int:
        return spent_in_24_hours(log.account, "production", at_ms)

    assert [spent(hour_ms + 4 * HOUR_MS), spent(hour_ms + DAY_MS)] == [28 * CREDIT] * 2
    assert spent(hour_ms + DAY_MS + HOUR_MS // 4) == 26 * CREDIT, "a quarter of the first hour is over a day ago"
    assert spent(hour_ms + DAY_MS + HOUR_MS) == 20 * CREDIT
    assert spent(hour_ms + DAY_MS + 4 * HOUR_MS) == 0
    log.spend(1, hour_ms + DAY_MS + 4 * HOUR_MS)
    assert spent(log.at_ms) == CREDIT, "what was forgotten since counts no more"


def test_credits_end_at_the_pace_or_not_at_all() -> None:
    assert empty_at_ms(10 * CREDIT, 5 * CREDIT, START_MS) == START_MS + 2 * DAY_MS
    assert empty_at_ms(0, 0, START_MS) == START_MS, "nothing is left"
    assert empty_at_ms(10 * CREDIT, 0, START_MS) is None
    assert empty_at_ms(10 * CREDIT, -3, START_MS) is None, "more was given back than spent"
    assert empty_at_ms(CREDIT * 1_000_000_000, 1, START_MS) is None, "no time that a date could name"
