"""A lane says which delivery is next, and the cap holds at the receiver, however long attempts take to reach it."""

from hypothesis import given
from hypothesis import strategies as st

from streams.courier.lanes import FLYING_FIRST, FLYING_MAX, RATE_MS, SLOW_MS, Lane, RateCap, Width


def test_the_earliest_is_next_and_so_many_fly_at_once() -> None:
    width = Width()
    for _ in range(FLYING_MAX):
        width.note(5, True)
    lane = Lane(width)
    for number in range(FLYING_MAX + 5):
        lane.put(f"n{number:02}", (number, 0), 1000 - number)
    assert lane.next_at_ms() == 1000 - FLYING_MAX - 4
    taken = [lane.take() for _ in range(FLYING_MAX)]
    assert taken[:2] == [f"n{FLYING_MAX + 4:02}", f"n{FLYING_MAX + 3:02}"]
    assert lane.next_at_ms() is None
    lane.end(taken[0])
    lane.put(taken[1], (0, 0), 1)
    assert (lane.next_at_ms(), lane.take(), len(lane)) == (1, taken[1], FLYING_MAX + 4)


def test_who_takes_long_is_tried_less_at_once_until_it_is_quick_again() -> None:
    width = Width()
    lane = Lane(width)
    for number in range(100):
        lane.put(f"n{number:02}", (number, 0), number)
    for _ in range(FLYING_FIRST):
        assert lane.next_at_ms() is not None
        lane.take()
    assert lane.next_at_ms() is None
    # A quick refusal holds no place for long, and says nothing of how much the endpoint can take.
    width.note(5, False)
    assert (width.now, width.is_as_new) == (FLYING_FIRST, True)
    for expected in (2, 1, 1):
        width.note(SLOW_MS + 1, False)
        assert (width.now, width.is_slow, width.is_as_new) == (expected, True, False)
    for expected in (2, 3, 4, 4):
        width.note(SLOW_MS + 1, True)
        assert (width.now, width.is_slow) == (expected, True)
    width.note(SLOW_MS, True)
    assert (width.now, width.is_slow, width.is_as_new) == (5, False, True)
    for _ in range(FLYING_MAX):
        width.note(5, True)
    assert (width.now, width.is_as_new) == (FLYING_MAX, True)
    for expected in (16, 8, 4, 4):
        width.note(SLOW_MS + 1, True)
        assert width.now == expected


def test_in_order_a_notice_waits_for_the_one_before_it_whatever_becomes_of_that() -> None:
    lane = Lane()
    lane.put("b", (2, 0), 5)
    lane.put("a", (1, 0), 9)
    lane.order(True)
    assert (lane.next_at_ms(), lane.take(), lane.next_at_ms()) == (9, "a", None)
    lane.put("a", (1, 0), 700)
    assert (lane.next_at_ms(), lane.take()) == (700, "a")
    lane.end("a")
    assert (lane.next_at_ms(), lane.take(), len(lane), "a" in lane) == (5, "b", 1, False)
    lane.put("b", (2, 0), 8)
    lane.put("c", (3, 0), 6)
    lane.order(False)
    assert (lane.take(), lane.take(), lane.next_at_ms()) == ("c", "b", None)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2000)), min_size=1, max_size=60),
    st.data(),
)
def test_no_more_than_the_cap_reach_an_endpoint_in_any_second(
    limit: int, attempts: list[tuple[int, int]], data: st.DataObject
) -> None:
    cap, now = RateCap(limit), 0.0
    ends: list[float] = []
    arrivals: list[float] = []
    for wait_ms, took_ms in attempts:
        now += wait_ms
        while True:
            for end in sorted(each for each in ends if each <= now):
                ends.remove(end)
                cap.end(end)
            free_at = cap.free_at(now)
            if free_at == now:
                break
            now = free_at if free_at is not None and free_at <= min(ends, default=free_at) else min(ends)
        cap.start()
        ends.append(now + took_ms)
        arrivals.append(now + data.draw(st.integers(0, took_ms)))
    arrivals.sort()
    for first, last in zip(arrivals, arrivals[limit:], strict=False):
        assert last - first >= RATE_MS
