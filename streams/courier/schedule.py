"""The schedule of deliveries: when an attempt follows another, and when an endpoint gets nothing any more.

Source: PRODUCT, "Being told": five retries, after 10 s, 2 min, 15 min, 1 h and 5 h, each ± 20%; `Retry-After` on 429
and 503 is honoured; 410 disables at once, and so do five days and 20 failures without a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from schemas.courier import Delivery, EndpointHealth
from schemas.times import DAY_MS, HOUR_MS, MINUTE_MS

RETRY_AFTER_MS: Final = (10_000, 2 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS)
ATTEMPTS_MAX: Final = 1 + len(RETRY_AFTER_MS)
JITTER_PERCENT: Final = 20
# An endpoint that asks for more than this is tried all the same.
ASKED_PAUSE_MS_MAX: Final = DAY_MS
DISABLING_FAILURES: Final = 20
DISABLING_MS: Final = 5 * DAY_MS
GONE: Final = 410
_BUSY: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class AfterAttempt:
    """An AfterAttempt says what follows: `delivery` waits for its next, or is None where there is none; `health` is the
    endpoint's then, None for a sound one; `disable_for` says why the endpoint is to be disabled, "" for not."""

    delivery: Delivery | None
    health: EndpointHealth | None
    disable_for: str


def attempt_id(delivery: Delivery) -> str:
    """The id of a delivery's next attempt. It follows from those made, so a repeat after a crash has the same id."""
    return f"{delivery.endpoint_id}.{delivery.notice.id}.{delivery.attempts + 1}"


def is_retry(delivery: Delivery) -> bool:
    """Whether a delivery's next attempt follows another, be it one before a replay."""
    return delivery.attempts > 0


def after_attempt(
    delivery: Delivery,
    health: EndpointHealth | None,
    *,
    status: int,
    is_delivered: bool,
    asked_pause_seconds: float | None,
    at_ms: int,
) -> AfterAttempt:
    """Say what follows from the attempt that ended at `at_ms` with an answer of `status`, 0 for none, that asked for a
    pause or did not."""
    if is_delivered:
        return AfterAttempt(None, None, "")
    failing = EndpointHealth(
        at_ms if health is None else health.failing_since_ms, 1 if health is None else health.failures + 1
    )
    disable_for = disabling_reason(failing, status, at_ms)
    tries = delivery.attempts - delivery.earlier
    if disable_for or tries >= len(RETRY_AFTER_MS):
        return AfterAttempt(None, failing, disable_for)
    pause_ms = jittered_ms(RETRY_AFTER_MS[tries], attempt_id(delivery))
    if status in _BUSY and asked_pause_seconds is not None:
        # NaN and infinities are no pauses; comparisons with the bounds leave them out.
        asked_ms = round(asked_pause_seconds * 1000) if 0 <= asked_pause_seconds <= ASKED_PAUSE_MS_MAX / 1000 else 0
        if asked_pause_seconds > ASKED_PAUSE_MS_MAX / 1000:
            asked_ms = ASKED_PAUSE_MS_MAX
        pause_ms = max(pause_ms, asked_ms)
    return AfterAttempt(_again(delivery, at_ms + pause_ms), failing, "")


def disabling_reason(health: EndpointHealth, status: int, at_ms: int) -> str:
    """Why an endpoint of this health, whose last answer had this status, is to be disabled; "" where it is not."""
    if status == GONE:
        return "it answered 410, and so asked for no more"
    if health.failures >= DISABLING_FAILURES and at_ms - health.failing_since_ms >= DISABLING_MS:
        days = (at_ms - health.failing_since_ms) // DAY_MS
        return f"{health.failures} attempts failed in {days} days, and none succeeded"
    return ""


def jittered_ms(pause_ms: int, name: str) -> int:
    """A pause made longer or shorter by up to JITTER_PERCENT, by a name: the same one each time."""
    span = 2 * JITTER_PERCENT * 10 + 1
    permille = int.from_bytes(sha256(name.encode()).digest()[:8], "big") % span - JITTER_PERCENT * 10
    return pause_ms + pause_ms * permille // 1000


def _again(delivery: Delivery, next_at_ms: int) -> Delivery:
    return Delivery(
        delivery.notice,
        delivery.account,
        delivery.endpoint_id,
        delivery.place,
        delivery.attempts + 1,
        delivery.earlier,
        next_at_ms,
    )
