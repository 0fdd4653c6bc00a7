"""Price books: which of them holds when, thirty days' notice, and what a use costs across a change."""

from typing import Any

import pytest

from schemas.accounts import Account
from schemas.commands import CaptureHold, PublishPrices, WithdrawPrices
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.core.fold import IntakeItem, fold
from streams.core.price_list import (
    BOOKS_MAX,
    OPERATIONS_MAX,
    PRICES_ID,
    Prices,
    check_book,
    increases,
    prices_from,
)
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, usage
from tests.core.test_ledger import Bench

RATES = FIRST_PRICE_BOOK.rates
GATES = FIRST_PRICE_BOOK.plan_required


def book(
    version: str = "new",
    days: int = 0,
    rates: dict[str, int] | None = None,
    gates: dict[str, str] | None = None,
    hourly: dict[str, int] | None = None,
    announced_at_ms: int = START_MS,
) -> PriceBook:
    """A price book announced at START_MS, in effect `days` later, with some rates changed."""
    changed = RATES | (rates or {})
    return PriceBook(version, START_MS + days * DAY_MS, changed, gates or GATES, hourly or {}, announced_at_ms)


def code(new: PriceBook, *announced: PriceBook) -> str:
    try:
        check_book(new, Prices(announced))
    except Rejection as rejection:
        return rejection.code
    return ""


def test_each_time_has_one_book() -> None:
    prices = Prices([book("b", 10), book("c", 20)])
    at = [prices.at(START_MS + days * DAY_MS).version for days in (-100, 0, 10, 19, 20, 1_000)]
    assert at == ["2026-01", "2026-01", "b", "b", "c", "c"]
    assert prices.at(START_MS + 10 * DAY_MS - 1).version == "2026-01"
    parts = prices.segments(START_MS, START_MS + 30 * DAY_MS)
    assert [(each.version, (to - start) // DAY_MS) for each, start, to in parts] == [
        ("2026-01", 10),
        ("b", 10),
        ("c", 10),
    ]


@pytest.mark.parametrize(
    "worse",
    [
        {"rates": {"image": RATES["image"] + 1}},
        {"rates": {"read": 1}},
        {"gates": GATES | {"image": "hobby"}},
        {"gates": {"video.premium": "scale"}},
    ],
)
def test_whatever_is_worse_for_anyone_takes_thirty_days_notice(worse: dict[str, Any]) -> None:
    assert code(book(days=29, **worse)) == "price_notice_too_short"
    assert code(book(days=30, **worse)) == ""


def test_what_disappears_is_an_increase_too() -> None:
    without = {name: rate for name, rate in RATES.items() if name != "image"}
    gone = PriceBook("gone", START_MS, without, GATES, {}, START_MS)
    assert increases([FIRST_PRICE_BOOK], gone) == ["image"]
    assert code(gone) == "price_notice_too_short"
    hourly = book("hourly", hourly={"domain": 5})
    assert code(book("dearer", 1, hourly={"domain": 6}), hourly) == "price_notice_too_short"
    assert code(book("dropped", 1), hourly) == "price_notice_too_short"


def test_what_disappears_and_comes_back_dearer_takes_notice_too() -> None:
    """Two books, a moment apart, would otherwise hide an increase that nobody was told of."""
    without = {name: rate for name, rate in RATES.items() if name != "image"}
    gone = PriceBook("gone", START_MS + 30 * DAY_MS, without, GATES, {}, START_MS)
    back: dict[str, Any] = {"days": 31, "announced_at_ms": START_MS + 29 * DAY_MS}
    assert code(book("dearer", **back, rates={"image": RATES["image"] + 1}), gone) == "price_notice_too_short"
    assert code(book("gated", **back, gates=GATES | {"image": "hobby"}), gone) == "price_notice_too_short"
    assert code(book("as-it-was", **back), gone) == ""
    hourly, dropped = book("hourly", 1, hourly={"domain": 5}), book("dropped", 31)
    again: dict[str, Any] = {"days": 32, "announced_at_ms": START_MS + 31 * DAY_MS}
    assert code(book("dearer", **again, hourly={"domain": 6}), hourly, dropped) == "price_notice_too_short"
    assert code(book("as-it-was", **again, hourly={"domain": 5}), hourly, dropped) == ""


def test_a_decrease_that_is_taken_back_soon_is_an_increase() -> None:
    cheap = book("cheap", 1, rates={"image": 1})
    assert code(book("back", 2), cheap) == "price_notice_too_short"
    assert code(book("back", 30), cheap) == ""


@pytest.mark.parametrize(
    "better",
    [
        {"rates": {"image": 1}},
        {"rates": {"brand.new": 900 * CREDIT}},
        {"hourly": {"domain": 5}},
        {"gates": {"video.premium": "hobby"}},
        {"rates": {"brand.new": 1}, "gates": GATES | {"brand.new": "scale"}},
    ],
)
def test_what_is_cheaper_or_new_counts_at_once(better: dict[str, Any]) -> None:
    assert code(book(**better)) == ""


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"version": "2026-01"}, "price_version_exists"),
        ({"version": "no spaces"}, "invalid_request"),
        ({"version": "x" * 33}, "invalid_request"),
        ({"announced_at_ms": START_MS + 1}, "invalid_request"),
        ({"rates": {"image": -1}}, "invalid_request"),
        ({"rates": {"Image!": 1}}, "invalid_request"),
        ({"hourly": {"image": 1}}, "invalid_request"),
        ({"hourly": {"domain": 10_000 * CREDIT + 1}}, "invalid_request"),
        ({"gates": GATES | {"image": "gold"}}, "invalid_request"),
        ({"gates": GATES | {"no.price": "build"}}, "invalid_request"),
    ],
)
def test_what_is_no_price_book_is_refused(wrong: dict[str, Any], expected: str) -> None:
    assert code(book(**wrong)) == expected


def test_a_book_has_no_more_prices_and_a_list_no_more_books_than_are_taken() -> None:
    many = {f"op{number}": 1 for number in range(OPERATIONS_MAX - len(RATES) - 1)}
    assert code(book(rates=many, hourly={"domain": 1})) == ""
    assert code(book(rates=many, hourly={"domain": 1, "storage": 1})) == "invalid_request"
    books = [book(f"b{number}", number) for number in range(1, BOOKS_MAX - 1)]
    assert code(book("last", BOOKS_MAX), *books) == ""
    assert code(book("last", BOOKS_MAX), *books, book("one more", BOOKS_MAX - 1)) == "invalid_request"


def test_a_book_takes_effect_after_those_announced_before_it() -> None:
    assert code(book("c", 10), book("b", 10)) == "invalid_request"
    assert code(book("c", 11), book("b", 10)) == ""


def test_a_use_costs_what_the_book_of_its_own_time_says() -> None:
    """A use costs what held when it occurred, and not when it is booked."""
    bench = Bench(prices=Prices([book("cheap", 10, {"image": 10 * CREDIT})]))
    cheap_at_ms = START_MS + 10 * DAY_MS
    for event_id, used_at_ms in (("late", cheap_at_ms - 1), ("new", cheap_at_ms)):
        used = usage(event_id, operation="image", occurred_at_ms=used_at_ms)
        bench.do(type(admit(used)), cheap_at_ms, usage=used, hold_seconds=0)
    charged = [(f.amount, f.price_version) for f in bench.facts if f.kind == "charge"]
    assert charged == [(-32 * CREDIT, "2026-01"), (-10 * CREDIT, "cheap")]


def test_a_capture_costs_what_was_held_whatever_prices_do() -> None:
    bench = Bench(prices=Prices([book("cheap", 1, {"image": 10 * CREDIT})]))
    placed = bench.hold("image", seconds=3 * 86_400)
    bench.do(CaptureHold, START_MS + 2 * DAY_MS, hold_id=placed.entry_id, environment="")
    assert (bench.facts[-1].amount, bench.facts[-1].price_version) == (-32 * CREDIT, "2026-01")


def test_a_surcharge_may_need_a_higher_plan_than_what_it_is_on() -> None:
    bench = Bench(prices=Prices([book("gated", gates=GATES | {"social_post.video": "hobby"})]))
    assert bench.charge("social_post.text", surcharge="social_post.image").code == ""
    assert bench.charge("social_post.text", surcharge="social_post.video").code == "plan_required"
    assert bench.hold("social_post.text", surcharge="social_post.video").code == "plan_required"


def test_an_operation_that_its_times_book_does_not_have_is_refused() -> None:
    bench = Bench(prices=Prices([book("new", 1, {"brand.new": CREDIT})]))
    reply = bench.charge("brand.new")
    assert (reply.code, bench.facts[-1].kind, bench.facts[-1].price_version) == (
        "unknown_operation",
        "refusal",
        "2026-01",
    )


class Log:
    """A log of one partition, decided by the owner's fold."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.seen: dict[bytes, int] = {}
        self.kept = Kept()

    def fold(self, *items: IntakeItem):
        return fold(0, items, self.accounts, self.seen, self.kept, "intake")


def publish(offset: int, new: PriceBook) -> IntakeItem:
    return IntakeItem(offset, START_MS, PublishPrices(project=PRICES_ID, book=new, **addressed(f"c{offset}")))


def use(offset: int, event_id: str) -> IntakeItem:
    return IntakeItem(offset, START_MS, admit(usage(event_id, operation="image"), f"c{offset}"))


def test_a_book_that_is_announced_again_is_there_once() -> None:
    """An announcement to many partitions may have been cut short, and is then made again to all of them."""
    log = Log()
    first = book("cheap", rates={"image": 10 * CREDIT})
    effects = log.fold(publish(0, first), publish(1, first), publish(2, book("cheap")))
    assert [reply.code for _, reply in effects.replies] == ["", "", "price_version_exists"]
    assert [(fact.kind, fact.reason) for fact in effects.facts] == [("price_book", "cheap")]
    assert len(log.accounts[PRICES_ID].books) == 1


def test_a_record_knows_the_books_that_were_announced_before_it() -> None:
    """A record decides by those books also where a crash has left the price list further on than an account."""
    records = [
        IntakeItem(0, START_MS, create_project()),
        use(1, "before"),
        publish(2, book("cheap", rates={"image": 10 * CREDIT})),
        use(3, "after"),
    ]
    whole = Log()
    facts = whole.fold(*records).facts
    assert [(f.amount, f.price_version) for f in facts if f.kind == "charge"] == [
        (-32 * CREDIT, "2026-01"),
        (-10 * CREDIT, "cheap"),
    ]
    repeated = Log()
    repeated.fold(*records)
    repeated.accounts = {PRICES_ID: repeated.accounts[PRICES_ID]}
    repeated.seen = {}
    assert repeated.fold(*records).facts == [fact for fact in facts if fact.kind != "price_book"]


def test_a_book_goes_behind_the_one_that_it_was_made_for_and_no_other() -> None:
    """Two operators may announce at once, or a partition may have missed a book: the second book is then refused there,
    and announced again in order."""
    prices = Prices([book("one", 1)])
    check_book(book("two", 2), prices, "one")
    check_book(book("two", 2), prices)
    with pytest.raises(Rejection) as refused:
        check_book(book("two", 2), prices, "2026-01")
    assert refused.value.code == "price_list_changed"


def withdraw(offset: int, old: PriceBook, at_ms: int = START_MS, *, is_decided: bool = False) -> IntakeItem:
    command = WithdrawPrices(project=PRICES_ID, book=old, is_decided=is_decided, **addressed(f"c{offset}"))
    return IntakeItem(offset, at_ms, command)


CHEAP = book("cheap", 1, {"image": 10 * CREDIT})
SOON_MS = START_MS + DAY_MS - 10 * 60_000


def test_uses_cost_as_if_a_withdrawn_book_had_never_been_announced() -> None:
    log = Log()
    later = START_MS + 2 * DAY_MS
    charges = [
        IntakeItem(offset, later, admit(usage(f"e{offset}", operation="image", occurred_at_ms=later), f"u{offset}"))
        for offset in (3, 4)
    ]
    opened = IntakeItem(0, START_MS, create_project())
    effects = log.fold(opened, publish(1, CHEAP), withdraw(2, CHEAP), *charges)
    assert [f.amount for f in effects.facts if f.kind == "charge"] == [-32 * CREDIT] * 2
    assert [(f.kind, f.reason) for f in effects.facts if f.project == PRICES_ID] == [
        ("price_book", "cheap"),
        ("price_withdrawal", "cheap"),
    ]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([publish(1, CHEAP), withdraw(2, CHEAP)], ["", ""]),
        ([publish(1, CHEAP), withdraw(2, CHEAP), withdraw(3, CHEAP)], ["", "", ""]),
        ([publish(1, CHEAP), withdraw(2, CHEAP, SOON_MS - 1)], ["", ""]),
        ([publish(1, CHEAP), withdraw(2, CHEAP, SOON_MS)], ["", "price_book_in_force"]),
        ([publish(1, CHEAP), withdraw(2, CHEAP, SOON_MS + DAY_MS)], ["", "price_book_in_force"]),
        ([publish(1, CHEAP), publish(2, book("after", 40)), withdraw(3, CHEAP)], ["", "", "price_list_changed"]),
        ([withdraw(1, CHEAP)], ["unknown_price_book"]),
        ([withdraw(1, FIRST_PRICE_BOOK)], ["unknown_price_book"]),
        ([publish(1, CHEAP), withdraw(2, CHEAP), publish(3, CHEAP)], ["", "", ""]),
        ([publish(1, CHEAP), withdraw(2, CHEAP), publish(3, book("cheap", 2))], ["", "", "price_version_exists"]),
        ([publish(1, CHEAP), withdraw(2, CHEAP), publish(3, book("after", 1))], ["", "", ""]),
    ],
)
def test_a_book_can_be_withdrawn_until_ten_minutes_before_it_takes_effect(
    records: list[IntakeItem], expected: list[str]
) -> None:
    log = Log()
    assert [reply.code for _, reply in log.fold(*records).replies] == expected
    there = prices_from(log.accounts[PRICES_ID].books).books if PRICES_ID in log.accounts else []
    assert ("cheap" in [each.version for each in there]) == (not any(map(is_taken_back, records, expected)))


def is_taken_back(record: IntakeItem, code: str) -> bool:
    return isinstance(record.body, WithdrawPrices) and code in ("", "unknown_price_book")


@pytest.mark.parametrize("before", [[], [publish(1, CHEAP)]])
def test_other_partitions_follow_the_first_whenever_and_whatever_they_have_been_told(before: list[IntakeItem]) -> None:
    log = Log()
    late = withdraw(2, CHEAP, START_MS + 9 * DAY_MS, is_decided=True)
    replies = log.fold(*before, late, publish(3, CHEAP), publish(4, book("after", 1))).replies
    assert {reply.code for _, reply in replies} == {""}
    known = prices_from(log.accounts[PRICES_ID].books)
    assert [each.version for each in known.books] == ["2026-01", "after"]
    assert known.is_withdrawn("cheap") and known.version("cheap") == CHEAP


def test_a_record_prices_by_the_books_that_held_at_its_place_also_after_a_crash() -> None:
    """The price list may be further on than the accounts: then a use before the withdrawal knows the book still."""
    at_once = book("at-once", rates={"image": 10 * CREDIT})
    records = [
        IntakeItem(0, START_MS, create_project()),
        publish(1, at_once),
        use(2, "before"),
        withdraw(3, at_once, is_decided=True),
        use(4, "after"),
    ]
    whole = Log()
    facts = whole.fold(*records).facts
    assert [f.amount for f in facts if f.kind == "charge"] == [-10 * CREDIT, -32 * CREDIT]
    repeated = Log()
    repeated.fold(*records)
    repeated.accounts = {PRICES_ID: repeated.accounts[PRICES_ID]}
    repeated.seen = {}
    assert repeated.fold(*records).facts == [fact for fact in facts if not fact.kind.startswith("price_")]
