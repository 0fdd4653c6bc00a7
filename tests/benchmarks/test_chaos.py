"""`meterline bench chaos`, in short, on a real stack; and its checks, which must see every error they are there for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest

from tests.benchmarks.chaos.check import compare, fold_history
from tests.benchmarks.chaos.faults import plan
from tests.benchmarks.chaos.load import Book, Told
from tests.benchmarks.chaos.run import ZERO_FIGURES, measure, passed

# The plan of this seed has everything in it: workers, API, broker and history killed, singly and together, both kinds
# of wipes.
SECONDS, SEED = 18.0, 37637


@pytest.mark.benchmark
def test_nothing_is_lost_or_billed_twice_while_parts_are_killed() -> None:
    result = measure(SECONDS, seed=SEED, projects=40, events_per_second=100.0, tell=print, least_kills=8)
    assert {name: result[name] for name in ZERO_FIGURES} == dict.fromkeys(ZERO_FIGURES, 0), result
    assert passed(result)
    assert result["kills"] >= 8
    assert result["events_acknowledged"] > 100
    assert result["admissions_by_status"]["200"] > 0
    assert result["duplicates_sent"] > 0
    assert result["data_dir"] is None


def test_one_seed_gives_one_plan() -> None:
    first = list(islice(plan(7), 200))
    assert first == list(islice(plan(7), 200))
    assert first != list(islice(plan(8), 200))
    assert {fault.kind for fault in first} >= {"kill_broker", "kill_api", "wipe_worker", "pause_worker", "stop_worker"}


# partition, offset, position, kind, project, quantity, amount, balance, reason, source, event_id, metadata
GRANT = (0, 1, 0, "grant", "p", 0, 100, 100, "allowance", "", "", "")
TOP_UP = (0, 2, 0, "grant", "p", 0, 50, 150, "top_up", "", "", '{"reference":"bundle-1"}')
EVENT = (0, 3, 0, "charge", "p", 1, -30, 120, "", "/chaos", "event-1", "")
ADMITTED = (0, 4, 0, "charge", "p", 1, -70, 50, "", "/admissions", "key:request-1", "")
ADMITTED_REST = (0, 4, 1, "charge", "p", 0, -20, 30, "", "/admissions", "key:request-1", "")
REFUSED = (0, 5, 0, "refusal", "p", 1, 0, 30, "out_of_credits", "/admissions", "key:request-2", "")
ROWS = [GRANT, TOP_UP, EVENT, ADMITTED, ADMITTED_REST, REFUSED]


def told() -> Book:
    book = Book()
    book.events["event-1"] = ("p", 30)
    book.admissions["/admissions", "key:request-1"] = Told("p", 90, 200, 90, "0-4-0")
    book.admissions["/admissions", "key:request-2"] = Told("p", 31, 402, 0, "0-5-0")
    book.top_ups["bundle-1"] = "p"
    return book


def wrong(book: Book, rows: Sequence[tuple[object, ...]], available: tuple[int, int] = (30, 30)) -> dict[str, int]:
    figures, examples = compare(book, fold_history(rows), {"p": available})
    found = {name: figure for name, figure in figures.items() if figure}
    assert bool(found) == bool(examples) or set(found) <= {
        "wrong_balances",
        "repeated_rows",
        "overspent_microcredits",
    }
    return found


def test_a_history_that_agrees_has_only_zeros() -> None:
    assert wrong(told(), ROWS) == {}


def test_what_was_acknowledged_and_is_not_there_is_lost() -> None:
    book = told()
    book.events["event-2"] = ("p", 1)
    book.admissions["/admissions", "key:request-3"] = Told("p", 1, 200, 1, "0-9-0")
    book.top_ups["bundle-2"] = "p"
    assert wrong(book, ROWS) == {"lost": 3}


@pytest.mark.parametrize(
    ("again", "figures"),
    [
        (EVENT, {"billed_twice": 1, "wrong_microcredits": 30}),
        (TOP_UP, {"billed_twice": 1}),
        (REFUSED, {"billed_twice": 1, "wrong_answers": 1}),
    ],
)
def test_what_is_there_twice_is_seen(again: tuple[object, ...], figures: dict[str, int]) -> None:
    amount = int(str(again[6]))
    second = (0, 6, 0, *again[3:7], 30 + amount, *again[8:])
    assert wrong(told(), [*ROWS, second], (30 + amount, 30 + amount)) == figures


def test_an_answer_that_the_history_does_not_bear_out_is_seen() -> None:
    book = told()
    book.admissions["/admissions", "key:request-1"] = Told("p", 90, 200, 89, "0-4-0")
    assert wrong(book, ROWS) == {"wrong_answers": 1}
    book.admissions["/admissions", "key:request-1"] = Told("p", 90, 402, 0, "0-4-0")
    assert wrong(book, ROWS) == {"wrong_answers": 1}


def test_a_refusal_that_credits_would_have_covered_is_seen() -> None:
    book = told()
    book.admissions["/admissions", "key:request-2"] = Told("p", 30, 402, 0, "0-5-0")
    assert wrong(book, ROWS) == {"refused_with_credits": 1}


def test_what_nobody_asked_for_is_seen() -> None:
    extra = (0, 6, 0, "charge", "p", 1, 0, 30, "", "/chaos", "event-9", "")
    assert wrong(told(), [*ROWS, extra]) == {"not_asked_for": 1}


def test_credits_below_zero_or_astray_are_seen() -> None:
    assert wrong(told(), ROWS, (30, 29)) == {"stranded_microcredits": 1}
    overdrawn = (0, 6, 0, "charge", "p", 1, -35, -5, "", "/chaos", "event-3", "")
    book = told()
    book.events["event-3"] = ("p", 35)
    assert wrong(book, [*ROWS, overdrawn], (-5, -5)) == {"overspent_microcredits": 5}
    misstated = (0, 6, 0, "charge", "p", 1, -5, 26, "", "/chaos", "event-3", "")
    book.events["event-3"] = ("p", 5)
    assert wrong(book, [*ROWS, misstated], (25, 25)) == {"wrong_balances": 1}


def test_a_row_that_stands_twice_is_seen() -> None:
    assert wrong(told(), [*ROWS[:1], *ROWS[:1], *ROWS[1:]], (130, 130))["repeated_rows"] == 1
