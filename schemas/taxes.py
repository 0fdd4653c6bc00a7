"""The rate of a tax, as a setting names it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

MILLIONTHS = 1_000_000
# Four places after the point: 8.875 is New York's, and no tax that is known has more.
PERCENT_PATTERN = r"^(100|\d{1,2}(\.\d{1,4})?)$"
_Month = Annotated[str, Field(pattern=r"^(20\d\d-(0[1-9]|1[0-2]))?$")]


class TaxRate(BaseModel, extra="forbid", frozen=True):
    """The rate of a tax on invoices, and the months, both included, that it holds in; "" is no bound.

    `percent` is decimal text. A rate that changes is two taxes of one name, so that earlier invoices stay as they
    are.
    """

    name: str = Field(min_length=1, max_length=60)
    percent: str = Field(pattern=PERCENT_PATTERN)
    from_month: _Month = ""
    until_month: _Month = ""

    @property
    def millionths(self) -> int:
        """The rate in millionths of what is taxed: 19 percent is 190,000."""
        whole, _, fraction = self.percent.partition(".")
        return int(whole) * 10_000 + int(fraction.ljust(4, "0"))

    def holds_in(self, month: str) -> bool:
        """Whether the tax holds in a month such as "2026-01"."""
        return self.from_month <= month and (not self.until_month or month <= self.until_month)
