"""The schedule of deliveries, by examples, and over simulated hours and days of failure."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.courier import Delivery, EndpointHealth
from schemas.notices import Notice
from schemas.times import DAY_MS, HOUR_MS, MINUTE_MS
from streams.courier.schedule import (
    ATTEMPTS_MAX,
    DISABLING_FAILURES,
    RETRY_AFTER_MS,
    after_attempt,
    attempt_id,
    is_retry,
    jittered_ms,
)

AT_MS = 1_760_000_000_000


def delivery(number: int = 0, attempts: int = 0, earlier: int = 0) -> Delivery:
    notice = Notice(f"ntc-0-{number}-0", "project.credits_low", "prj_a", "production", AT_MS, "{}")
    return Delivery(notice, "prj_a", "ep_a", (number, 0), attempts, earlier, AT_MS)


def failed(waiting: Delivery, status: int = 500, pause: float | None = None, at_ms: int = AT_MS) -> int | None:
    """After how long a delivery is tried again that an answer of this status met; None where it is not."""
    after = after_attempt(waiting, None, status=status, is_delivered=False, asked_pause_seconds=pause, at_ms=at_ms)
    return None if after.delivery is None else after.delivery.next_at_ms - at_ms


def test_the_five_retries_come_after_their_pauses_give_or_take_a_fifth() -> None:
    assert RETRY_AFTER_MS == (10_000, 2 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS)
    for attempts, pause_ms in enumerate(RETRY_AFTER_MS):
        pauses = [failed(delivery(number, attempts)) or 0 for number in range(200)]
        assert 0.8 * pause_ms <= min(pauses) < 0.9 * pause_ms and 1.1 * pause_ms < max(pauses) <= 1.2 * pause_ms
        assert failed(delivery(3, attempts)) == pauses[3]
        # A replay begins anew, and goes on counting.
        assert failed(delivery(3, attempts + 4, 4)) in range(pause_ms * 8 // 10, pause_ms * 12 // 10 + 1)
    assert failed(delivery(0, ATTEMPTS_MAX - 1)) is None
    assert attempt_id(delivery(3, 4)) == "ep_a.ntc-0-3-0.5"
    assert [is_retry(delivery(0, attempts)) for attempts in (0, 1)] == [False, True]


@pytest.mark.parametrize(
    ("status", "pause", "expected_ms"),
    [
        (429, 60.0, 60_000),
        (503, 60.0, 60_000),
        (500, 60.0, None),
        (429, 1.0, None),
        (429, -5.0, None),
        (503, 10.0 * DAY_MS, DAY_MS),
        (503, math.inf, DAY_MS),
        (503, math.nan, None),
        (0, None, None),
    ],
)
def test_a_pause_that_is_asked_for_is_the_least(status: int, pause: float | None, expected_ms: int | None) -> None:
    scheduled_ms = jittered_ms(10_000, "ep_a.ntc-0-0-0.1")
    assert failed(delivery(), status, pause) == (expected_ms or scheduled_ms)


def test_an_endpoint_is_disabled_at_410_or_after_five_days_and_twenty_failures() -> None:
    def reason(failures: int, days: float, status: int = 500) -> str:
        health = EndpointHealth(AT_MS, failures - 1) if failures > 1 else None
        at_ms = AT_MS + round(days * DAY_MS)
        return after_attempt(
            delivery(), health, status=status, is_delivered=False, asked_pause_seconds=None, at_ms=at_ms
        ).disable_for

    assert "410" in reason(1, 0, 410)
    assert reason(DISABLING_FAILURES, 4.99) == "" == reason(DISABLING_FAILURES - 1, 9)
    assert reason(DISABLING_FAILURES, 5) == "20 attempts failed in 5 days, and none succeeded"
    sound = after_attempt(
        delivery(), EndpointHealth(AT_MS, 99), status=200, is_delivered=True, asked_pause_seconds=None, at_ms=AT_MS
    )
    assert sound.health is None and sound.delivery is None and sound.disable_for == ""


@given(st.lists(st.integers(0, 90 * MINUTE_MS), min_size=1, max_size=30), st.integers(0, 400))
def test_after_an_hour_of_failure_every_notice_arrives_in_six_attempts_at_most(stated: list[int], took_ms: int) -> None:
    waiting = [delivery(number) for number in range(len(stated))]
    due = list(stated)
    log: list[tuple[str, int, bool]] = []
    health: EndpointHealth | None = None
    left = set(range(len(stated)))
    while left:
        number = min(left, key=lambda each: (due[each], each))
        at_ms, is_up = due[number] + took_ms, due[number] >= HOUR_MS
        log.append((attempt_id(waiting[number]), due[number], is_retry(waiting[number])))
        after = after_attempt(
            waiting[number],
            health,
            status=200 if is_up else 503,
            is_delivered=is_up,
            asked_pause_seconds=None,
            at_ms=at_ms,
        )
        health = after.health
        if after.delivery is None:
            assert is_up, "it was given up"
            left.discard(number)
        else:
            waiting[number], due[number] = after.delivery, after.delivery.next_at_ms
    assert len({name for name, _, _ in log}) == len(log)
    for number in range(len(stated)):
        of_it = [(name, at_ms, is_billed) for name, at_ms, is_billed in log if f".ntc-0-{number}-0." in name]
        assert len(of_it) <= ATTEMPTS_MAX
        assert [name.rpartition(".")[2] for name, _, _ in of_it] == [str(n) for n in range(1, len(of_it) + 1)]
        # All but the first are billed.
        assert [is_billed for _, _, is_billed in of_it] == [False] + [True] * (len(of_it) - 1)
        for (_, before, _), (_, after_ms, _), pause_ms in zip(of_it, of_it[1:], RETRY_AFTER_MS, strict=False):
            assert abs(after_ms - before - took_ms - pause_ms) <= pause_ms // 5
