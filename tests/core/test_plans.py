"""Renewal days."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    limits = {name: (plan.requests_per_minute, plan.burst) for name, plan in PLANS.items()}
    assert limits["free"] == (30, 60)
    assert limits["scale"] == (1_000, 2_000)
