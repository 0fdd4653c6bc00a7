"""Plans: renewal days, and the figures of plans and bundles."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Limits
from schemas.prices import FIRST_PRICE_BOOK
from streams.core.plans import BUNDLES, PLANS, renewal_after

CASES = json.loads((Path(__file__).parent.parent / "conformance" / "renewal.json").read_text())["cases"]


def to_ms(day: str) -> int:
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def to_day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_conformance(case: dict) -> None:
    signed_up = after = to_ms(case["signed_up"])
    for expected in case["renewals"]:
        after = renewal_after(signed_up, after)
        assert to_day(after) == expected


@given(st.integers(0, 4_000_000_000_000), st.integers(0, 400 * 86_400_000))
def test_the_next_renewal_is_later_and_at_most_31_days_away(signed_up: int, later: int) -> None:
    after = signed_up + later
    renewal = renewal_after(signed_up, after)
    assert after < renewal <= after + 31 * 86_400_000
    signed, renewed = (date.fromisoformat(to_day(at)) for at in (signed_up, renewal))
    assert renewed.day == signed.day or (renewed.day < signed.day and (renewed.replace(day=28).month != 0))


def test_plans_and_bundles_are_the_price_lists() -> None:
    credits = {name: plan.allowance // 1_000_000 for name, plan in PLANS.items()}
    assert credits == {"free": 250, "hobby": 5_000, "build": 25_000, "scale": 100_000, "enterprise": 0}
    assert {usd: amount // 1_000_000 for usd, amount in BUNDLES.items()} == {20: 4_000, 100: 20_000, 500: 100_000}
    limits = {name: plan.limits for name, plan in PLANS.items()}
    assert limits["free"] == Limits(30, 60, 300_000_000)
    assert limits["hobby"] == Limits(60, 120, 300_000_000)
    assert limits["build"] == Limits(240, 480, 400_000_000)
    assert limits["scale"] == Limits(1_000, 2_000, 1_600_000_000)


def test_a_month_of_build_or_scale_takes_more_than_an_hour_to_spend_at_its_ceiling() -> None:
    for name in ("build", "scale"):
        assert PLANS[name].allowance > 60 * PLANS[name].limits.cost_ceiling
    dearest = max(FIRST_PRICE_BOOK.rates.values())
    assert all(plan.limits.cost_ceiling >= dearest for plan in PLANS.values())
