"""Plans, top-up bundles, and the days an allowance renews on.

Figures: source pricing, "Plans" and "Top-ups"; source rate-limits, "Defaults".
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from schemas.accounts import Limits
from schemas.prices import MICROCREDITS_PER_CREDIT
from schemas.times import DAY_MS

_CREDIT = MICROCREDITS_PER_CREDIT
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan: its allowance in microcredits a month, its price in cents, and its limits a minute."""

    name: str
    rank: int
    allowance: int
    price_cents: int
    limits: Limits


# Enterprise is by contract: its allowance comes with the project, its limits start at Scale's.
#
# No document says how high the cost ceiling is, only what it is for: that a script run wild does not spend a month's
# credits in an hour. So the ceiling is a sixtieth of the allowance, and at least what the dearest operation costs.
PLANS = {
    plan.name: plan
    for plan in (
        Plan("free", 0, 250 * _CREDIT, 0, Limits(30, 60, 300 * _CREDIT)),
        Plan("hobby", 1, 5_000 * _CREDIT, 25_00, Limits(60, 120, 300 * _CREDIT)),
        Plan("build", 2, 25_000 * _CREDIT, 119_00, Limits(240, 480, 400 * _CREDIT)),
        Plan("scale", 3, 100_000 * _CREDIT, 399_00, Limits(1_000, 2_000, 1_600 * _CREDIT)),
        Plan("enterprise", 4, 0, 0, Limits(1_000, 2_000, 1_600 * _CREDIT)),
    )
}

# Dollars to microcredits; $0.005 a credit on any plan.
BUNDLES = {
    20: 4_000 * _CREDIT,
    100: 20_000 * _CREDIT,
    500: 100_000 * _CREDIT,
}

REFUND_DAYS = 30
# Half a cent a credit.
_MICROCREDITS_A_CENT = 2 * _CREDIT


def not_refundable(granted: int, remaining: int, granted_at_ms: int, now_ms: int, is_in_good_standing: bool) -> str:
    """The reason why the money of credits that were bought can't be given back, or "". Amounts in microcredits.

    Source: pricing, "Can I get a refund?".
    """
    if not is_in_good_standing:
        return "The project is not in good standing"
    if now_ms - granted_at_ms > REFUND_DAYS * DAY_MS:
        return f"They were bought more than {REFUND_DAYS} days ago"
    if 4 * (granted - remaining) > granted:
        return "More than a quarter of them is used"
    return ""


def refund_cents(microcredits: int, granted: int = 0, contract_cents: int = 0) -> int:
    """The price of unused credits in whole cents, rounded down: of a bundle, or of `granted` microcredits that cost
    `contract_cents`, if that is not 0."""
    return microcredits * contract_cents // granted if contract_cents else microcredits // _MICROCREDITS_A_CENT


def renewal_after(signed_up_at_ms: int, after_ms: int) -> int:
    """The first renewal later than `after_ms`, in Unix milliseconds.

    Renewals fall on the sign-up day of each month at the sign-up's time of day. A day that a month lacks becomes its
    last day, and the month after goes back to the sign-up day.
    """
    signed_up = _EPOCH + timedelta(milliseconds=signed_up_at_ms)
    after = _EPOCH + timedelta(milliseconds=after_ms)
    months = max(0, (after.year - signed_up.year) * 12 + after.month - signed_up.month)
    while True:
        renewal = _months_later(signed_up, months)
        if renewal > after and months > 0:
            return (renewal - _EPOCH) // timedelta(milliseconds=1)
        months += 1


def _months_later(start: datetime, months: int) -> datetime:
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return start.replace(year=year, month=month + 1, day=min(start.day, monthrange(year, month + 1)[1]))
