"""Flows tell how long records wait and how long nothing moves; members tell a worker that ends again and again."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.flows import LOOKS_KEPT_MAX, Flow, Members, OpenTransactions


def test_a_record_waits_from_the_look_that_saw_it_first_until_it_is_taken() -> None:
    flow = Flow()
    flow.look(0, {0: 5, 1: 5}, {0: 5, 1: 5})
    assert (flow.records, flow.waiting_seconds(9), flow.still_seconds(9)) == (0, 0, 0)
    flow.look(10, {0: 5, 1: 5}, {0: 7, 1: 5})
    flow.look(12, {0: 6, 1: 5}, {0: 9, 1: 5})
    assert (flow.records, flow.waiting_seconds(13), flow.still_seconds(13)) == (3, 3, 1)
    flow.look(14, {0: 8, 1: 5}, {0: 9, 1: 5})
    assert flow.waiting_seconds(15) == 3, "offset 8 was there at 12"
    flow.look(16, {0: 9, 1: 5}, {0: 9, 1: 5})
    assert (flow.records, flow.waiting_seconds(17), flow.still_seconds(17)) == (0, 0, 0)


def test_a_flow_is_complete_up_to_the_last_look_of_which_all_is_taken() -> None:
    flow = Flow()
    assert flow.complete_at is None
    flow.look(0, {0: 4}, {0: 5})
    assert flow.complete_at is None, "record 4 has waited since before"
    flow.look(2, {0: 5}, {0: 7})
    assert flow.complete_at == 0
    flow.look(4, {0: 6}, {0: 9})
    assert flow.complete_at == 0
    flow.look(6, {0: 9}, {0: 9})
    assert flow.complete_at == 6
    flow.look(8, {0: 9}, {0: 10})
    flow.nothing_waits()
    assert flow.complete_at == 8


def test_a_backlog_that_shrinks_moves_though_its_records_wait() -> None:
    flow = Flow()
    for at in range(100):
        flow.look(at, {0: at}, {0: 1000})
    assert flow.still_seconds(99) == 0
    assert flow.waiting_seconds(99) == 99


def test_the_age_of_what_waits_is_told_however_long_it_waits() -> None:
    flow = Flow()
    for at in range(10 * LOOKS_KEPT_MAX):
        flow.look(at, {0: 0}, {0: 1 + at})
    assert flow.waiting_seconds(10 * LOOKS_KEPT_MAX) == 10 * LOOKS_KEPT_MAX
    assert len(flow._ends) <= LOOKS_KEPT_MAX


def test_what_turned_out_to_be_no_record_does_not_wait_until_more_comes() -> None:
    flow = Flow()
    for at in range(3):
        flow.look(at, {0: 4}, {0: 5})
    assert flow.waiting_at() == {0: (4, 5)}
    flow.nothing_waits()
    flow.look(3, {0: 4}, {0: 5})
    assert (flow.records, flow.waiting_seconds(4), flow.still_seconds(4)) == (0, 0, 0)
    flow.look(5, {0: 4}, {0: 6})
    assert (flow.records, flow.waiting_seconds(6)) == (2, 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_waiting_is_what_a_queue_of_times_says(steps: list[tuple[int, int]]) -> None:
    flow, queue = Flow(), list[int]()
    end = committed = 0
    for at, (came, taken) in enumerate(steps):
        queue += [at] * came
        end += came
        del queue[:taken]
        committed = min(end, committed + taken)
        flow.look(at, {0: committed}, {0: end})
        assert flow.records == len(queue)
        assert flow.waiting_seconds(at) == (at - queue[0] if queue else 0)


@pytest.mark.parametrize(
    ("looks", "is_looping"),
    [
        ("A A A A", False),
        ("A B C", False),
        ("A B C D", True),
        ("A - B - C - D", True),
        ("A B C D D D D D D D D D D D D D D D D D", False),
        ("AB BC CD DE EF", False),
        ("A -", False),
    ],
)
def test_a_worker_that_is_replaced_again_and_again_is_told_from_a_rollout(looks: str, is_looping: bool) -> None:
    members = Members()
    at = 0.0
    for at, names in zip(count(), looks.split(), strict=False):
        members.look(at, frozenset(names.replace("-", "")))
    assert members.is_looping(at) == is_looping
    assert not members.is_looping(at + 100)


def test_a_group_is_empty_since_its_last_member_left() -> None:
    members = Members()
    members.look(1, frozenset())
    assert (members.were_seen, members.empty_seconds(4)) == (False, 3)
    members.look(5, frozenset("A"))
    members.look(6, frozenset())
    members.look(7, frozenset())
    assert (members.were_seen, members.empty_seconds(9), members.joins) == (True, 3, 0)
    members.look(10, frozenset("BC"))
    assert (members.empty_seconds(11), members.joins) == (0, 2)


def test_a_transaction_is_open_while_records_wait_behind_an_offset_that_stands_still() -> None:
    transactions = OpenTransactions()
    transactions.look(1.0, {0: 5, 1: 7}, {0: 5, 1: 9})
    transactions.look(4.0, {0: 5, 1: 7}, {0: 6, 1: 12})
    assert transactions.seconds(5.0) == {0: 1.0, 1: 4.0}
    transactions.look(6.0, {0: 5, 1: 8}, {0: 6, 1: 12})
    assert transactions.seconds(6.0) == {0: 2.0, 1: 0.0}
    transactions.look(7.0, {0: 7, 1: 12}, {0: 7, 1: 12})
    assert transactions.seconds(9.0) == {}
