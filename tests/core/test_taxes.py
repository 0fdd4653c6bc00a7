"""Taxes are integer cents, rounded once, and the same on what is paid back as on what was paid."""

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.taxes import TaxRate
from streams.core.taxes import tax_cents


@given(st.integers(-(10**12), 10**12), st.integers(0, 1_000_000))
def test_a_tax_is_the_exact_share_rounded_half_away_from_zero(net: int, millionths: int) -> None:
    exact = Decimal(net) * millionths / 1_000_000
    assert tax_cents(net, millionths) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))
    assert tax_cents(-net, millionths) == -tax_cents(net, millionths)


@pytest.mark.parametrize(
    ("percent", "millionths"), [("0", 0), ("19", 190_000), ("8.875", 88_750), ("0.0001", 1), ("100", 1_000_000)]
)
def test_a_percent_is_read_exactly(percent: str, millionths: int) -> None:
    assert TaxRate(name="VAT", percent=percent).millionths == millionths


@pytest.mark.parametrize("percent", ["", "-1", "101", "100.5", "8.87512", "1e1", "19%", ".5", "5.", 19, 0.5])
def test_what_is_no_percent_is_refused(percent: object) -> None:
    with pytest.raises(ValidationError):
        TaxRate.model_validate({"name": "VAT", "percent": percent})


def test_a_tax_holds_from_a_month_until_another_both_included() -> None:
    tax = TaxRate(name="VAT", percent="16", from_month="2026-07", until_month="2026-12")
    held = [tax.holds_in(month) for month in ("2026-06", "2026-07", "2026-12", "2027-01")]
    assert held == [False, True, True, False]
    assert TaxRate(name="VAT", percent="19").holds_in("2020-01")
