"""Recurring items cost full hours at the rate that held, are billed once a month, and what credits lack stays due."""

from datetime import UTC, datetime

import msgspec

from schemas.commands import CloseProject, Envelope, PublishPrices, ReleaseHold, SetItem, Tick
from schemas.facts import Fact
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.times import DAY_MS, HOUR_MS
from streams.core.booking import FACTS_PER_SLOT, available
from streams.core.decisions import command_reply
from streams.core.fold import IntakeItem, fold
from streams.core.items import UNITS_MAX, metered, unpaid
from streams.core.price_list import HOURLY_RATE_MAX, PRICES_ID, Prices
from streams.core.replies import Kept
from tests.core.builders import CREDIT, addressed, admit, create_project, untold, usage
from tests.core.test_ledger import Bench


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


MAY_20 = at("2026-05-20T10:15")
JUNE = at("2026-06-01")
JULY = at("2026-07-01")


def book(version: str, effective_at_ms: int, **hourly: int) -> PriceBook:
    return PriceBook(
        version, effective_at_ms, FIRST_PRICE_BOOK.rates, FIRST_PRICE_BOOK.plan_required, hourly, effective_at_ms
    )


def opened(plan: str = "free", at_ms: int = MAY_20, prices: Prices | None = None) -> Bench:
    return Bench(plan, at_ms, prices or Prices([book("hours", at("2026-05-01"), domain=1_000, account=20_000)]))


def set_item(bench: Bench, operation: str, quantity: int, at_ms: int):
    command = SetItem(project="p1", operation=operation, quantity=quantity, **addressed())
    return command_reply(bench.booking(at_ms), command, False)


def bills(facts: list[Fact]) -> list[tuple[str, int, int, str]]:
    return [(f.operation, f.quantity, f.amount, f.price_version) for f in facts if f.reason == "recurring"]


def test_a_month_of_hours_is_billed_exactly_at_its_end() -> None:
    bench = opened()
    set_item(bench, "domain", 3, JUNE)
    before = available(bench.account, "production")
    bench.booking(JULY - 1)
    assert bills(bench.facts) == []
    bench.booking(JULY)
    # The bill is of 30 days of 24 hours, 3 units, at 1,000 microcredits.
    assert bills(bench.facts) == [("domain", 3 * 720, -3 * 720 * 1_000, "hours")]
    charge = next(fact for fact in bench.facts if fact.reason == "recurring")
    assert (charge.source, charge.occurred_at_ms, charge.metadata) == ("", JULY, '{"month":"2026-06"}')
    assert before == 250 * CREDIT


def test_hours_that_cost_nothing_are_told_all_the_same() -> None:
    bench = opened(prices=Prices([book("free", at("2026-05-01"), domain=0)]))
    set_item(bench, "domain", 3, JUNE)
    bench.booking(JULY)
    assert bills(bench.facts) == [("domain", 3 * 720, 0, "free")]
    charge = next(fact for fact in bench.facts if fact.reason == "recurring")
    assert (charge.grant_id, charge.amount, charge.balance) == ("", 0, 250 * CREDIT)


def test_only_full_hours_count() -> None:
    bench = opened(at_ms=at("2026-06-10"))
    set_item(bench, "domain", 5, at("2026-06-10T10:15"))
    # Five units count from 11:00 on, two from 13:00 on; a quantity that was set between full hours only never counts.
    set_item(bench, "domain", 9, at("2026-06-10T12:20"))
    set_item(bench, "domain", 2, at("2026-06-10T12:40"))
    set_item(bench, "domain", 0, at("2026-06-10T14:30"))
    bench.booking(JULY)
    assert bills(bench.facts) == [("domain", 5 + 5 + 2 + 2, -14 * 1_000, "hours")]
    assert (bench.account.items, bench.account.month_ends_at_ms) == ([], 0)


def test_each_hour_costs_what_the_price_book_said_then() -> None:
    """A price changes in the middle of a month, between full hours: each price version has an entry that names it."""
    change = at("2026-06-15T12:30")
    bench = opened(prices=Prices([book("old", at("2026-05-01"), domain=1_000), book("new", change, domain=700)]))
    set_item(bench, "domain", 2, JUNE)
    hours_old = 14 * 24 + 13
    assert metered(bench.account.items[0], bench.prices, change) == (2 * hours_old, 2 * hours_old * 1_000)
    bench.booking(JULY)
    assert bills(bench.facts) == [
        ("domain", 2 * hours_old, -2 * hours_old * 1_000, "old"),
        ("domain", 2 * (720 - hours_old), -2 * (720 - hours_old) * 700, "new"),
    ]


def test_the_balance_may_not_go_below_zero_for_a_bill_and_the_rest_is_paid_when_credits_come() -> None:
    bench = opened()
    # The bill is 720 credits: 720 hours at 0.02 credits for 50 units. The allowance is 250.
    set_item(bench, "account", 50, JUNE)
    bench.booking(JULY)
    assert bills(bench.facts) == [("account", 50 * 720, -250 * CREDIT, "hours")]
    assert untold(bench.facts)[-1].reason == "out_of_credits"
    assert unpaid(bench.account.items) == 470 * CREDIT
    assert bench.charge("chat.message", at_ms=JULY).code == "out_of_credits"
    bench.top_up(20, at_ms=JULY + DAY_MS)
    # The hours are counted once, however many entries pay for them.
    assert bills(bench.facts)[1:] == [("account", 0, -470 * CREDIT, "hours")]
    assert unpaid(bench.account.items) == 0
    assert available(bench.account, "production") == bench.entries_sum() == (4_000 - 470) * CREDIT


def test_credits_that_a_job_gives_back_pay_what_is_due() -> None:
    bench = opened("hobby")
    set_item(bench, "account", 50, JUNE)
    hold_id = bench.hold("blog_post", 80, seconds=7 * 86_400, at_ms=JULY - HOUR_MS).entry_id
    bench.charge("blog_post", 3, at_ms=JULY - HOUR_MS)
    left = available(bench.account, "production")
    bench.booking(JULY)
    assert unpaid(bench.account.items) == 720 * CREDIT - left > 0
    command = ReleaseHold(project="p1", hold_id=hold_id, environment="", reason="timed out", **addressed())
    reply = command_reply(bench.booking(JULY + HOUR_MS), command, False)
    assert unpaid(bench.account.items) == 0
    assert reply.available == available(bench.account, "production") == (5_000 - 180 - 720) * CREDIT


def test_a_project_that_never_pays_states_each_months_debt_once() -> None:
    """A debt that was stated for every later month again would outgrow the room that one event has for facts."""
    bench = opened()
    set_item(bench, "account", 1_000, JUNE)
    set_item(bench, "domain", 1_000_000, JUNE)
    first = len(bench.facts)
    bench.booking(at("2031-06-01"))
    stated = bench.facts[first:]
    refusals = [(f.operation, f.occurred_at_ms) for f in stated if f.kind == "refusal"]
    assert len(refusals) == len(set(refusals)) == 2 * 60
    assert len(stated) < FACTS_PER_SLOT // 4
    assert available(bench.account, "production") == 0


def test_the_dearest_month_of_the_most_units_can_be_written_down() -> None:
    bench = opened(prices=Prices([book("dear", at("2026-05-01"), domain=HOURLY_RATE_MAX)]))
    set_item(bench, "domain", UNITS_MAX, JUNE)
    bench.booking(at("2026-08-01"))
    most = HOURLY_RATE_MAX * UNITS_MAX * 31 * 24
    assert bench.account.items[0].accruals[-1].amount == most < 1 << 63
    assert msgspec.msgpack.encode(bench.account)


def test_an_item_that_the_price_book_dropped_can_still_be_ended() -> None:
    change = at("2026-06-15")
    bench = opened(prices=Prices([book("old", at("2026-05-01"), domain=1_000), book("new", change)]))
    set_item(bench, "domain", 2, JUNE)
    assert set_item(bench, "domain", 3, change).code == "unknown_operation"
    assert set_item(bench, "other", 0, change).code == "unknown_operation"
    assert set_item(bench, "domain", 0, change).status == 200
    bench.booking(JULY)
    assert bills(bench.facts) == [("domain", 2 * 14 * 24, -2 * 14 * 24 * 1_000, "old")]


def test_a_closed_project_is_metered_no_more_and_billed_for_what_it_had() -> None:
    bench = opened(at_ms=JUNE)
    set_item(bench, "domain", 1, JUNE)
    closed_at_ms = JUNE + 10 * HOUR_MS
    command_reply(bench.booking(closed_at_ms), CloseProject(project="p1", reason="", **addressed()), False)
    bench.booking(JULY)
    assert bills(bench.facts) == [("domain", 10, -10_000, "hours")]
    assert bench.account.items == []


def test_the_bill_of_a_month_is_paid_from_that_months_allowance() -> None:
    """The bill comes first where the month ends and the allowance renews at the same instant."""
    bench = opened(at_ms=JUNE)
    set_item(bench, "account", 10, JUNE)
    bench.booking(JULY)
    kinds = [(f.kind, f.reason, f.amount) for f in bench.facts if f.occurred_at_ms == JULY]
    assert kinds == [
        ("charge", "recurring", -144 * CREDIT),
        ("expiry", "allowance", -106 * CREDIT),
        ("grant", "allowance", 250 * CREDIT),
    ]


def test_units_and_kinds_have_limits() -> None:
    bench = opened()
    for operation, quantity, code in (
        ("domain", -1, "invalid_request"),
        ("domain", 1_000_001, "invalid_request"),
        ("image", 1, "unknown_operation"),
    ):
        assert set_item(bench, operation, quantity, JUNE).code == code
    assert bench.account.items == []


def test_a_tick_and_a_later_touch_book_the_same() -> None:
    """The entries are the same whatever wakes the account, and whenever: only their place in the log and the time of
    booking differ."""
    prices = PublishPrices(project=PRICES_ID, book=book("hours", at("2026-05-01"), account=20_000), **addressed("c0"))
    job = usage("job", operation="website", occurred_at_ms=MAY_20)
    opening = [
        IntakeItem(0, MAY_20, prices),
        IntakeItem(1, MAY_20, create_project(plan="hobby")),
        IntakeItem(2, MAY_20, SetItem(project="p1", operation="account", quantity=400, **addressed("c1"))),
        IntakeItem(3, MAY_20, admit(job, "c2", hold_seconds=90_000)),
    ]
    later = at("2026-09-15")
    last = IntakeItem(999, later, Envelope([usage("e1", occurred_at_ms=later)]))
    ticks = [IntakeItem(4 + day, MAY_20 + (day + 1) * DAY_MS, Tick(["p1", "p9"])) for day in range(97)]

    def told(*items: IntakeItem) -> list[Fact]:
        facts = fold(0, items, {}, {}, Kept(), "intake").facts
        names = {fact.grant_id: f"grant {number}" for number, fact in enumerate(facts) if fact.kind == "grant"}
        for fact in facts:
            fact.grant_id = names.get(fact.grant_id, "")
            fact.offset = fact.index = fact.booked_at_ms = 0
        return facts

    lazily = told(*opening, last)
    assert told(*opening, *ticks, last) == lazily
    assert {fact.reason for fact in lazily} >= {"recurring", "allowance", "hobby", "out_of_credits", "expired"}
